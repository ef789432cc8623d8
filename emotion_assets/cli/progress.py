"""Progress of scoring in the terminal."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from emotion_assets.scoring.progress import FileRows, RateLine, describe_rate


class ShownProgress:
    """Progress on standard error: a bar where that is a terminal, else a line now and then."""

    def __init__(self, file: FileRows) -> None:
        self._file, self._first, self._began = file, -1, 0.0
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.completed:,} rows scored"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("scoring", total=file.total, rate="")
        self._terminal = console.is_terminal
        self._lines = RateLine(self.say)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def reached(self, rows: int) -> None:
        """The first call says where scoring begins."""
        total, exact = self._file.total, self._file.exact
        if total is not None and not exact:
            total = max(total, rows)
        if self._first < 0:
            self._first = rows
            self._lines.start(rows)
            self._began = time.monotonic()
        elif not self._terminal:
            self._lines(rows, total, exact)
        rate = describe_rate(rows, total, rows - self._first, time.monotonic() - self._began, exact)
        self._bar.update(self._task, completed=rows, total=total, rate=rate.partition(", ")[2])

    def __enter__(self) -> ShownProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
