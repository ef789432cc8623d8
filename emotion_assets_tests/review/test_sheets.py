"""The queue as a spreadsheet opens it, fills it in and saves it."""

from __future__ import annotations

from codecs import BOM_UTF8
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openpyxl import Workbook, load_workbook
from openpyxl.worksheet.worksheet import Worksheet

from emotion_assets.review.queue import export_review, import_review
from emotion_assets.review.sheets import read_lines, write_workbook
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.warehouse.database import fetch
from emotion_assets.storage.warehouse.review import QUEUE
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import LABELS, drop_csv

TEXTS = ["=cmd()", "+1", "-1 star", "@all", "naïve 🙂 – but good", "two\nlines", "oh"]
MANY = [f"label number {i}, of a long list" for i in range(28)]


@pytest.fixture
def queued(make_home: Any) -> Workspace:
    workspace: Workspace = make_home(audit_share=1)
    drop_csv(workspace, "a.csv", [{"id": str(i), "text": text} for i, text in enumerate(TEXTS)])
    world.run_feedback(workspace)
    return workspace


def labelled(workspace: Workspace) -> list[tuple[str, str, str]]:
    with workspace.warehouse.reading() as db:
        rows = fetch(db, "SELECT text, label, reviewer FROM review_queue WHERE label IS NOT NULL").to_pylist()
    return sorted((row["text"], row["label"], row["reviewer"]) for row in rows)


def column_of(sheet: Worksheet, name: str) -> int:
    return next(cell.column for cell in sheet[1] if cell.value == name)


def queue_of(*texts: str) -> tuple[int, list[pa.Table]]:
    """These texts as the queue, each in a table of its own."""
    given = {"emotion": "joy", "confidence": 0.5, "reason": "audit", "label": "", "reviewer": "", "reviewed_at": ""}
    rows = [{"review_id": f"r{i}", "text": text, "rows": 1, **given} for i, text in enumerate(texts)]
    return len(rows), [pa.Table.from_pylist([row], QUEUE) for row in rows]


def test_a_csv_for_review_begins_with_the_mark_that_excel_looks_for(queued: Workspace, tmp_path: Path) -> None:
    export_review(queued.warehouse, tmp_path / "r.csv", LABELS)
    assert (tmp_path / "r.csv").read_bytes().startswith(BOM_UTF8 + b'"review_id","text"')


