"""Scoring without storing: the rows of one feedback file, or whatever else gives rows.

Does not belong here: where rows come from (``ingest.readers``, ``cli.scoring``) and how a report is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from emotion_assets.forms.problems import Rejected
from emotion_assets.ingest.rows import Accepted
from emotion_assets.scoring.calibration import Answer, Champion
from emotion_assets.scoring.decision import ABSTAIN
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
    champion: Champion,
    rows: Iterable[Accepted | Rejected],
    batch_size: int,
    output: Path | None = None,
    rejects: Path | None = None,
    show: Show = lambda rows, answers: None,
) -> RowsReport:
    """Score rows, in bounded memory, and count what came out; ``show`` gets each batch.

    ``output`` (.csv or .parquet) gets the columns of ``FILE_SCORES``, unless no row was scored; ``rejects`` gets those
    of ``FILE_REJECTS``.

    Raises:
        Quarantine: the file that the rows come from cannot be read as a whole; neither file is written.
        UserError: as ``writing_rows``.
    """
    report = RowsReport(champion.model)
    reject, accepted = _writing(rejects, FILE_REJECTS), _writing(output, FILE_SCORES)
    with reject as write_rejects, suppress(_NothingScored), accepted as write_scores:
        batch: list[Accepted] = []
        refused: list[Rejected] = []
        for row in chain(rows, [None]):
            if isinstance(row, Accepted):
                batch.append(row)
            elif row is not None:
                refused.append(row)
            if refused and (row is None or len(refused) == batch_size):
                report.rejects.update(str(one.reason_code) for one in refused)
                report.named += refused[: NAMED - len(report.named)]
                write_rejects(_reject_batch(refused))
                refused = []
            if batch and (row is None or len(batch) == batch_size):
                answers = champion.score([one.text for one in batch])
                report.emotions.update(answer.emotion for answer in answers)
                report.unsure += sum(answer.status == ABSTAIN for answer in answers)
                write_scores(_score_batch(batch, answers))
                show(batch, answers)
                batch = []
        if not report.scored:
            raise _NothingScored
    return report


def _writing(path: Path | None, schema: pa.Schema) -> AbstractContextManager[Callable[[pa.RecordBatch], int]]:
    return nullcontext(lambda batch: 0) if path is None else writing_rows(path, schema)


def _score_batch(rows: list[Accepted], answers: list[Answer]) -> pa.RecordBatch:
    values = [
        (row.row_number, row.id, row.text, answer.emotion, answer.confidence, answer.status)
        for row, answer in zip(rows, answers, strict=True)
    ]
    return _batch(values, FILE_SCORES)


def _reject_batch(rows: list[Rejected]) -> pa.RecordBatch:
    return _batch([(row.row_number, str(row.reason_code), row.detail, row.raw_excerpt) for row in rows], FILE_REJECTS)


def _batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
