"""Scores of a file, written in parts beside the output: cut off and run again, no finished part is scored twice.

The parts stand in a folder beside the output, each there whole or not at all, with a note of what they are the scores
of. When the last is finished they are joined, and the folder goes.

Does not belong here: rows without a file of their own (``unstored``), how an answer comes about (``engines``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count, groupby, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.forms.problems import Quarantine, Reason, Rejected
from emotion_assets.ingest.rows import Accepted
from emotion_assets.scoring import decision
from emotion_assets.scoring.calibration import Calibration
from emotion_assets.scoring.engines.engine import Engine, score_batches
from emotion_assets.scoring.unstored import (
    FILE_REJECTS,
    FILE_SCORES,
    NAMED,
    Batch,
    RowsReport,
    make_batches,
    reject_batch,
    score_batch,
    writing,
)
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.atomic import write_text_atomically
from emotion_assets.storage.exports import check_export, writing_rows
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.storage.locks import file_lock
from emotion_assets.storage.store import file_sha256, fingerprint

PART_ROWS = 65_536  # read, rejected ones too
NOTE = "about.json"
REASONS = {str(reason): reason for reason in Reason}
Write = Callable[[pa.RecordBatch], int]
Say = Callable[[str], None]
Progress = Callable[[int], None]
"""Told how many rows of the file are done, those of earlier runs too."""


@dataclass(frozen=True)
class FileJob:
    """A file to score.

    Attributes:
        rows: opens the file and gives its rows, the same ones each time.
        reading: fingerprint of the settings that decide what those rows are.
        rejects: the file that rejected rows are written to, if any.
    """

    source: Path
    rows: Callable[[], Iterable[Accepted | Rejected]]
    reading: str
    output: Path
    rejects: Path | None = None


def score_file(
    job: FileJob,
    calibration: Calibration,
    engine: Engine,
    batch_size: int,
    say: Say = lambda line: None,
    progress: Progress = lambda rows: None,
) -> RowsReport:
    """Score a file into ``job.output``, going on where an earlier run of the same job was cut off.

    Parts of another input, model or settings are thrown away, and ``say`` tells why. Where no row is scored the output
    stays as it was.

    Raises:
        Quarantine: the file cannot be read as a whole; nothing is written.
        UserError: the file changed while it was read, another command writes the same output, or as ``writing_rows``
            and ``Engine.answers``. What was finished stays, for the next run.
    """
    for target in (job.output, job.rejects):
        if target is not None:
            check_export(target)  # before anything is scored
    folder = job.output.parent / f".{job.output.name}.parts"
    lock = job.output.parent / f".{job.output.name}.lock"
    with file_lock(lock, 0, f"{job.output}"):
        try:
            parts, seen = _Parts(folder), _seen(job.source)
            done = parts.begin(_describe(job, calibration), say)
            progress(done * PART_ROWS)
            try:
                _score_parts(job, calibration, engine, batch_size, parts, done, progress)
            except Quarantine:
                parts.remove()
                raise
            if _seen(job.source) != seen:
                parts.remove()
                raise UserError(f"{job.source}: changed while it was read; run again when it is whole")
            report = parts.join(job, calibration.name)
            parts.remove()
            return report
        finally:
            lock.unlink(missing_ok=True)


def _describe(job: FileJob, calibration: Calibration) -> dict[str, str]:
    """What scores are the scores of: the same description, the same scores."""
    model = (
        calibration.digest,
        calibration.temperature,
        calibration.threshold,
        calibration.precision.number_format,
    )
    return {
        "input": file_sha256(job.source),
        "model": fingerprint(*model, decision.RULE),
        "settings": fingerprint(job.reading, PART_ROWS),
    }


def _seen(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _score_parts(
    job: FileJob,
    calibration: Calibration,
    engine: Engine,
    batch_size: int,
    parts: _Parts,
    done: int,
    progress: Progress,
) -> None:
    """Score the rows after the first ``done`` parts."""
    rows = iter(job.rows())
    for _ in islice(rows, done * PART_ROWS):
        pass
    scored = score_batches(engine, calibration, _in_parts(rows, done, batch_size), lambda item: item[1].texts)
    with closing(scored):
        for number, items in groupby(scored, key=lambda item: item[0][0]):
            rows_done = number * PART_ROWS
            with parts.writing(number) as (write_scores, write_rejects):
                for (_, batch), scores in items:
                    write_rejects(reject_batch(batch.refused))
                    if scores is not None:
                        write_scores(score_batch(batch.accepted, calibration.read(scores)))
                    rows_done += len(batch.accepted) + len(batch.refused)
                    progress(rows_done)
            failpoint("score.part")


def _in_parts(rows: Iterator[Accepted | Rejected], first: int, size: int) -> Iterator[tuple[int, Batch]]:
    """Batches with the number of their part, from ``first`` on; none reaches into the next part."""
    for number in count(first):
        started = False
        for batch in make_batches(islice(rows, PART_ROWS), size):
            started = True
            yield number, batch
        if not started:
            return


@dataclass(frozen=True)
class _Parts:
    """The folder of the parts. A part's rejected rows are there before its scores, which make it finished."""

    folder: Path

    def begin(self, description: dict[str, str], say: Say) -> int:
        """Make the folder ready for what is described; how many of its parts are finished."""
        note = self.folder / NOTE
        if note.is_file():
            before: dict[str, str] = json.loads(note.read_text(encoding="utf-8"))
            changed = [what for what in description if before.get(what) != description[what]]
            if not changed:
                done = next(number for number in count() if not self._scores(number).is_file())
                if done:
                    say(f"going on after {done * PART_ROWS:,} rows that an earlier run has done")
                return done
            say(f"the {' and the '.join(changed)} changed since the run that was cut off: scoring all rows anew")
        self.remove()
        self.folder.mkdir()
        write_text_atomically(note, json.dumps(description))
        return 0

    @contextmanager
    def writing(self, number: int) -> Iterator[tuple[Write, Write]]:
        """Functions that append scores and rejected rows to a part, which is finished after the block."""
        with (
            writing_rows(self._scores(number), FILE_SCORES) as scores,
            writing_rows(self._rejects(number), FILE_REJECTS) as rejects,
        ):
            yield scores, rejects

    def join(self, job: FileJob, model: str) -> RowsReport:
        """Write the files that were asked for, and count what is in them."""
        report = RowsReport(model)
        with writing(job.rejects, FILE_REJECTS) as write:
            for batch in self._read(self._rejects):
                write(batch)
                for row in batch.to_pylist():
                    report.rejects[row["reason_code"]] += 1
                    if len(report.named) < NAMED:
                        report.named.append(Rejected(**row | {"reason_code": REASONS[row["reason_code"]]}))
        if not any(batch.num_rows for batch in self._read(self._scores)):
            return report
        with writing(job.output, FILE_SCORES) as write:
            for batch in self._read(self._scores):
                write(batch)
                report.emotions.update(batch["emotion"].to_pylist())
                report.unsure += batch["status"].to_pylist().count(decision.ABSTAIN)
        return report

    def remove(self) -> None:
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _read(self, path_of: Callable[[int], Path]) -> Iterator[pa.RecordBatch]:
        for number in count():
            if not path_of(number).is_file():
                return
            with pq.ParquetFile(path_of(number)) as file:
                yield from file.iter_batches()

    def _scores(self, number: int) -> Path:
        return self.folder / f"{number:06d}.scores.parquet"

    def _rejects(self, number: int) -> Path:
        return self.folder / f"{number:06d}.rejects.parquet"
