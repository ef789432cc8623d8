"""Charts as inline SVG, drawn in the page's own colours so that they read in light and dark.

Belongs here: geometry. Does not belong here: colours and fonts (CSS classes in ``base.html``) and what is shown.
Drawings are about as wide as a phone; a wider screen puts several side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 12, 40

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A named point with the bounds of its interval in y; ``strong`` sets it off."""

    name: str
    x: float
    y: float
    low: float
    high: float
    strong: bool = False


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> Markup:
    """Points with vertical intervals over a logarithmic x axis; y is a share, shown in percent."""
    low, high = _padded(min(p.low for p in points), max(p.high for p in points))
    left, right = math.log10(min(p.x for p in points)), math.log10(max(p.x for p in points))
    left, right = math.floor(left - 0.05), math.ceil(right + 0.05)

    def x_at(value: float) -> float:
        return LEFT + (math.log10(value) - left) / max(right - left, 1) * (WIDTH - LEFT - RIGHT)

    def y_at(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [*_share_axis(low, high, y_at)]
    for power in range(left, right + 1):
        x = x_at(10**power)
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM, "grid"))
        parts.append(_text(x, HEIGHT - BOTTOM + 15, _format_power_of_ten(power), "tick middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "label middle"))
    places = [(x_at(p.x), y_at(p.y)) for p in points]
    for point, (x, y) in zip(points, places, strict=True):
        parts.append(_line(x, y_at(point.low), x, y_at(point.high), "whisker"))
        tip = f"{point.name}: {point.y:.1%} ({point.low:.1%} to {point.high:.1%})"
        mark = "mark strong" if point.strong else "mark"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="{mark}"><title>{escape(tip)}</title></circle>')
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for point, (x, y) in zip(points, places, strict=True):
        parts.extend(_place_label(point, x, y, taken))
    return _svg(parts, WIDTH, HEIGHT, f"{y_label} against {x_label}")


def reliability_diagram(bins: Sequence[tuple[float, float, int]], title: str) -> Markup:
    """Accuracy over confidence per bin (confidence, accuracy, rows); dots grow with rows, the diagonal is perfect."""
    size, left, edge = 170, 30, 8
    span = size - left - edge
    most = max(n for _, _, n in bins)

    def x_at(value: float) -> float:
        return left + value * span

    def y_at(value: float) -> float:
        return edge + (1 - value) * span

    parts = [f'<rect x="{left}" y="{edge}" width="{span}" height="{span}" class="frame"/>']
    for share in (0.0, 0.5, 1.0):
        parts.append(_text(x_at(share), size - 14, f"{share:.0%}", "tick middle"))
        parts.append(_text(left - 4, y_at(share) + 4, f"{share:.0%}", "tick end"))
    parts.append(_line(x_at(0), y_at(0), x_at(1), y_at(1), "diagonal"))
    for confidence, accuracy, n in bins:
        tip = f"{n} rows: {confidence:.0%} sure, {accuracy:.0%} right"
        x, y = x_at(confidence), y_at(accuracy)
        parts.append(_line(x, y_at(confidence), x, y, "gap"))
        radius = 2 + 4 * math.sqrt(n / most)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="mark"><title>{tip}</title></circle>')
    parts.append(_text(left + span / 2, size - 2, "how sure", "label middle"))
    return _svg(parts, size, size, title)


def histogram(edges: Sequence[float], series: Sequence[tuple[str, Sequence[int]]], x_label: str) -> Markup:
    """Shares of several groups over the same bins as lines, so that groups of unequal size can be compared."""
    height = 200
    lines = [(name, [n / max(1, sum(counts)) for n in counts]) for name, counts in series]
    top = max(max(shares) for _, shares in lines) * 1.08

    def x_at(value: float) -> float:
        return LEFT + (value - edges[0]) / (edges[-1] - edges[0]) * (WIDTH - LEFT - RIGHT)

    def y_at(share: float) -> float:
        return TOP + (1 - share / top) * (height - TOP - BOTTOM)

    parts = list(_share_axis(0, top, y_at))
    for value in _round_ticks(edges[0], edges[-1], 6):
        parts.append(_text(x_at(value), height - BOTTOM + 15, f"{value:g}", "tick middle"))
    for number, (name, shares) in enumerate(lines):
        path = " ".join(
            f"{'L' if i else 'M'}{x_at((a + b) / 2):.1f} {y_at(share):.1f}"
            for i, (a, b, share) in enumerate(zip(edges, edges[1:], shares, strict=False))
        )
        parts.append(f'<path d="{path}" class="line series{number}"><title>{escape(name)}</title></path>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 6, x_label, "label middle"))
    return _svg(parts, WIDTH, height, x_label)


def _place_label(point: Point, x: float, y: float, taken: list[Box]) -> list[str]:
    """The point's name where it covers no other name or point, with a line to the point when it is not beside it."""
    width, height = 6.1 * len(point.name), 11

    def box(side: int, step: int) -> Box:
        start = x + 9 if side > 0 else x - 9 - width
        return start, y + step - height / 2, start + width, y + step + height / 2

    def fits(place: Box) -> bool:
        inside = place[0] > LEFT - 4 and place[2] < WIDTH and place[1] > 0 and place[3] < HEIGHT - BOTTOM
        return inside and not any(_overlap(place, other) for other in taken)

    steps = sorted(range(-96, 97, 6), key=abs)
    places = [(box(side, step), step) for step in steps for side in (1, -1)]
    place, step = next(((b, s) for b, s in places if fits(b)), places[0])
    taken.append(place)
    name = _text(place[0], place[3] - 2, point.name, "name strong" if point.strong else "name")
    edge = place[0] - 1 if place[0] > x else place[2] + 1
    return [_line(x, y, edge, y + step, "lead"), name] if abs(step) > 6 else [name]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _share_axis(low: float, high: float, y_at: object) -> list[str]:
    assert callable(y_at)
    parts = []
    for share in _round_ticks(low, high, 5):
        digits = 0 if abs(share * 100 - round(share * 100)) < 1e-6 else 1
        parts.append(_line(LEFT, y_at(share), WIDTH - RIGHT, y_at(share), "grid"))
        parts.append(_text(LEFT - 5, y_at(share) + 4, f"{share * 100:.{digits}f}%", "tick end"))
    return parts


def _round_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values within the bounds, about ``wanted`` of them."""
    rough = (high - low) / wanted
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    room = max(high - low, 0.02) * 0.08
    return max(0.0, low - room), min(1.0, high + room)


def _format_power_of_ten(power: int) -> str:
    """1, 10, 100, 1k, 10k ... 1B."""
    thousands, rest = divmod(power, 3)
    return f"{10**rest}{('', 'k', 'M', 'B', 'T')[thousands]}" if power >= 0 else f"{10.0**power:g}"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _svg(parts: Sequence[str], width: int, height: int, title: str) -> Markup:
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>')
