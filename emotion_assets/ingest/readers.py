"""Reading one feedback file, whatever its form: the only entrance is ``read_feedback``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from emotion_assets.forms.form import Record
from emotion_assets.forms.problems import Quarantine, Reason, Rejected, RowProblem, summary
from emotion_assets.forms.registry import GZIP, read_records
from emotion_assets.ingest.inbox import Unavailable, open_regular, safe_text
from emotion_assets.ingest.rows import Accepted, accept
from emotion_assets.ingest.sources import DEFAULT, Source, make_source
from emotion_assets.settings.feedback import FeedbackSettings


def read_feedback(
    path: Path,
    settings: FeedbackSettings,
    source: str = DEFAULT,
    opened: Callable[[BinaryIO], None] = lambda plain: None,
) -> Iterator[Accepted | Rejected]:
    """Every row of a feedback file in the file's order, in bounded memory.

    Nothing is left out: each row comes as Accepted or as Rejected, and what is yielded depends on the file's bytes and
    the source's settings alone. Blank lines are not rows. ``opened`` is as of ``read_records``.

    Raises:
        Quarantine: the file as a whole cannot be read, or none of its objects has a text; this may come after rows,
            which must then not be kept.
        Unavailable: it cannot be opened or read now; nothing is said about its content.
    """
    how = make_source(settings, source)
    names: dict[str, None] = {}
    has_text = False
    rows, wrapping = 0, ""
    try:
        with open_regular(path) as stream:
            for row in read_records(stream, content_suffix(path), how.reading, how.columns, opened):
                rows += 1
                if isinstance(row, Record):
                    if rows == 1:
                        wrapping = what_wraps_rows(row.values)
                    has_text = has_text or "text" in row.values
                    if not has_text and len(names) < how.reading.max_columns:
                        names |= dict.fromkeys(row.values)
                    yield _judge(row, how)
                else:
                    yield row
    except OSError as error:
        raise Unavailable(f"{safe_text(path.name)}: {error.strerror}; it is tried again at the next tick") from None
    if rows == 1 and wrapping:
        raise Quarantine(Reason.UNKNOWN_FORM, wrapping)
    if names and not has_text:
        raise Quarantine(Reason.MISSING_TEXT_COLUMN, how.columns.describe_missing(list(names)))


def what_wraps_rows(values: dict[str, Any]) -> str:
    """What the only object of a file is, if it is no row but holds all of them; else nothing."""
    if isinstance(values.get("text"), (list, dict)):
        return "one JSON object of whole columns, not of rows; write a list of objects (pandas: orient='records')"
    for name, value in values.items():
        if "text" not in values and isinstance(value, list) and value and isinstance(value[0], dict):
            return f"one JSON object that holds its rows under {name[:80]!r}; give that list by itself"
    return ""


def content_suffix(path: Path) -> str:
    """The ending of a file's name, in lower case; of a compressed file the one before ``.gz``."""
    *others, last = ["", *(suffix.lower() for suffix in path.suffixes)]
    return others[-1] if last == GZIP else last


def _judge(record: Record, source: Source) -> Accepted | Rejected:
    try:
        return accept(record.number, record.values, source.formats, source.zone)
    except RowProblem as problem:
        return problem.at(record.number, summary(record.values) if record.raw is None else record.raw)
