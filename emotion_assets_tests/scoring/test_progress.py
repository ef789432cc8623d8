"""Progress as people read it."""

from __future__ import annotations

import pytest

from emotion_assets.scoring.progress import RateLine, describe_rate, describe_seconds


def test_a_line_comes_every_ten_seconds_and_at_the_end_with_the_rate_since_the_start() -> None:
    clock, said = [0.0], []
    line = RateLine(said.append, lambda: clock[0])
    clock[0] = 100.0
    line.start(1000)
    for at, done in ((105, 1500), (112, 2200), (115, 2500), (120, 3000)):
        clock[0] = float(at)
        line(done, 3000)
    assert said == ["2,200 of 3,000 rows scored, 100 rows/s, 8 s left", "3,000 of 3,000 rows scored, 100 rows/s"]


@pytest.mark.parametrize(
    ("seconds", "told"), [(3, "3 s"), (89, "89 s"), (95, "2 min"), (3600, "60 min"), (7500, "2 h 05 min")]
)
def test_how_long(seconds: float, told: str) -> None:
    assert describe_seconds(seconds) == told


def test_without_a_total_or_a_rate_nothing_is_made_up() -> None:
    assert describe_rate(500, None, 500, 5) == "500 rows scored, 100 rows/s"
    assert describe_rate(0, 500, 0, 0) == "0 of 500 rows scored"
