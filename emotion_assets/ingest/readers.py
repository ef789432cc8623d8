"""Reading one feedback file, whatever its form: the only entrance is ``read_feedback``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emotion_assets.forms.form import Record
from emotion_assets.forms.problems import Rejected, RowProblem, summary
from emotion_assets.forms.registry import read_records
from emotion_assets.ingest.inbox import Unavailable, open_regular, safe_text
from emotion_assets.ingest.rows import FEEDBACK_COLUMNS, Accepted, accept
from emotion_assets.settings.schema import FeedbackSettings


def read_feedback(path: Path, settings: FeedbackSettings) -> Iterator[Accepted | Rejected]:
    """Every row of a feedback file in the file's order, in bounded memory.

    Nothing is left out: each row comes as Accepted or as Rejected, and what is yielded depends on the file's bytes and
    the settings alone. Blank lines are not rows.

    Raises:
        Quarantine: the file as a whole cannot be read; this may come after rows, which must then not be kept.
        Unavailable: it cannot be opened or read now; nothing is said about its content.
    """
    try:
        with open_regular(path) as stream:
            for row in read_records(stream, path.suffix.lower(), settings, FEEDBACK_COLUMNS):
                yield _judge(row) if isinstance(row, Record) else row
    except OSError as error:
        raise Unavailable(f"{safe_text(path.name)}: {error.strerror}; it is tried again at the next tick") from None


def _judge(record: Record) -> Accepted | Rejected:
    try:
        return accept(record.number, record.values)
    except RowProblem as problem:
        return problem.at(record.number, summary(record.values) if record.raw is None else record.raw)
