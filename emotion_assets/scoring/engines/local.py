"""The engine on this machine: the model in this process, or in several processes that each have it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

import pyarrow as pa

from emotion_assets.scoring.ahead import work_ahead
from emotion_assets.scoring.engines.engine import Engine, encode_scores, score_block
from emotion_assets.scoring.engines.parts import TRIES, join_parts, limit_threads
from emotion_assets.settings.cores import count_cores
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.scoring import ScoringSettings
from emotion_assets.storage.failpoints import failpoint

if TYPE_CHECKING:
    from emotion_assets.scoring.calibration import Calibration, Champion

AHEAD = 2  # blocks that wait between two steps, or for a worker


class LocalEngine(Engine):
    """One process: a thread reads and tokenises, one runs the model, and the caller's writes. Several processes: each
    reads, tokenises and scores whole parts of blocks, with its share of the cores."""

    def __init__(self, settings: ScoringSettings) -> None:
        self._workers = settings.workers or 1

    def answers(
        self, calibration: Calibration, blocks: Iterable[pa.RecordBatch]
    ) -> Generator[pa.RecordBatch, None, None]:
        if self._workers == 1:
            champion = calibration.load()
            prepared = work_ahead((champion.prepare(block["text"].to_pylist()) for block in blocks), AHEAD)
            answered = work_ahead((encode_scores(champion.answer(one)) for one in prepared), AHEAD)
        else:
            answered = join_parts(blocks, _Pool(calibration, self._workers).map)
        with closing(answered):
            yield from answered


@dataclass
class _Task:
    """A part that waits for its answers; ``future`` is another one after each try."""

    part: pa.RecordBatch
    future: Future[pa.RecordBatch]


class _Pool:
    """Processes that score. Where one is killed all are started anew, and what was under way is scored again."""

    def __init__(self, calibration: Calibration, workers: int) -> None:
        self._calibration, self._workers = calibration, workers
        self._executor = self._start()

    def map(self, parts: Iterable[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
        tasks: deque[_Task] = deque()
        try:
            for part in parts:
                tasks.append(_Task(part, self._submit(part, tasks)))
                if len(tasks) >= self._workers + AHEAD:
                    yield self._result(tasks)
            while tasks:
                yield self._result(tasks)
        finally:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self, part: pa.RecordBatch, tasks: Iterable[_Task]) -> Future[pa.RecordBatch]:
        try:
            return self._executor.submit(_score, part)
        except BrokenProcessPool:
            self._restart(tasks)
            return self._executor.submit(_score, part)

    def _result(self, tasks: deque[_Task]) -> pa.RecordBatch:
        """The answers of the first task, which is taken off."""
        for _ in range(TRIES):
            try:
                answers = tasks[0].future.result()
            except BrokenProcessPool:
                self._restart(tasks)
            else:
                tasks.popleft()
                return answers
        raise UserError(
            f"scoring: a worker process was killed {TRIES} times on the same texts, perhaps for want of memory; lower "
            "scoring.workers in the profile"
        )

    def _restart(self, tasks: Iterable[_Task]) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._start()
        for task in tasks:
            if not task.future.done() or task.future.cancelled() or task.future.exception() is not None:
                task.future = self._executor.submit(_score, task.part)

    def _start(self) -> ProcessPoolExecutor:
        threads = max(1, count_cores() // self._workers)
        return ProcessPoolExecutor(
            self._workers,
            multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(self._calibration, threads),
        )


# What follows runs in a worker process.

_calibration: Calibration | None = None
_champion: Champion | None = None


def _begin(calibration: Calibration, threads: int) -> None:
    """Set a worker up; the model is loaded with the first part, where an error finds its way back."""
    global _calibration
    _calibration = calibration
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _score(part: pa.RecordBatch) -> pa.RecordBatch:
    global _champion
    if _champion is None:
        assert _calibration is not None
        _champion = _calibration.load()
    failpoint("scoring.worker")
    return score_block(_champion, part)
