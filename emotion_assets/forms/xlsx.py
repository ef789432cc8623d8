"""Excel workbooks (.xlsx): the first sheet, its first row that is not empty being the header.

Read by calamine (https://github.com/tafia/calamine) in a process of its own, whose memory is limited.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
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
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    try:
        stream.seek(0)
        sheet = CalamineWorkbook.from_filelike(stream).get_sheet_by_index(0)
        first = sheet.start[0] + 1 if sheet.start else 1
        rows = enumerate(sheet.iter_rows(), first)
    except PasswordError:
        raise Quarantine(Reason.UNKNOWN_FORM, "a workbook with a password; save it without one") from None
    except CalamineError as error:
        raise Quarantine(Reason.DAMAGED, f"no readable workbook ({str(error)[:120]}); save it again") from None
    header = next((cells for _, cells in rows if any(cell != "" for cell in cells)), None)
    if header is None:
        raise Quarantine(Reason.EMPTY_FILE, "the first sheet is empty; put the rows there")
    names = [_text(cell) for cell in header]
    while names and not names[-1]:
        names.pop()
    if columns.present_in(columns.rename(names)) is None:
        raise Quarantine(Reason.MISSING_TEXT_COLUMN, columns.describe_missing(names))
    named = check_columns(names, reading.max_columns, columns)
    for number, cells in rows:
        if any(cell != "" for cell in cells):
            yield _row(number, dict(zip(named, cells, strict=False)), reading, columns)


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
    except (zipfile.BadZipFile, ValueError, OSError):
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
