"""Look at a file that nothing is known about: what it is, what it would give as the profile stands, and the settings
of its source that would make it give more.

Belongs here: what is seen in the file. Does not belong here: which columns and forms of dates that suggests
(``proposals``), how it is printed. Nothing is stored, and memory does not grow with the file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from emotion_assets.forms.csv import Csv, declared_delimiter, likeliest_delimiter, read_header
from emotion_assets.forms.encoding import marked_encoding, possible_encodings
from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.lines import first_filled, numbered_lines
from emotion_assets.forms.problems import Quarantine, Reason
from emotion_assets.forms.registry import recognise, unpacked
from emotion_assets.ingest.inbox import open_regular, safe_text, why_left_alone
from emotion_assets.ingest.proposals import Proposal, SeenColumn, Undated, may_be_id, propose, with_formats
from emotion_assets.ingest.readers import content_suffix, read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.ingest.sources import Source, make_source, source_name_of
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.feedback import FeedbackSettings, ReadingSettings, SourceSettings

LOOKED_AT = 10_000  # rows that columns are known by
_MOST_IDS = 8
_EXCERPT = 30  # characters on either side of the first that is beyond ASCII


@dataclass(frozen=True)
class Bytes:
    """What a file is before its rows.

    Attributes:
        encoding: that its rows are read in, None where the form has its own.
        marked: whether a byte order mark says so.
        complaint: why it is not read in the encoding that is configured, where it is not.
        samples: its first text beyond ASCII in each encoding that it may be in, where only a person can tell.
        delimiter: of CSV.
        declared: whether the file's first line says so.
    """

    form: Form
    compressed: bool
    encoding: str | None
    marked: bool
    complaint: str | None = None
    samples: dict[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    declared: bool = False


@dataclass(frozen=True)
class Outcome:
    """What reading the whole file gives: ``refused`` is why it would be set aside whole."""

    accepted: int
    rejected: Counter[Reason]
    undated: Undated
    refused: Quarantine | None = None


@dataclass(frozen=True)
class Inspection:
    """What was seen in a file.

    Attributes:
        left_alone: why it would not be opened in the inbox, whatever it holds.
        columns: of its first ``LOOKED_AT`` rows.
        present: what it gives as the profile stands.
        proposal: settings of its source that would change that, None where there is nothing to set.
        proposed: what it gives with them.
    """

    path: Path
    source: str
    left_alone: Reason | None
    bytes: Bytes
    columns: list[SeenColumn]
    present: Outcome
    proposal: Proposal | None
    proposed: Outcome | None


def inspect_file(path: Path, settings: FeedbackSettings, inbox: Path) -> Inspection:
    """Look at a file; one in the inbox is of its folder's source.

    Raises:
        UserError: it cannot be opened, or is nothing that is read; the line says what it is.
    """
    name = safe_text(str(path))
    source = safe_text(source_name_of(path, inbox))
    own = settings.sources.get(source, SourceSettings())
    how = make_source(settings, source)
    try:
        with open_regular(path) as stream, unpacked(stream, how.reading.max_unpacked_bytes) as plain:
            seen = _look_at_bytes(plain, compressed=plain is not stream, suffix=content_suffix(path), how=how)
            columns = _look_at_columns(plain, seen, how)
        left_alone = why_left_alone(path.name, os.lstat(path), 0, 0)
        present = _read(path, settings, source)
        proposal, proposed = None, None
        for candidate in propose(columns, own, source, encoding=_encoding_to_set(seen), delimiter=_delimiter_to_set(
            seen, present, how)):  # fmt: skip
            outcome = _read(path, _with_source(settings, source, candidate.settings), source)
            if outcome.refused is None or proposal is None:
                proposal, proposed = candidate, outcome
            if outcome.refused is None:
                break
    except Quarantine as quarantine:
        raise UserError(f"{name}: {quarantine.detail}") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); give the path of a feedback file") from None
    dated = with_formats(proposal, own, source, (proposed or present).undated)
    if dated is not None and dated != proposal:
        proposal, proposed = dated, _read(path, _with_source(settings, source, dated.settings), source)
    return Inspection(path, source, left_alone, seen, columns, present, proposal, proposed)


def _with_source(settings: FeedbackSettings, source: str, how: SourceSettings) -> FeedbackSettings:
    return settings.model_copy(update={"sources": {**settings.sources, source: how}})


def _look_at_bytes(stream: BinaryIO, *, compressed: bool, suffix: str, how: Source) -> Bytes:
    """Raises Quarantine where it is nothing that is read."""
    stream.seek(0)
    mark = marked_encoding(stream.read(4))
    complaint, samples, reading = None, {}, how.reading
    try:
        form, encoding = recognise(stream, suffix, reading, how.columns)
    except Quarantine as quarantine:
        fitting = possible_encodings(stream) if quarantine.reason_code == Reason.WRONG_ENCODING else []
        if not fitting and quarantine.reason_code == Reason.WRONG_ENCODING:
            raise Quarantine(
                Reason.UNKNOWN_FORM, "bytes that are no text and no form that is read; export it as .csv"
            ) from None
        if not fitting:
            raise
        complaint = quarantine.detail
        samples = _samples(stream, fitting)
        reading = reading.model_copy(update={"encoding": fitting[0]})
        form, encoding = recognise(stream, suffix, reading, how.columns)
    seen = Bytes(form, compressed, None if form.magic else encoding, mark is not None, complaint, samples)
    return _with_delimiter(seen, stream, reading, how.columns) if isinstance(form, Csv) else seen


def _with_delimiter(seen: Bytes, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Bytes:
    assert seen.encoding is not None
    stream.seek(0)
    first = first_filled(numbered_lines(stream, seen.encoding, reading.max_row_bytes))
    declared = declared_delimiter(first.content)
    try:
        delimiter = declared or read_header(first, reading, columns).delimiter
    except Quarantine:
        delimiter = likeliest_delimiter(first)
    return replace(seen, delimiter=delimiter, declared=declared is not None)


def _samples(stream: BinaryIO, encodings: list[str]) -> dict[str, str]:
    """The first text beyond ASCII as each encoding has it; in UTF-16 the beginning of the file."""
    stream.seek(0)
    samples = {}
    for encoding in encodings:
        if encoding.startswith("utf-16"):
            text = stream.read(4 * _EXCERPT).decode(encoding, "ignore")
        else:
            stream.seek(0)
            lines = numbered_lines(stream, "utf-8", 1 << 20)
            raw = next((line.content for line in lines if not line.content.isascii()), b"")
            text = raw.decode(encoding, "ignore")
            start = next((place for place, character in enumerate(text) if not character.isascii()), 0)
            text = text[max(0, start - _EXCERPT) : start + _EXCERPT]
        samples[encoding] = " ".join(text.split())
    return samples


def _look_at_columns(stream: BinaryIO, seen: Bytes, how: Source) -> list[SeenColumn]:
    """The columns of the first rows, under the names that the file gives them; none where it has no rows.

    Raises:
        Quarantine: the file is damaged before a row can be seen.
    """
    reading = how.reading.model_copy(
        update={"encoding": seen.encoding or how.reading.encoding, "delimiter": seen.delimiter or "auto"}
    )
    columns: dict[str, SeenColumn] = {}
    watched = 0
    stream.seek(0)
    with _rows_of(seen.form, stream, reading, how.columns.settings) as records:
        try:
            for row, _ in zip(records, range(LOOKED_AT), strict=False):
                if isinstance(row, Record):
                    for name, value in row.values.items():
                        if name not in columns and len(columns) < reading.max_columns:
                            watched += may_be_id(name)
                            columns[name] = SeenColumn(name, unique=may_be_id(name) and watched <= _MOST_IDS)
                        if name in columns:
                            columns[name].add(value)
        except Quarantine:
            if not columns:
                raise
    names = how.columns.rename(list(columns))
    for column, known_as in zip(columns.values(), names, strict=True):
        column.taken_as = known_as if known_as in how.columns.types else None
    return list(columns.values())


@contextmanager
def _rows_of(form: Form, stream: BinaryIO, reading: ReadingSettings, settings: str) -> Iterator[Iterator[object]]:
    """Every row with all its columns, none of which is needed."""
    anything = Columns(required=((),), loosely=True, settings=settings)
    records = form.records(stream, reading, anything)
    with closing(records):  # type: ignore[type-var]
        yield records


def _read(path: Path, settings: FeedbackSettings, source: str) -> Outcome:
    accepted, rejected, undated = 0, Counter[Reason](), Undated()
    try:
        for row in read_feedback(path, settings, source):
            if isinstance(row, Accepted):
                accepted += 1
                if row.undated is not None:
                    undated.add(row.undated, str(row.attributes["created_at"]))
            else:
                rejected[row.reason_code] += 1
    except Quarantine as quarantine:
        return Outcome(0, Counter(), Undated(), quarantine)
    return Outcome(accepted, rejected, undated)


def _encoding_to_set(seen: Bytes) -> str | None:
    return seen.encoding if seen.complaint is not None else None


def _delimiter_to_set(seen: Bytes, present: Outcome, how: Source) -> str | None:
    """The delimiter, where the one configured is not the file's, or none is and the header does not tell."""
    if seen.delimiter is None or seen.declared or how.reading.delimiter == seen.delimiter:
        return None
    ambiguous = present.refused is not None and present.refused.reason_code == Reason.AMBIGUOUS_DELIMITER
    return seen.delimiter if how.reading.delimiter != "auto" or ambiguous else None
