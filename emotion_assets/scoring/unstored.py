"""Scoring without storing: the rows of one feedback file, or whatever else gives rows.

Does not belong here: where rows come from (``ingest.readers``, ``cli.scoring``) and how a report is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from emotion_assets.forms.problems import Rejected
from emotion_assets.ingest.rows import Accepted
from emotion_assets.scoring.calibration import Answer, Calibration
from emotion_assets.scoring.decision import ABSTAIN
from emotion_assets.scoring.engines.engine import Engine, score_batches
from emotion_assets.storage.exports import writing_rows

FILE_SCORES = pa.schema(
    [
        ("row_number", pa.int64()),
        ("id", pa.string()),
        ("text", pa.string()),
        ("emotion", pa.string()),
        ("confidence", pa.float64()),
        ("status", pa.string()),
    ]
)
FILE_REJECTS = pa.schema(
    [("row_number", pa.int64()), ("reason_code", pa.string()), ("detail", pa.string()), ("raw_excerpt", pa.string())]
)
NAMED = 10
Show = Callable[[list[Accepted], list[Answer]], None]


@dataclass
class RowsReport:
    """What came out of scoring rows. ``named``: the first rows that were rejected."""

    model: str
    emotions: Counter[str] = field(default_factory=Counter)
    unsure: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    named: list[Rejected] = field(default_factory=list)

    @property
    def scored(self) -> int:
        return sum(self.emotions.values())

    def __str__(self) -> str:
        shares = ", ".join(f"{emotion} {n / self.scored:.0%}" for emotion, n in self.emotions.most_common())
        line = f"{self.scored} rows scored by {self.model}" + (f": {shares}" if shares else "")
        line += f"; {self.unsure} unsure" if self.unsure else ""
        return line + "".join(f"; {n} rejected as {reason}" for reason, n in self.rejects.most_common())


class _NothingScored(Exception):  # noqa: N818
    """No row was scored: the scores' file is not written."""


def score_rows(
    calibration: Calibration,
    rows: Iterable[Accepted | Rejected],
    engine: Engine,
    batch_size: int,
    output: Path | None = None,
    rejects: Path | None = None,
    show: Show = lambda rows, answers: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> RowsReport:
    """Score rows, in bounded memory, and count what came out; ``show`` gets each batch, ``progress`` the rows done.

    ``output`` (.csv or .parquet) gets the columns of ``FILE_SCORES``, unless no row was scored; ``rejects`` gets those
    of ``FILE_REJECTS``.

    Raises:
        Quarantine: the file that the rows come from cannot be read as a whole; neither file is written.
        UserError: as ``writing_rows`` and ``Engine.answers``.
    """
    report, done = RowsReport(calibration.name), 0
    progress(done)
    reject, accepted = writing(rejects, FILE_REJECTS), writing(output, FILE_SCORES)
    with reject as write_rejects, suppress(_NothingScored), accepted as write_scores:
        batches = make_batches(rows, batch_size)
        for batch, scores in score_batches(engine, calibration, batches, lambda batch: batch.texts):
            if batch.refused:
                report.rejects.update(str(one.reason_code) for one in batch.refused)
                report.named += batch.refused[: NAMED - len(report.named)]
                write_rejects(reject_batch(batch.refused))
            if scores is not None:
                answers = calibration.read(scores)
                report.emotions.update(answer.emotion for answer in answers)
                report.unsure += sum(answer.status == ABSTAIN for answer in answers)
                write_scores(score_batch(batch.accepted, answers))
                show(batch.accepted, answers)
            done += len(batch.accepted) + len(batch.refused)
            progress(done)
        if not report.scored:
            raise _NothingScored
    return report


@dataclass(frozen=True)
class Batch:
    """Rows that were read one after the other."""

    accepted: list[Accepted]
    refused: list[Rejected]

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self.accepted]


def make_batches(rows: Iterable[Accepted | Rejected], size: int) -> Iterator[Batch]:
    """Batches of at most ``size`` accepted and as many rejected rows."""
    batch = Batch([], [])
    for row in rows:
        part: list[Any] = batch.accepted if isinstance(row, Accepted) else batch.refused
        part.append(row)
        if len(part) == size:
            yield batch
            batch = Batch([], [])
    if batch.accepted or batch.refused:
        yield batch


def writing(path: Path | None, schema: pa.Schema) -> AbstractContextManager[Callable[[pa.RecordBatch], int]]:
    """As ``writing_rows``; where there is no path nothing is written."""
    return nullcontext(lambda batch: 0) if path is None else writing_rows(path, schema)


def score_batch(rows: list[Accepted], answers: list[Answer]) -> pa.RecordBatch:
    """Rows and their answers with the columns of ``FILE_SCORES``."""
    values = [
        (row.row_number, row.id, row.text, answer.emotion, answer.confidence, answer.status)
        for row, answer in zip(rows, answers, strict=True)
    ]
    return _record_batch(values, FILE_SCORES)


def reject_batch(rows: list[Rejected]) -> pa.RecordBatch:
    """Rejected rows with the columns of ``FILE_REJECTS``."""
    return _record_batch(
        [(row.row_number, str(row.reason_code), row.detail, row.raw_excerpt) for row in rows], FILE_REJECTS
    )


def _record_batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