def test_a_workbook_offers_the_labels_and_every_text_is_text(queued: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "queue.xlsx"
    assert export_review(queued.warehouse, path, LABELS) == len(TEXTS)
    book = load_workbook(path)
    sheet = book.worksheets[0]
    column = column_of(sheet, "text")
    cells = [sheet.cell(row, column) for row in range(2, sheet.max_row + 1)]
    assert sorted(str(cell.value) for cell in cells) == sorted(TEXTS)
    assert {(cell.data_type, cell.number_format) for cell in cells} == {("s", "@")}
    (rule,) = sheet.data_validations.dataValidation
    letter = sheet.cell(1, column_of(sheet, "label")).column_letter
    assert (rule.type, str(rule.sqref)) == ("list", f"{letter}2:{letter}{len(TEXTS) + 1}")
    assert offered(book, rule.formula1) == LABELS
    assert [found.sheet_state for found in book.worksheets] == ["visible", "hidden"]


def offered(book: Workbook, formula: str) -> list[Any]:
    sheet, cells = formula.replace("$", "").split("!")
    return [cell.value for (cell,) in book[sheet][cells]]


def test_a_list_may_be_longer_than_a_rule_holds_and_have_commas(tmp_path: Path) -> None:
    write_workbook(tmp_path / "q.xlsx", *queue_of(), MANY)
    book = load_workbook(tmp_path / "q.xlsx")
    (rule,) = book.worksheets[0].data_validations.dataValidation
    assert offered(book, rule.formula1) == MANY


def test_what_no_cell_holds_is_replaced_or_cut(tmp_path: Path) -> None:
    write_workbook(tmp_path / "q.xlsx", *queue_of("a\x0bb\x1b[31m", "🙂" * 40_000), LABELS)
    sheet = load_workbook(tmp_path / "q.xlsx").worksheets[0]
    assert sheet["B2"].value == "a\ufffdb\ufffd[31m"
    long = str(sheet["B3"].value)
    assert long == "🙂" * 16_383 + "…"
    assert len(long.encode("utf-16-le")) <= 2 * 32_767


def test_more_lines_than_a_sheet_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotion_assets.review.sheets.SHEET_ROWS", 3)
    write_workbook(tmp_path / "q.xlsx", *queue_of("a", "b"), LABELS)
    with pytest.raises(UserError, match=r"q\.xlsx: a sheet holds 2 lines, 3 wait; export to \.csv"):
        write_workbook(tmp_path / "q.xlsx", *queue_of("a", "b", "c"), LABELS)


def test_a_workbook_comes_back_as_it_was_filled_in(queued: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "queue.xlsx"
    export_review(queued.warehouse, path, LABELS)
    book = load_workbook(path)
    sheet = book.worksheets[0]
    columns = {name: column_of(sheet, name) for name in ("text", "label", "reviewer", "reviewed_at")}
    for row in range(2, sheet.max_row + 1):
        text = str(sheet.cell(row, columns["text"]).value)
        if text != "oh":
            sheet.cell(row, columns["label"]).value = "bored" if text == "@all" else "joy"
            sheet.cell(row, columns["reviewer"]).value = 7  # Excel keeps a number as a float
            sheet.cell(row, columns["reviewed_at"]).value = datetime(2026, 11, 20, 9)
        if text == "@all":
            bad = row
    book.save(path)
    outcome = import_review(queued.warehouse, path, LABELS)
    assert outcome.rejected == ((bad, f"label 'bored' is not known; use {', '.join(LABELS)}"),)
    assert outcome.unlabelled == 1
    assert labelled(queued) == sorted((text, "joy", "7") for text in TEXTS if text not in ("oh", "@all"))
    assert export_review(queued.warehouse, path, LABELS) == 2


@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
@pytest.mark.parametrize("start", ["\ufeffsep={}\r\n", "sep={}\n", "\ufeff", "SEP={};;;;\r\n"])
def test_a_csv_comes_back_as_excel_saves_it(queued: Workspace, tmp_path: Path, delimiter: str, start: str) -> None:
    path = tmp_path / "r.csv"
    export_review(queued.warehouse, path, LABELS)
    lines = [line for _, line in _raw(path)]
    rows = [[line["review_id"], f'"{line["text"]}"', "joy", "Zoë", ""] for line in lines]
    rows[0][2] = "bored"
    rows.append([""] * 5)
    content = [["review_id", "text", "label", "reviewer", "reviewed_at"], *rows]
    text = start.format(delimiter) + "".join(delimiter.join(row) + "\r\n" for row in content)
    path.write_text(text, encoding="utf-8", newline="")
    outcome = import_review(queued.warehouse, path, LABELS)
    first = 3 if "=" in start else 2
    assert [line for line, _ in outcome.rejected] == [first]
    assert {(label, reviewer) for _, label, reviewer in labelled(queued)} == {("joy", "Zoë")}
    assert len(labelled(queued)) == len(TEXTS) - 1


def _raw(path: Path) -> list[tuple[int, dict[str, str]]]:
    lines, unreadable = read_lines(path)
    assert unreadable == []
    return lines


def workbook(path: Path, *rows: list[Any]) -> Path:
    book = Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(path)
    return path


def test_rows_are_numbered_as_the_sheet_shows_them(tmp_path: Path) -> None:
    path = workbook(tmp_path / "r.xlsx", [], ["review_id", "reviewer", "label"], ["r1", "A", "joy"], [], ["r2"])
    lines, _ = read_lines(path)
    assert [(number, line["review_id"], line["label"]) for number, line in lines] == [(3, "r1", "joy"), (5, "r2", "")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04 torn", r"r\.xlsx: cannot be read \(.*\); save it as \.xlsx without a password, or as CSV"),
        (b"\xd0\xcf\x11\xe0 torn", r"r\.xlsx: cannot be read \(.*\); save it as \.xlsx without a password, or as CSV"),
        (None, r"r\.xlsx: no column is named 'label' among 'review_id', 'text' of the first sheet; name it so"),
    ],
)
def test_a_workbook_that_is_no_review_is_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = workbook(tmp_path / "r.xlsx", ["review_id", "text"], ["r1", "oh"])
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read_lines(path)
    assert "\n" not in str(error.value)
    workbook(path)
    with pytest.raises(UserError, match=r"no column is named .* among nothing of the first sheet"):
        read_lines(path)
