"""Fill a page template and put the page in its place, whole or not at all.

A page is one file that needs no network and no other file: styles and charts stand inside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from emotion_assets.storage.atomic import write_text_atomically


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("emotion_assets", "reports/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": count,
        "signed_points": signed_points,
        "duration": duration,
        "memory": memory,
    }
    return environment


def render(template: str, content: Mapping[str, Any]) -> str:
    """The page of ``templates/<template>`` with ``content``; every text in it is escaped."""
    return _environment().get_template(template).render(**content)


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> Path:
    """Render and replace ``path`` atomically."""
    write_text_atomically(path, render(template, content))
    return path


def percent(share: float | None, digits: int = 1) -> str:
    """0.9312 as ``93.1%``; nothing for None."""
    return "" if share is None else f"{share * 100:.{digits}f}%"


def signed_points(difference: float, digits: int = 1) -> str:
    """0.0123 as ``+1.2``: a difference of shares in percentage points."""
    return f"{difference * 100:+.{digits}f}".replace("-", "−")


def count(number: float | None) -> str:
    """A count that a person can read at once: 8.03 B, 22.7 M, 6,400; nothing for None."""
    if number is None:
        return ""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g} {letter}"
    return f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """0.42 s, 41 s, 12 min, 3.5 h; nothing for None."""
    if seconds is None:
        return ""
    size, unit = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= 1.5 * s or u == "s")
    value = seconds / size
    return f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"


def memory(megabytes: float | None) -> str:
    """512 MB, 17.3 GB; nothing for None."""
    if megabytes is None:
        return ""
    return f"{megabytes / 1024:.3g} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"
