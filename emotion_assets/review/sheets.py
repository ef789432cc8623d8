"""A review file in the two forms that a spreadsheet reads and saves: CSV and Excel's.

Belongs here: cells and lines. Does not belong here: what a label or a reviewer must be (``queue``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from emotion_assets.forms.csv import Csv
from emotion_assets.forms.form import Columns, Record
from emotion_assets.forms.problems import Quarantine, Rejected
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.feedback import ReadingSettings
from emotion_assets.storage.exports import writing_file
from emotion_assets.storage.warehouse.review import QUEUE

if TYPE_CHECKING:
    import pyarrow as pa

Lines = list[tuple[int, dict[str, str]]]
REVIEW_COLUMNS = Columns(required=(("review_id", "label", "reviewer"),))
SHEET_ROWS, CELL_UNITS = 1_048_576, 32_767  # what Excel holds: rows of a sheet, UTF-16 units of a cell
WIDTHS = {"text": 90, "label": 16, "reviewer": 16, "reviewed_at": 24}
WORKBOOK_MAGIC = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .ods; .xls, and an .xlsx with a password


def write_workbook(path: Path, lines: int, texts: Iterable[pa.Table], labels: Sequence[str]) -> None:
    """Write the queue, tables of the columns ``QUEUE``, to a ``.xlsx`` file in which the labels are a drop-down list.

    ``lines`` says how many rows they have together.

    Every text is a cell of text, also one that begins like a formula. What a cell cannot hold is replaced (control
    characters) or cut (more than 32,767 characters).

    Raises:
        UserError: more lines than a sheet holds, or as ``writing_file``.
    """
    from openpyxl import Workbook
    from openpyxl.utils import get_column_letter
    from openpyxl.worksheet.datavalidation import DataValidation

    if lines >= SHEET_ROWS:
        raise UserError(f"{path}: a sheet holds {SHEET_ROWS - 1} lines, {lines} wait; export to .csv")
    book = Workbook(write_only=True)
    sheet, choices = book.create_sheet("review"), book.create_sheet("labels")
    choices.sheet_state = "hidden"
    append_choice = _appender(choices, 1)
    for label in labels:
        append_choice([label])
    sheet.freeze_panes = "A2"
    for place, name in enumerate(QUEUE.names, start=1):
        sheet.column_dimensions[get_column_letter(place)].width = WIDTHS.get(name, 12)
    column = get_column_letter(QUEUE.names.index("label") + 1)
    # A list of its own sheet: one inside the rule may have 255 characters, and no comma in a label.
    rule = DataValidation("list", formula1=f"labels!$A$1:$A${len(labels)}", allow_blank=True, showErrorMessage=True)
    rule.errorTitle, rule.error = "label", "Choose one of the list."
    rule.add(f"{column}2:{column}{max(2, lines + 1)}")
    sheet.data_validations.append(rule)
    append = _appender(sheet, len(QUEUE))
    append(QUEUE.names)
    for part in texts:
        for row in part.to_pylist():
            append(row.values())
    with writing_file(path) as file:
        book.save(file)


def read_lines(path: Path) -> tuple[Lines, list[tuple[int, str]]]:
    """The filled lines of a review file with their numbers, and those that cannot be read, each with the reason.

    Which form it has is told by its bytes. A CSV may have semicolons or tabs, a byte order mark and a line ``sep=;``.

    Raises:
        UserError: the file cannot be read, or a column is missing.
    """
    lines: Lines = []
    unreadable: list[tuple[int, str]] = []
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
            stream.seek(0)
            for record in (_workbook_records if head in WORKBOOK_MAGIC else _csv_records)(stream):
                if isinstance(record, Rejected):
                    unreadable.append((record.row_number, record.detail))
                elif any(value.strip() for value in record.values.values()):
                    lines.append((record.number, record.values))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write one with `emotion-assets export --review FILE`") from None
    except Quarantine as quarantine:
        raise UserError(f"{path}: {quarantine.detail}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the filled-in .xlsx or .csv file") from None
    except _WorkbookError as error:
        raise UserError(f"{path}: {error}") from None
    return lines, unreadable


class _WorkbookError(Exception):
    """A workbook that cannot be used: what is wrong, and the fix."""


def _csv_records(stream: BinaryIO) -> Iterator[Record | Rejected]:
    above = 1 if stream.readline(1024).removeprefix(b"\xef\xbb\xbf").lower().startswith(b"sep=") else 0
    if not above:
        stream.seek(0)
    for record in Csv().records(stream, ReadingSettings(), REVIEW_COLUMNS):
        if isinstance(record, Rejected):
            yield Rejected(record.row_number + above, record.reason_code, record.detail, record.raw_excerpt)
        else:
            yield record._replace(number=record.number + above)


def _workbook_records(stream: BinaryIO) -> Iterator[Record]:
    """The rows of the first sheet below the first that is not empty, which names the columns."""
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        rows: Iterator[list[Any]] = iter(
            CalamineWorkbook.from_filelike(stream).get_sheet_by_index(0).to_python(skip_empty_area=False)
        )
    except (CalamineError, IndexError) as error:
        first = str(error).splitlines()[0]
        raise _WorkbookError(f"cannot be read ({first}); save it as .xlsx without a password, or as CSV") from None
    numbered = ((number, [_text(value) for value in row]) for number, row in enumerate(rows, start=1))
    filled = ((number, row) for number, row in numbered if any(value.strip() for value in row))
    _, names = next(filled, (0, []))
    if REVIEW_COLUMNS.present_in(names) is None:
        missing = REVIEW_COLUMNS.missing_from(names)
        shown = ", ".join(repr(name) for name in names if name) or "nothing"
        raise _WorkbookError(f"no column is named {missing!r} among {shown[:300]} of the first sheet; name it so")
    for number, row in filled:
        yield Record(number, dict(zip(names, row, strict=False)))


def _appender(sheet: Any, columns: int) -> Callable[[Iterable[Any]], None]:
    """A function that appends a row to a write-only sheet. A string becomes a cell of text whatever it begins with, and
    stays text when it is edited. Cells are written at once, so one of each column serves every row."""
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    from openpyxl.styles import Alignment

    cells = [WriteOnlyCell(sheet) for _ in range(columns)]
    for cell in cells:
        cell.number_format, cell.alignment = "@", Alignment(wrap_text=True, vertical="top")

    def fill(cell: Any, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        cell.value = _fitting(ILLEGAL_CHARACTERS_RE.sub("\ufffd", value)) or None
        cell.data_type = "s" if value else "n"  # or a formula, as openpyxl guesses
        return cell

    return lambda values: sheet.append([fill(cell, value) for cell, value in zip(cells, values, strict=True)])


def _fitting(text: str) -> str:
    """As much of a text as a cell holds."""
    units = text.encode("utf-16-le")
    if len(units) <= 2 * CELL_UNITS:
        return text
    return units[: 2 * (CELL_UNITS - 1)].decode("utf-16-le", "ignore") + "…"


def _text(value: Any) -> str:
    """A cell as it would stand in a CSV file: Excel keeps every number as a float."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, (datetime, date)) else str(value)
