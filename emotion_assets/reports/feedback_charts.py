"""The two charts of the feedback page as inline SVG, in the colours of ``base.html``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from markupsafe import Markup, escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 190, 62, 30, 16
SMALL_WIDTH, SMALL_HEIGHT = 180, 110


def volume_bars(periods: Sequence[tuple[date, int]], unit: str) -> Markup:
    """Rows per period as bars on a time axis, so that a period without rows is a gap."""
    first, last = periods[0][0], periods[-1][0]
    days = {"day": 1, "week": 7, "month": 30}[unit]
    span = (last - first).days + days
    most = max(n for _, n in periods)
    plot = HEIGHT - BOTTOM - TOP
    width = max(1.0, (WIDTH - LEFT) * days / span * 0.84)
    parts = []
    for share in (0.5, 1.0):
        y = TOP + (1 - share) * plot
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{round(most * share):,}</text>')
    for period, n in periods:
        x = LEFT + (WIDTH - LEFT) * (period - first).days / span
        height = n / most * plot
        tip = f"{unit} of {period:%d %b %Y}: {n:,} rows"
        parts.append(
            f'<rect x="{x:.1f}" y="{TOP + plot - height:.1f}" width="{width:.1f}" height="{height:.1f}" class="mark">'
            f"<title>{tip}</title></rect>"
        )
    parts += [
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{first:%d %b %Y}</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 6}" class="end">{last:%d %b %Y}</text>',
    ]
    return _svg(parts, WIDTH, HEIGHT, f"rows of feedback per {unit}")


def share_line(points: Sequence[tuple[date, float, float, float]], top: float, name: str) -> Markup:
    """A share over time (0 to ``top``) with the band of its interval; points are (period, share, low, high)."""
    first, last = points[0][0], points[-1][0]
    left, plot = 30, SMALL_HEIGHT - 22 - 6

    def x_at(period: date) -> float:
        return left + (SMALL_WIDTH - left - 4) * (period - first).days / max((last - first).days, 1)

    def y_at(share: float) -> float:
        return 6 + (1 - min(share, top) / top) * plot

    upper = [f"{x_at(period):.1f} {y_at(high):.1f}" for period, _, _, high in points]
    lower = [f"{x_at(period):.1f} {y_at(low):.1f}" for period, _, low, _ in reversed(points)]
    line = " L".join(f"{x_at(period):.1f} {y_at(share):.1f}" for period, share, _, _ in points)
    parts = []
    for share in (0.0, top / 2, top):
        parts.append(
            f'<line x1="{left}" y1="{y_at(share):.1f}" x2="{SMALL_WIDTH}" y2="{y_at(share):.1f}" class="grid"/>'
        )
        parts.append(f'<text x="{left - 4}" y="{y_at(share) + 4:.1f}" class="end">{share:.0%}</text>')
    parts += [
        f'<path d="M{" L".join(upper + lower)} Z" fill="var(--accent)" opacity=".18"/>',
        f'<path d="M{line}" class="line series0"/>',
        f'<text x="{left}" y="{SMALL_HEIGHT - 4}">{first:%d %b}</text>',
        f'<text x="{SMALL_WIDTH}" y="{SMALL_HEIGHT - 4}" class="end">{last:%d %b}</text>',
    ]
    return _svg(parts, SMALL_WIDTH, SMALL_HEIGHT, f"share of {name} over time")


def _svg(parts: Sequence[str], width: int, height: int, title: str) -> Markup:
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>')
