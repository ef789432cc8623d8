"""How fast scoring goes and how long it still takes, as a line that people read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from emotion_assets.forms.lines import READ_AHEAD_BYTES

EVERY_SECONDS = 10.0
EVERY_ROWS = 1000
R = TypeVar("R")


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

    def __call__(self, done: int, total: int | None = None, exact: bool = True) -> None:
        """``done`` rows of ``total`` (or of about as many), or of a number that is not known."""
        now = self._now()
        if now - self._said < EVERY_SECONDS and (done != total or not exact):
            return
        self._said = now
        self._say(describe_rate(done, total, done - self._first, now - self._began, exact))


class FileRows:
    """How many rows a file has: as many as it states, or else, of a text file, estimated by the share of its bytes that
    the rows read so far took. The estimate errs on the high side; of a small file there is none.

    Attributes:
        total: None as long as nothing is known.
        exact: whether ``total`` is more than an estimate.
    """

    def __init__(self, stated: int | None = None) -> None:
        self.total, self.exact = stated, stated is not None
        self._stream: BinaryIO | None = None

    def opened(self, stream: BinaryIO) -> None:
        """The text file whose rows come next, as ``read_records`` gives it."""
        self._stream = stream

    def counted(self, rows: Iterable[R]) -> Iterator[R]:
        """The same rows, all those of the file; looks now and then how far it has been read."""
        read = 0
        for read, row in enumerate(rows, 1):
            if read % EVERY_ROWS == 0 and self._stream is not None:
                passed = self._stream.tell() - READ_AHEAD_BYTES
                if passed > 0:
                    self.total = round(read * os.fstat(self._stream.fileno()).st_size / passed)
            yield row
        if self.total is not None:  # else nobody has been told of a total
            self.total, self.exact = read, True


def describe_rate(done: int, total: int | None, fresh: int, seconds: float, exact: bool = True) -> str:
    """``fresh`` of the rows were done in these ``seconds``; without ``exact`` the total is an estimate."""
    about = "" if exact else "about "
    rate = fresh / seconds if seconds > 0 else 0.0
    line = f"{done:,} rows scored" if total is None else f"{done:,} of {about}{total:,} rows scored"
    line += f", {rate:,.0f} rows/s" if rate else ""
    if total is None or done >= total or not rate:
        return line
    return f"{line}, {about}{describe_seconds((total - done) / rate)} left"


def describe_seconds(seconds: float) -> str:
    """``40 s``, ``3 min`` or ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
