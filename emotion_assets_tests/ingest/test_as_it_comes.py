"""Files as other programs write them: encodings, names of columns, forms, and attributes that cost no text."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.forms.problems import Quarantine, Rejected
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.settings.feedback import FeedbackSettings

MARKS = {
    "utf-8": b"\xef\xbb\xbf",
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "utf-32-le": b"\xff\xfe\0\0",
    "utf-32-be": b"\0\0\xfe\xff",
}
ONE = {
    "feedback.csv": "id,text\n1,déçu\n",
    "f.jsonl": '{"id": 1, "text": "déçu"}\n',
    "f.json": '[{"id":1,"text":"déçu"}]',
}
LIST = [{"id": 1, "text": "good"}, {"id": 2, "text": "bad"}]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Any]]:
    """Read a file with this content; rejected rows as their reason codes."""

    def reading(content: bytes | str, name: str = "feedback.csv", **settings: Any) -> list[Any]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        rows = list(read_feedback(path, FeedbackSettings(**settings)))
        for row in rows:
            if isinstance(row, Accepted):
                json.dumps(row.attributes, allow_nan=False)
        return [str(row.reason_code) if isinstance(row, Rejected) else row for row in rows]

    return reading


@pytest.fixture
def texts(read: Callable[..., list[Any]]) -> Callable[..., list[tuple[str | None, str]]]:
    return lambda *file, **settings: [(row.id, row.text) for row in read(*file, **settings)]


@pytest.fixture
def refusal(read: Callable[..., list[Any]]) -> Callable[..., str]:
    """Why a file is set aside."""

    def refused(*file: Any, **settings: Any) -> str:
        with pytest.raises(Quarantine) as caught:
            read(*file, **settings)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


def mapped(**columns: str) -> dict[str, Any]:
    return {"sources": {"default": {"columns": columns}}}


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("configured", ["utf-8", "cp1252", "utf-16", "utf-16-be", "shift_jis"])
@pytest.mark.parametrize("encoding", MARKS)
def test_a_mark_is_obeyed_under_any_setting(encoding: str, configured: str, name: str, texts) -> None:
    assert texts(MARKS[encoding] + ONE[name].encode(encoding), name, encoding=configured) == [("1", "déçu")]


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize(
    ("encoding", "configured"),
    [("cp1252", "cp1252"), ("latin-1", "iso-8859-1"), ("utf-16-le", "utf-16-le"), ("utf-16-le", "utf-16"), 
     ("utf-16-be", "utf-16-be"), ("mac-roman", "macintosh")],
)  # fmt: skip
def test_without_a_mark_the_setting_counts_and_is_named(
    encoding: str, configured: str, name: str, texts, refusal
) -> None:
    content = ONE[name].encode(encoding)
    said = refusal(content, name)
    assert said.startswith("wrong_encoding: ") and "set feedback.sources.default.encoding" in said
    assert texts(content, name, encoding=configured) == [("1", "déçu")]


def test_japanese_is_read_as_its_setting_says(texts) -> None:
    assert texts("text\n満足 ソ\n".encode("shift_jis"), encoding="shift_jis") == [(None, "満足 ソ")]


@pytest.mark.parametrize("configured", ["cp1252", "utf-16", "utf-16-le", "utf-32", "shift_jis"])
@pytest.mark.parametrize("text", ["plain", "déçu 満足"])
def test_utf8_is_read_beside_files_of_another_encoding(configured: str, text: str, texts) -> None:
    assert texts(f"id,text\n1,{text}\n", encoding=configured) == [("1", text)]


def test_a_file_of_two_encodings_is_never_half_read(refusal) -> None:
    assert "line 3 is not utf-8" in refusal("id,text\n1,é\n".encode() + b"2,\xe9\n")
    assert "line 2 is not cp1252" in refusal(b"id,text\n1,caf\x81\n", encoding="cp1252")
    assert "as its byte order mark says" in refusal(b"\xff\xfe" + "text\nhi\n".encode("utf-16-le") + b"x")


@pytest.mark.parametrize(
    "header",
    ["Text", " text ", "TEXT", '"text"', '" Text "', "\ufefftext", '\ufeff"Text"', "\ufeff\ufefftext", "text\xa0"],
)
def test_a_name_is_found_but_for_case_blanks_and_marks(header: str, texts) -> None:
    assert texts(f"{header},ID\ngood,1\n") == [("1", "good")]


def test_a_key_is_found_but_for_case_and_blanks(texts) -> None:
    assert texts('{"ID": 1, " Text": "good"}\n', "f.jsonl") == [("1", "good")]


@pytest.mark.parametrize("content", ["id,text,Review Text\n1,no,yes\n", '{"id":1,"text":"no","review text ":"yes"}\n'])
def test_the_mapped_column_goes_before_one_named_text(content: str, read) -> None:
    (row,) = read(content, **mapped(text="Review Text"))
    assert (row.text, row.attributes) == ("yes", {"text_2": "no"})


def test_of_text_and_another_spelling_the_exact_name_counts(read) -> None:
    (row,) = read("Text,text,TEXT\na,b,c\n")
    assert (row.text, row.attributes) == ("b", {"Text": "a", "TEXT": "c"})


@pytest.mark.parametrize("name", ["f.csv", "f.jsonl", "f.json", "f.xlsx"])
def test_a_file_without_a_text_names_the_likeliest_columns(name: str, refusal) -> None:
    content: Any = {"f.csv": "id,Comment\n1,a\n", "f.jsonl": '{"id": 1, "Comment": "a"}\n' * 2}.get(name)
    content = content or (book(["id", "Comment"], [1, "text"]) if name == "f.xlsx" else '[{"id":1,"Comment":"a"}]')
    said = (
        "no column is named 'text' among 'id', 'Comment'; name it in feedback.sources.default.columns.text (Comment?)"
    )
    assert refusal(content, name) == f"missing_text_column: {said}"


PLAIN = b"id,text\n1,good\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (gzip.compress(PLAIN), "f.csv.gz"),
        (gzip.compress(PLAIN), "f.csv"),
        (PLAIN, "f.csv.gz"),
        (gzip.compress(b"id,text\n") + gzip.compress(b"1,good\n"), "f.csv.gz"),
        (gzip.compress(PLAIN) + b"\0" * 512, "f.csv.gz"),
        (gzip.compress(b"\xff\xfe" + PLAIN.decode().encode("utf-16-le")), "f.csv.gz"),
        (gzip.compress(b'{"id": 1, "text": "good"}\n'), "f.jsonl.gz"),
        (gzip.compress(b'[{"id": 1, "text": "good"}]'), "f.json.gz"),
    ],
)
def test_gzip_is_unpacked_whatever_its_name(content: bytes, name: str, texts) -> None:
    assert texts(content, name) == [("1", "good")]


def test_gzip_that_is_damaged_twice_packed_or_too_large_is_named(refusal) -> None:
    assert refusal(gzip.compress(PLAIN)[:-9], "f.csv.gz").startswith("damaged: a gzip file")
    assert "compressed twice" in refusal(gzip.compress(gzip.compress(PLAIN)), "f.csv.gz")
    assert "max_unpacked_bytes" in refusal(gzip.compress(PLAIN * 99), "f.csv.gz", max_unpacked_bytes=500)


def book(*rows: list[Any], before: Callable[[Any], None] = lambda made: None) -> bytes:
    """A workbook with these rows in its first sheet."""
    made, buffer = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        made.active.append(row)
    before(made)
    made.save(buffer)
    return buffer.getvalue()


HEADED = [["id", "text"], [1, "good"]]


@pytest.mark.parametrize(
    "content",
    [
        book(*HEADED),
        gzip.compress(book(*HEADED)),
        book([], [], *HEADED, []),
        book(["Survey of November"], ["made", None], *([*row, None, 5] for row in HEADED)),
        book(*([None, None, *row] for row in HEADED)),
        book(*HEADED, before=lambda made: made.create_sheet("Two").append(["text"])),
        book(*HEADED, before=lambda made: made.create_chartsheet(index=0)),
        book(*HEADED, before=lambda made: made.active.merge_cells("C1:D2")),
        book(*(["1", *row] for row in HEADED)),
    ],
)
def test_the_first_sheet_of_a_workbook_is_read_wherever_its_header_stands(content: bytes, texts) -> None:
    assert texts(content, "f.xlsx") == texts(content, "f.csv") == [("1", "good")]


def test_cells_keep_their_kind(read) -> None:
    cells = ["007", 5, datetime(2026, 11, 2, 10), True, 3, 2.5, date(2026, 1, 2), None, "=1+1"]
    (row,) = read(book(["id", "text", "created_at", "b", "n", "f", "d", "e", "formula"], cells), "f.xlsx")
    assert (row.id, row.text, row.created_at.hour) == ("007", "5", 10)
    kept = {"b": True, "n": 3, "f": 2.5, "d": "2026-01-02", "e": None, "formula": None}
    assert row.attributes == kept  # a formula that was never computed has no value


def test_what_is_no_workbook_is_named_for_what_it_is(refusal) -> None:
    assert refusal(book(), "f.xlsx") == "empty_file: the first sheet is empty; put the rows there"
    assert "with a password" in refusal(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "f.xlsx")
    assert refusal(book(*HEADED)[:-99], "f.xlsx").startswith("damaged: ")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a.csv", PLAIN)
    assert refusal(archive.getvalue()).startswith("unknown_form: a zip archive")


@pytest.mark.parametrize("name", ["f.json", "f.jsonl", "f.csv"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(LIST),
        json.dumps(LIST, indent=2),
        json.dumps(LIST, indent="\t").replace("\n", "\r\n"),
        "\ufeff" + json.dumps(LIST),
        "\n\n " + json.dumps(LIST),
        "".join(json.dumps([row]) + "\n" for row in LIST),
        "".join(json.dumps(row) + "\n" for row in LIST),
        "".join(json.dumps(row, indent=2) + "\n" for row in LIST),
    ],
)
def test_json_is_read_by_its_bytes(content: str, name: str, texts) -> None:
    assert texts(content, name) == [("1", "good"), ("2", "bad")]


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_is_a_row_and_one_that_wraps_rows_is_named(indent: int | None, texts, refusal) -> None:
    assert texts(json.dumps(LIST[0], indent=indent), "f.json") == [("1", "good")]
    wrapped = json.dumps({"total": 2, "data": LIST}, indent=indent)
    assert refusal(wrapped, "f.json") == (
        "unknown_form: one JSON object that holds its rows under 'data'; give that list by itself"
    )
    assert "orient='records'" in refusal(json.dumps({"text": {"0": "good"}}, indent=indent), "f.json")


def test_a_json_list_that_is_cut_off_or_goes_on_as_something_else_is_set_aside(refusal) -> None:
    assert "cut off" in refusal('[{"text": "a"}', "f.json")
    assert "invalid_json" in refusal('[{"text": "a"}, {"te', "f.json")
    assert "line 2: not JSON" in refusal('[{"text": "a"}]\nx', "f.json")


def test_values_that_json_has_not_and_keys_given_twice_cost_no_text(read) -> None:
    row = '{"text": "a", "n": NaN, "l": [Infinity, 1], "big": 1e999, "x": 1, "x": 2, "text": "b"}'
    for content, name in ((row, "f.jsonl"), (f"[{row}]", "f.json")):
        (accepted,) = read(content, name)
        kept = {"n": None, "l": [None, 1], "big": None, "x": 1, "x_2": 2, "text_2": "b"}
        assert (accepted.text, accepted.attributes) == ("a", kept)


@pytest.mark.parametrize(
    ("given", "row_id"),
    [("1", "1"), ("1.0", "1"), ("1.5", "1.5"), ('"007"', "007"), ("9" * 40, "9" * 40), ("NaN", None), ("null", None),
     ('""', None), ("true", None), ("[1]", None)],
)  # fmt: skip
def test_an_id_is_a_string_or_the_number_it_is(given: str, row_id: str | None, read) -> None:
    (row,) = read(f'{{"id": {given}, "text": "a"}}', "f.jsonl")
    assert row.id == row_id
    assert row.attributes == ({"id": json.loads(given)} if given in ("true", "[1]") else {})


def test_columns_of_parquet_that_cannot_be_kept_cost_no_text(read) -> None:
    columns = {
        "text": ["a"], "tags": [["x", None]], "of": [{"n": float("nan"), "at": datetime(2026, 1, 1)}], "b": [b"\xff"],
        "price": [Decimal("1.50")], "score": [float("inf")], "none": pa.nulls(1),
    }  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    (row,) = read(buffer.getvalue(), "f.parquet")
    assert row.attributes == {
        "tags": '["x", null]', "of": '{"n": null, "at": "2026-01-01 00:00:00"}', "b": None, "price": "1.50",
        "score": None, "none": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1.0, None, 2.5], ["1", None, "2.5"]),
        ([Decimal("12"), Decimal("13"), None], ["12", "13", None]),
        ([date(2026, 1, 1), None, None], ["2026-01-01", None, None]),
        ([True, None, False], [None, None, None]),
    ],
)
def test_ids_of_parquet_of_any_type(ids: list[Any], expected: list[str | None], read) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "text": ["a", "b", "c"]}), buffer)
    assert [row.id for row in read(buffer.getvalue(), "f.parquet")] == expected


def test_parquet_columns_of_one_name_are_numbered(read) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table([["a"], ["b"], [1], [2]], names=["text", "text", "x", "x"]), buffer)
    (row,) = read(buffer.getvalue(), "f.parquet")
    assert (row.text, row.attributes) == ("a", {"text_2": "b", "x": 1, "x_2": 2})


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;", "sep=;;;"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_sep_is_obeyed(first: str, end: str, read) -> None:
    (row,) = read(end.join([first, "id;text;x", "1;good, so far;", ""]))
    assert (row.id, row.text, row.attributes) == ("1", "good, so far", {"x": ""})


def test_any_delimiter_may_be_declared_and_goes_before_the_setting(texts) -> None:
    assert texts("sep=^\nid^text\n1^a;b,c\n") == [("1", "a;b,c")]
    assert texts("sep=;\nid;text\n1;a\n", delimiter=",") == [("1", "a")]


@pytest.mark.parametrize("above", ["\n\n", "\r\n\r\n", "  \n", ",,\n", ";;\r\n,,\n\n"])
def test_empty_lines_above_the_header_are_passed_over(above: str, texts) -> None:
    assert texts(above + "id,text,x\r\n1,good,\r\n") == [("1", "good")]


def test_a_row_of_too_few_fields_may_be_a_piece_of_a_text_and_is_rejected_alone(read) -> None:
    first, *others = read("id,text,x\n1,good,\nthere,eu\n2,bad\n")
    assert (first.text, others) == ("good", ["wrong_column_count"] * 2)
