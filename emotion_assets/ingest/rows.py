"""What a row of feedback is: its text, id and time, and every other column as attributes.

A row is refused for its text alone. Does not belong here: how bytes become values (``forms``), forms of dates
(``moments``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

from emotion_assets.forms.problems import Reason, RowProblem
from emotion_assets.ingest.moments import UnreadableMoment, read_moment

# White space, controls, format characters (zero-width, direction marks), fillers and selectors: Unicode's categories
# Cc, Cf, Z*, Cs and Default_Ignorable_Code_Point, and the blank Braille pattern. (Unicode 15.1, DerivedCoreProperties)
_INVISIBLE = (
    "\x00-\x20\x7f-\xa0\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680"
    "\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ud800-\udfff"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_VISIBLE = re.compile(f"[^{_INVISIBLE}]")


class Accepted(NamedTuple):
    """A row to keep. ``row_number`` is the line it starts on (a CSV's header is line 1); in Parquet the row, from 1.

    ``id`` is None where the file gives none. ``created_at`` is in UTC. ``attributes`` holds every other column as
    values that ``json.dumps(..., allow_nan=False)`` takes. ``undated`` is the form of a ``created_at`` that cannot be
    read; the value itself is then among the attributes, under ``created_at``.
    """

    row_number: int
    id: str | None
    text: str
    created_at: datetime | None
    attributes: dict[str, Any]
    undated: str | None = None


def accept(row_number: int, values: dict[str, Any], formats: Sequence[str] = (), zone: tzinfo = UTC) -> Accepted:
    """The row of these values, of which text, id and created_at are taken out: the rest are its attributes.

    Args:
        formats, zone: see ``read_moment``.

    Raises:
        RowProblem: the text is not usable.
    """
    text = values.pop("text", None)
    if not isinstance(text, str):
        if text is None:
            raise RowProblem(Reason.MISSING_TEXT)
        raise RowProblem(Reason.TEXT_NOT_STRING, f"text is a {type(text).__name__}, not a string")
    if not _VISIBLE.search(text):
        raise RowProblem(Reason.EMPTY_TEXT)
    row_id = values.pop("id", None)
    if row_id is not None and type(row_id) is not str:
        row_id = _as_id(row_id, values)
    created_at = values.pop("created_at", None)
    undated = None
    if created_at is not None:
        try:
            created_at = read_moment(created_at, formats, zone)
        except UnreadableMoment as unreadable:
            undated = unreadable.form
            kept = isinstance(created_at, (str, int, float))
            values["created_at"] = created_at if kept else json.dumps(created_at, ensure_ascii=False, default=str)
            created_at = None
    return Accepted(row_number, row_id if row_id and not row_id.isspace() else None, text, created_at, values, undated)


def _as_id(value: Any, values: dict[str, Any]) -> str | None:
    """A number as an id: 1.0, which is what becomes of ids beside a missing one, is 1. What cannot be an id is kept
    among the attributes."""
    if type(value) is float and value != value:
        return None
    if type(value) is float and value.is_integer():
        return str(int(value))
    if type(value) in (int, float):
        return str(value)
    values["id"] = value
    return None
