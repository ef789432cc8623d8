"""Strict CSV: RFC 4180 with one of four delimiters.

Belongs here: the header, quoting, what happens to rows whose quoting is broken. Does not belong here: bytes and line
ends (``lines``), and what the values mean.

The grammar: a field is either quoted as a whole, a quote inside it doubled, or holds no quote at all. Only a quoted
field may hold the delimiter or a line end. Lines end in LF or CRLF, also mixed; empty lines between rows are skipped.

A row on one line whose quoting is broken is rejected, and reading goes on with the next line. When a quoted field
spans lines and its row turns out broken, each of those lines is rejected by itself: one of them may be the row with
the stray quote and the others sound, or all may be pieces of one text, and a piece must not pass for a row. When the
quote stays open for more than ``max_row_bytes``, rows cannot be told apart any more and the file is quarantined.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.lines import Line, first_filled, numbered_lines
from emotion_assets.forms.problems import Quarantine, Reason, Rejected, RowProblem, check_sizes
from emotion_assets.settings.feedback import ReadingSettings

DELIMITERS = (",", ";", "\t", "|")
_MAX_RECORD_LINES = 10_000
_NOTHING = b",;|\t\r "


class Csv(Form):
    """Comma-separated values, or separated by one of three other characters."""

    title = "CSV"
    suffixes = (".csv", ".tsv")

    def claims(self, first_line: bytes, suffix: str, reading: ReadingSettings, columns: Columns) -> bool:
        if declared_delimiter(first_line) is not None:
            return True
        try:
            read_header(Line(1, first_line), reading, columns)
        except Quarantine:
            return False
        return True

    def records(self, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
        lines = numbered_lines(stream, reading.encoding, reading.max_row_bytes)
        first = first_filled(lines)
        if (declared := declared_delimiter(first.content)) is not None:
            reading, first = reading.model_copy(update={"delimiter": declared}), first_filled(lines)
        while not first.content.strip(_NOTHING):  # a spreadsheet's empty rows
            first = first_filled(lines)
        header = read_header(first, reading, columns)
        yield from csv_records(lines, header, reading)


def declared_delimiter(line: bytes) -> str | None:
    """The delimiter that Excel's own first line declares, as in ``sep=;``."""
    found = re.fullmatch(rb'"?sep=([!#-&*-/:;<->@\[-`{-~\t])"?\1*"?\s*', line.rstrip(b"\r\n"), re.IGNORECASE)
    return found.group(1).decode() if found else None


def likeliest_delimiter(line: Line) -> str:
    """The delimiter that splits a header into the most columns, for a header in which no column wanted is found."""
    text = line.content.decode("utf-8", "replace")
    return max(DELIMITERS, key=lambda delimiter: len(_split_header(text, delimiter) or ()))


@dataclass(frozen=True)
class Header:
    delimiter: str
    columns: tuple[str, ...]


def read_header(line: Line, settings: ReadingSettings, wanted: Columns) -> Header:
    """The columns that the first line names; the delimiter is detected by which one sets the required columns apart.

    Raises:
        Quarantine: the line is no usable header.
    """
    if len(line.content) > settings.max_row_bytes:
        code = Reason.BARE_CR if b"\r" in line.content else Reason.BAD_HEADER
        raise Quarantine(
            code, f"no line end within max_row_bytes {settings.max_row_bytes}; save the file with LF or CRLF"
        )
    try:
        text = line.content.decode("utf-8")
    except UnicodeDecodeError:
        raise Quarantine(
            Reason.WRONG_ENCODING,
            f"the header is not in {settings.encoding}; set {wanted.settings}.encoding or save as UTF-8",
        ) from None
    if "\0" in text:
        raise Quarantine(Reason.BAD_HEADER, "the header holds a NUL character; export the file again")
    if b"\r" in line.content.removesuffix(b"\r"):
        raise Quarantine(Reason.BARE_CR, "lines end in a carriage return alone; save the file with LF or CRLF")
    given = DELIMITERS if settings.delimiter == "auto" else (settings.delimiter,)
    splits = {delimiter: columns for delimiter in given if (columns := _split_header(text, delimiter)) is not None}
    if not splits:
        raise Quarantine(Reason.BAD_HEADER, f"the header is not RFC 4180: {text[:80]!r}; quote its names as that asks")
    fitting = {
        delimiter: columns
        for delimiter, columns in splits.items()
        if wanted.present_in(wanted.rename(columns)) is not None
    }
    if not fitting:
        raise Quarantine(Reason.MISSING_TEXT_COLUMN, wanted.describe_missing(max(splits.values(), key=len)))
    if len(fitting) > 1 and not all(len(columns) == 1 for columns in fitting.values()):
        raise Quarantine(Reason.AMBIGUOUS_DELIMITER, f"the header {text[:80]!r} can be split by several characters; "
                         f"set {wanted.settings}.delimiter")  # fmt: skip
    delimiter, columns = next(iter(fitting.items()))
    return Header(delimiter, check_columns(columns, settings.max_columns, wanted))


