"""How fast scoring goes and how long it still takes, as a line that people read."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 10.0


class RateLine:
    """Says, every ten seconds and at the end, how many rows are done, how many in a second, and how long it takes yet.

    The rate is of the rows since ``start``, so that rows of an earlier run, or set-up, do not count.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._say, self._now = say, now
        self._began = self._said = now()
        self._first = 0

    def start(self, done: int) -> None:
        self._began = self._said = self._now()
        self._first = done

    def __call__(self, done: int, total: int | None = None) -> None:
        """``done`` rows of ``total``, or of a number that is not known."""
        now = self._now()
        if now - self._said < EVERY_SECONDS and done != total:
            return
        self._said = now
        self._say(describe_rate(done, total, done - self._first, now - self._began))


def describe_rate(done: int, total: int | None, fresh: int, seconds: float) -> str:
    """``fresh`` of the rows were done in these ``seconds``."""
    rate = fresh / seconds if seconds > 0 else 0.0
    line = f"{done:,} rows scored" if total is None else f"{done:,} of {total:,} rows scored"
    line += f", {rate:,.0f} rows/s" if rate else ""
    if total is None or done >= total or not rate:
        return line
    return f"{line}, {describe_seconds((total - done) / rate)} left"


def describe_seconds(seconds: float) -> str:
    """``40 s``, ``3 min`` or ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
