"""Excel workbooks (.xlsx): the first sheet that is no chart.

Its header is the first row that is not empty; a title above it, of fewer cells, is passed over.
Read by calamine (https://github.com/tafia/calamine) in a process of its own, whose memory is limited.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, BinaryIO

from emotion_assets.forms.csv import check_columns
from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.parquet_process import read_apart
from emotion_assets.forms.problems import (
    Quarantine,
    Reason,
    Rejected,
    RowProblem,
    check_characters,
    check_sizes,
    summary,
)
from emotion_assets.settings.feedback import ReadingSettings

WORKBOOK = "xl/workbook.xml"
_MOST_TITLES = 20  # rows that are looked at for the header


class Xlsx(Form):
    """An Excel workbook."""

    title = "an Excel workbook, its first sheet"
    suffixes = (".xlsx",)
    magic = b"PK\x03\x04"

    def records(self, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
        return read_apart(xlsx_records, stream, reading, columns, Reason.DAMAGED)


def xlsx_records(stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
    """The rows of the first sheet, read in this process; ``number`` is a row's number in the sheet.

    Raises:
        Quarantine: it is no workbook, damaged, unpacks to too much, or its header lacks the columns required.
    """
    _check_zip(stream, reading.max_unpacked_bytes)
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum

    try:
        stream.seek(0)
        book = CalamineWorkbook.from_filelike(stream)
        tables = [place for place, about in enumerate(book.sheets_metadata) if about.typ == SheetTypeEnum.WorkSheet]
        sheet = book.get_sheet_by_index(tables[0] if tables else 0)  # charts have sheets of their own
        first = sheet.start[0] + 1 if sheet.start else 1
        rows = enumerate(sheet.iter_rows(), first)
    except PasswordError:
        raise Quarantine(Reason.UNKNOWN_FORM, "a workbook with a password; save it without one") from None
    except CalamineError as error:
        raise Quarantine(Reason.DAMAGED, f"no readable workbook ({str(error)[:120]}); save it again") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what Rust gives up with; no module exports it
            raise
        raise Quarantine(Reason.DAMAGED, "the library that reads workbooks gives up on it; save it again") from None
    named = check_columns(_header(rows, columns), reading.max_columns, columns)
    for number, cells in rows:
        if any(cell != "" for cell in cells):
            yield _row(number, dict(zip(named, cells, strict=False)), reading, columns)


def _header(rows: Iterator[tuple[int, list[Any]]], columns: Columns) -> list[str]:
    """The names of the columns; those rows before that are a title are taken off ``rows`` too."""
    names: list[str] = []
    above: list[list[str]] = []
    for _, cells in rows:
        names = [_text(cell) for cell in cells]
        while names and not names[-1]:
            names.pop()
        if not names:
            continue
        fits = columns.present_in(columns.rename(names)) is not None
        if fits and _filled(names) > max(map(_filled, above), default=0):
            return names
        above.append(names)
        if len(above) == _MOST_TITLES:
            break
    if not above:
        raise Quarantine(Reason.EMPTY_FILE, "the first sheet is empty; put the rows there")
    raise Quarantine(Reason.MISSING_TEXT_COLUMN, columns.describe_missing(max(above, key=_filled)))


def _filled(names: Sequence[str]) -> int:
    return sum(name != "" for name in names)


def _row(number: int, values: dict[str, Any], reading: ReadingSettings, columns: Columns) -> Record | Rejected:
    values = {name: _value(cell, columns.types.get(name)) for name, cell in values.items()}
    try:
        check_characters(values)
        check_sizes({name: value for name, value in values.items() if isinstance(value, str)}, reading.max_field_bytes)
    except RowProblem as problem:
        return problem.at(number, summary(values))
    return Record(number, values)


def _value(cell: Any, wanted: str | None) -> Any:
    """A cell as JSON has it, or as the column asks; an empty one is null. Excel keeps every number as a float."""
    if cell == "":
        return None
    if wanted == "moment" and isinstance(cell, (datetime, date)):
        return cell
    if wanted == "string":
        return _text(cell)
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() and abs(cell) < 2**53 else cell
    if isinstance(cell, (datetime, date, time)):
        return cell.isoformat()
    return str(cell) if isinstance(cell, timedelta) else cell


def _text(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell)


def _check_zip(stream: BinaryIO, max_unpacked_bytes: int) -> None:
    try:
        with zipfile.ZipFile(stream) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, struct.error, ValueError, OSError):
        raise Quarantine(Reason.DAMAGED, "a zip file that is damaged or cut off; deliver it again") from None
    names = {part.filename for part in parts}
    if WORKBOOK not in names:
        what = "a Word document" if any(name.startswith("word/") for name in names) else "a zip archive"
        what = "an OpenDocument file" if "mimetype" in names and "content.xml" in names else what
        raise Quarantine(
            Reason.UNKNOWN_FORM, f"{what}, whatever its name; unpack it, or save the table as .xlsx or .csv"
        )
    if (unpacked := sum(part.file_size for part in parts)) > max_unpacked_bytes:
        raise Quarantine(
            Reason.TOO_LARGE_UNCOMPRESSED,
            f"unpacks to {unpacked} bytes, max_unpacked_bytes is {max_unpacked_bytes}; split the file",
        )