def check_columns(names: Sequence[str], max_columns: int, wanted: Columns) -> tuple[str, ...]:
    """Column names as ``Columns.rename`` gives them.

    Raises:
        Quarantine: there are too many, or where names count strictly one is there twice.
    """
    if len(names) > max_columns:
        raise Quarantine(Reason.TOO_MANY_COLUMNS, f"{len(names)} columns, max_columns is {max_columns}; drop some")
    columns = wanted.rename(names)
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            raise Quarantine(Reason.DUPLICATE_COLUMN, f"two columns are named {name[:80]!r}; rename one")
        seen.add(name)
    return columns


def csv_records(lines: Iterator[Line], header: Header, settings: ReadingSettings) -> Iterator[Record | Rejected]:
    """The rows after the header. ``row_number`` is the line a row starts on.

    Raises:
        Quarantine: a quote stays open for too long.
    """
    delimiter, max_row, max_field = header.delimiter, settings.max_row_bytes, settings.max_field_bytes
    record: _OpenRecord | None = None
    for line in lines:
        number, content, quotes_cut = line
        if record is None:
            if not content or content == b"\r":
                continue
            if len(content) > max_row:
                if (content.count(b'"') + quotes_cut) % 2:
                    raise _never_closed(number)
                yield RowProblem(Reason.ROW_TOO_LONG, f"longer than max_row_bytes {max_row}").at(number, content)
                continue
            if b'"' not in content:
                try:
                    if b"\0" in content:
                        raise RowProblem(Reason.NUL)
                    text = content.removesuffix(b"\r").decode("utf-8")
                    if "\r" in text:
                        raise RowProblem(Reason.BARE_CR)
                    yield _record(
                        number, text.split(delimiter), header, max_field if len(content) > max_field else None, content
                    )
                except UnicodeDecodeError as error:
                    yield _bad_encoding(error).at(number, content)
                except RowProblem as problem:
                    yield problem.at(number, content)
                continue
        current = record or _OpenRecord(number, delimiter)
        record = None
        try:
            if current.add(line, max_row):
                yield current.record(header, max_field)
            else:
                record = current
        except RowProblem as problem:
            yield from current.rejected(problem)
    if record is not None:
        yield from record.rejected(RowProblem(Reason.UNCLOSED_QUOTE, "the quote that opens on this line is not closed"))


def _record(number: int, fields: list[str], header: Header, max_field: int | None, raw: bytes) -> Record:
    if len(fields) != len(header.columns):
        raise RowProblem(Reason.WRONG_COLUMN_COUNT, f"{len(fields)} fields, the header has {len(header.columns)}")
    values: dict[str, Any] = dict(zip(header.columns, fields, strict=True))
    if max_field is not None:
        check_sizes(values, max_field)
    return Record(number, values, raw)


def _bad_encoding(error: UnicodeDecodeError) -> RowProblem:
    byte = error.object[error.start]
    return RowProblem(Reason.BAD_ENCODING, f"byte 0x{byte:02x} at position {error.start + 1} is no character")


def _never_closed(number: int) -> Quarantine:
    return Quarantine(
        Reason.UNCLOSED_QUOTE, f"a quote that opens on line {number} is not closed within max_row_bytes; fix that line"
    )


def _split_header(text: str, delimiter: str) -> list[str] | None:
    record = _OpenRecord(1, delimiter)
    try:
        return record.fields if record.scan(text) else None
    except RowProblem:
        return None


