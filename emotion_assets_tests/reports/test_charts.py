"""Chart geometry that a person would notice if it were wrong."""

from __future__ import annotations

import re

import pytest

from emotion_assets.reports.charts import HEIGHT, WIDTH, Point, histogram, reliability_diagram, scatter
from emotion_assets.reports.render import count, duration, memory, percent, signed_points


def test_names_in_a_scatter_stay_inside_and_do_not_cover_each_other() -> None:
    points = [Point(f"model_number_{i}", 1e6 * (1 + i / 10), 0.9 + i / 1000, 0.88, 0.93) for i in range(7)]
    svg = scatter(points, "parameters", "accuracy")
    names = [
        (float(x), float(y), len(name))
        for x, y, name in re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)" class="name">([^<]+)</text>', svg)
    ]
    assert len(names) == 7
    for i, (x, y, length) in enumerate(names):
        assert x > 0 and x + 6 * length < WIDTH and 0 < y < HEIGHT
        for other_x, other_y, other_length in names[i + 1 :]:
            apart = abs(y - other_y) >= 10 or x + 6 * length <= other_x or other_x + 6 * other_length <= x
            assert apart


def test_a_more_accurate_and_larger_model_stands_higher_and_further_right() -> None:
    svg = scatter([Point("small", 1e5, 0.8, 0.78, 0.82), Point("large", 1e9, 0.9, 0.88, 0.92)], "x", "y")
    (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert x2 > x1 and y2 < y1


def test_a_perfectly_calibrated_bin_lies_on_the_diagonal() -> None:
    svg = reliability_diagram([(0.25, 0.25, 10), (0.75, 0.75, 40)], "title")
    (x1, y1), (x2, y2), *_ = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert x2 - x1 == pytest.approx(y1 - y2, abs=0.2)


def test_a_name_with_markup_is_escaped() -> None:
    assert "<b>" not in scatter([Point("<b>", 10, 0.5, 0.4, 0.6)], "x", "y")
    assert "<b>" not in histogram([0, 1, 2], [("<b>", [1, 2])], "words")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(8_030_000_000), "8.03 B"),
        (count(22_700_000), "22.7 M"),
        (count(118_992), "119 k"),
        (count(6400), "6,400"),
        (count(None), ""),
        (duration(0.42), "0.42 s"),
        (duration(41), "41 s"),
        (duration(720), "12 min"),
        (duration(12600), "3.5 h"),
        (memory(512), "512 MB"),
        (memory(17715), "17.3 GB"),
        (percent(0.9262, 2), "92.62%"),
        (signed_points(-0.0123), "−1.2"),
    ],
)
def test_numbers_are_written_as_a_person_reads_them(shown: str, expected: str) -> None:
    assert shown == expected