class _OpenRecord:
    """A row with quotes in it, fed line by line; each character is looked at once, however many lines there are.

    A row that grows over the limits is scanned to its end without being kept.
    """

    def __init__(self, start: int, delimiter: str) -> None:
        self.start = start
        self.delimiter = delimiter
        self.fields: list[str] = []
        self.lines: list[bytes] = []
        self._open: list[str] | None = None  # parts of the quoted field that is open
        self._size = 0
        self._fields_dropped = 0
        self._too_long = False
        self._problem: RowProblem | None = None  # of the content, while the boundaries are sound

    def add(self, line: Line, max_row: int) -> bool:
        """Whether the row ends with this line.

        Raises:
            RowProblem: its quoting is broken.
            Quarantine: it is, in a row so long that the lines cannot be rejected one by one.
        """
        if len(line.content) > max_row:
            raise _never_closed(self.start)
        self._size += len(line.content) + 1
        self._too_long = self._too_long or self._size > max_row + 1 or len(self.lines) >= _MAX_RECORD_LINES
        if not self._too_long:
            self.lines.append(line.content)
        try:
            text = line.content.decode("utf-8")
        except UnicodeDecodeError as error:
            self._problem = self._problem or _bad_encoding(error)
            text = line.content.decode("utf-8", "replace")
        if "\0" in text:
            self._problem = self._problem or RowProblem(Reason.NUL)
        ended = self.scan(text)
        if self._too_long:
            del self.lines[1:]
            self._fields_dropped += len(self.fields)
            self.fields = []
            self._open = None if ended else []
        return ended

    def record(self, header: Header, max_field: int) -> Record:
        """The row, once it has ended.

        Raises:
            RowProblem: it is to be rejected.
        """
        if self._too_long:
            if self._fields_dropped != len(header.columns):
                raise RowProblem(Reason.WRONG_COLUMN_COUNT)
            self._too_long = False
            raise RowProblem(Reason.ROW_TOO_LONG, "longer than max_row_bytes, or than 10,000 lines")
        if self._problem is not None and len(self.fields) == len(header.columns):
            del self.lines[1:]
            raise self._problem
        limit = max_field if self._size > max_field else None
        return _record(self.start, self.fields, header, limit, self.lines[0])

    def rejected(self, problem: RowProblem) -> Iterator[Rejected]:
        """The row's rejection, or one for each of its lines when where it ends is in doubt."""
        if self._too_long:
            raise _never_closed(self.start)
        yield problem.at(self.start, self.lines[0])
        if problem.reason_code in (Reason.BAD_QUOTE, Reason.UNCLOSED_QUOTE, Reason.WRONG_COLUMN_COUNT):
            inside = RowProblem(problem.reason_code, f"inside the quoted field that opens on line {self.start}")
            for number, content in enumerate(self.lines[1:], start=self.start + 1):
                if content.strip(b"\r"):
                    yield inside.at(number, content)

    def scan(self, text: str) -> bool:
        """Take in one line; whether the row ends with it. Raises RowProblem when a quote is where none may be."""
        position = 0
        while True:
            if self._open is not None:
                end = text.find('"', position)
                while end >= 0 and text.startswith('"', end + 1):
                    end = text.find('"', end + 2)
                if end < 0:
                    self._open.append(text[position:] + "\n")
                    return False
                self._open.append(text[position:end])
                self.fields.append("".join(self._open).replace('""', '"'))
                self._open = None
                position = end + 1
                if position == len(text) or (position == len(text) - 1 and text[position] == "\r"):
                    return True
                if text[position] != self.delimiter:
                    raise RowProblem(Reason.BAD_QUOTE)
                position += 1
            if text.startswith('"', position):
                self._open = []
                position += 1
                continue
            end = text.find(self.delimiter, position)
            value = text[position:end] if end >= 0 else text[position:].removesuffix("\r")
            if '"' in value:
                raise RowProblem(Reason.BAD_QUOTE)
            if "\r" in value:
                self._problem = self._problem or RowProblem(Reason.BARE_CR)
            self.fields.append(value)
            if end < 0:
                return True
            position = end + 1
