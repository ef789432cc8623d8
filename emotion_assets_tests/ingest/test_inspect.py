"""What a look at a file finds, and that the YAML it proposes loads in a profile and makes the file read."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from openpyxl import Workbook

from emotion_assets.forms.problems import Reason
from emotion_assets.ingest.inspect import Inspection, inspect_file
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.profiles.reader import PROFILES_DIR, load_settings
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.feedback import FeedbackSettings, SourceSettings
from emotion_assets_tests.conftest import CASES, needs_cases
from emotion_assets_tests.worlds import bad_files

Look = Callable[..., Inspection]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    def looking(content: bytes | str, name: str = "export.csv", **source: object) -> Inspection:
        path = tmp_path / "inbox" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        folder = path.parent.name if path.parent.name != "inbox" else "default"
        settings = FeedbackSettings(sources={folder: SourceSettings(**source)} if source else {})
        return inspect_file(path, settings, tmp_path / "inbox")

    return looking


def rows_with(seen: Inspection, tmp_path: Path) -> list[Accepted]:
    """The rows of the file under a profile into which the proposed lines were pasted."""
    assert seen.proposal is not None
    profile = tmp_path / "mine.yaml"
    profile.write_text((PROFILES_DIR / "pretrained.yaml").read_text() + "\n" + seen.proposal.yaml() + "\n")
    settings = load_settings(str(profile), environ={}).feedback
    assert settings.sources[seen.source] == seen.proposal.settings
    return [row for row in read_feedback(seen.path, settings, seen.source) if isinstance(row, Accepted)]


def test_a_file_that_is_read_needs_nothing(look: Look) -> None:
    seen = look("id,Text,created_at,stars\n1,I am glad,2026-01-02,5\n2,,2026-01-03,1\n")
    assert [(c.name, c.taken_as, c.examples) for c in seen.columns] == [
        ("id", "id", ["1", "2"]),
        ("Text", "text", ["I am glad"]),
        ("created_at", "created_at", ["2026-01-02", "2026-01-03"]),
        ("stars", None, ["5", "1"]),
    ]
    assert (seen.source, seen.bytes.form.title, seen.bytes.encoding, seen.bytes.delimiter) == (
        "default", "CSV", "utf-8", ",",
    )  # fmt: skip
    assert (seen.present.accepted, seen.present.rejected) == (1, {Reason.EMPTY_TEXT: 1})
    assert seen.present.refused is None
    assert seen.proposal is None


def test_text_id_and_time_are_proposed_by_name_and_content(look: Look, tmp_path: Path) -> None:
    seen = look(
        "Ticket Link,User ID,Submitted,Review Title,Review Text,Order Number\n"
        "https://x/1,7,2026-01-02T10:00:00Z,Good,It came on time and I am glad of it,1790841600\n"
        "https://x/2,7,2026-01-03T10:00:00Z,Bad,Nobody answers the phone,1790841601\n",
        "shop/export.csv",
    )
    assert seen.source == "shop"
    assert seen.present.refused is not None
    assert seen.present.refused.reason_code == Reason.MISSING_TEXT_COLUMN
    assert seen.proposal is not None
    assert seen.proposal.settings.columns == {"text": "Review Text", "id": "Ticket Link", "created_at": "Submitted"}
    assert seen.proposed is not None
    assert seen.proposed.accepted == 2
    rows = rows_with(seen, tmp_path)
    assert [(row.id, row.text[:6]) for row in rows] == [("https://x/1", "It cam"), ("https://x/2", "Nobody")]
    assert all(row.created_at for row in rows)


def test_the_longest_text_is_proposed_where_no_name_tells_or_a_name_misleads(look: Look) -> None:
    rows = "".join(f"{n},Very satisfied,The agent took the time to explain all of it number {n}\n" for n in range(5))
    seen = look("n,How was our feedback form?,Why so?\n" + rows)
    assert seen.proposal is not None
    assert seen.proposal.settings.columns["text"] == "Why so?"


def test_an_id_that_comes_twice_or_is_a_person_s_is_not_proposed(look: Look) -> None:
    seen = look("Case ID,Customer ID,text\n1,7,it is good\n1,8,it is bad\n")
    assert seen.proposal is None


def test_a_name_that_cannot_be_mapped_is_not_the_one_proposed(look: Look, tmp_path: Path) -> None:
    seen = look("Said,,Noted\n1,the longest of the texts of this file here,some words here\n")
    assert seen.proposal is not None
    assert seen.proposal.settings.columns == {"text": "Noted"}
    assert len(rows_with(seen, tmp_path)) == 1


@pytest.mark.parametrize(
    "name", ["a, b: c", "#1 'quoted' \"name\"", "yes", "1", "%Y", "ü 🙂", "two\nlines of it", "- x", "Why so?"]
)
def test_any_name_of_a_column_can_be_pasted(look: Look, tmp_path: Path, name: str) -> None:
    seen = look(json.dumps({name: "it is good to see", "x": 1}), "2026/export.jsonl")
    assert seen.proposal is not None
    assert seen.proposal.settings.columns == {"text": name}
    assert [row.text for row in rows_with(seen, tmp_path)] == ["it is good to see"]


def test_a_mapping_that_is_there_is_kept_and_mended(look: Look) -> None:
    seen = look("Comment,Posted\nit is good,2026-01-02\n", columns={"text": "Review"}, timezone="Europe/Paris")
    assert seen.proposal is not None
    assert seen.proposal.settings.columns == {"text": "Comment", "created_at": "Posted"}
    assert seen.proposal.settings.timezone == "Europe/Paris"


@pytest.mark.parametrize(
    ("dates", "formats", "undated"),
    [
        (["1/5/2026", "1/25/2026"], ("%m/%d/%Y",), 0),
        (["5/1/2026 10:30", "25/1/2026 9:00"], ("%d/%m/%Y %H:%M",), 0),
        (["24-02-2015 11.35"], ("%d-%m-%Y %H.%M",), 0),
        (["20260102", "24.12.2026"], ("%Y%m%d", "%d.%m.%Y"), 0),
        (["1/5/2026"] * 3000 + ["25/1/2026"], ("%d/%m/%Y",), 0),
        (["soon", "24.12.2026"], ("%d.%m.%Y",), 1),
    ],
)
def test_all_dates_of_the_file_decide_their_form(
    look: Look, tmp_path: Path, dates: list[str], formats: tuple[str, ...], undated: int
) -> None:
    seen = look("text,created_at\n" + "".join(f"good,{date}\n" for date in dates))
    assert seen.present.undated.forms.total() == len(dates)
    assert seen.proposal is not None
    assert seen.proposal.settings.moment_formats == formats
    assert seen.proposal.either == ()
    assert seen.proposed is not None
    assert seen.proposed.undated.forms.total() == undated
    assert len([row for row in rows_with(seen, tmp_path) if row.created_at]) == len(dates) - undated


def test_days_and_months_that_no_date_tells_apart_are_both_said_and_not_chosen(look: Look, tmp_path: Path) -> None:
    seen = look("text,created_at\ngood,1/5/2026\nbad,02/11/2026 10:00\n")
    assert seen.proposal is not None
    assert seen.proposal.either == (("%d/%m/%Y", "%d/%m/%Y %H:%M"), ("%m/%d/%Y", "%m/%d/%Y %H:%M"))
    assert [row.created_at for row in rows_with(seen, tmp_path)] == [None, None]
    day_first, month_first = [line for line in seen.proposal.yaml().splitlines() if "created_at_format" in line]
    assert day_first.endswith("# day first")
    assert month_first.endswith("# month first")
    profile = tmp_path / "chosen.yaml"
    chosen = seen.proposal.yaml().replace(month_first, month_first.replace("# created", "created"))
    profile.write_text((PROFILES_DIR / "pretrained.yaml").read_text() + "\n" + chosen + "\n")
    settings = load_settings(str(profile), environ={}).feedback
    moments = [row.created_at for row in read_feedback(seen.path, settings) if isinstance(row, Accepted)]
    assert [moment and (moment.month, moment.day) for moment in moments] == [(1, 5), (2, 11)]


def test_the_time_zone_is_hinted_at_where_times_have_no_offset(look: Look) -> None:
    local = look("Review,Posted\nit is good,2026-01-02 10:00\n").proposal
    offset = look("Review,Posted\nit is good,2026-01-02T10:00Z\n").proposal
    assert local is not None
    assert offset is not None
    assert "# timezone: Europe/Paris" in local.yaml()
    assert "timezone" not in offset.yaml()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Café – naïve, “très” bien", "cp1252"),
        ("とても良い。ありがとう", "cp932"),
        ("plain but wide", "utf-16-le"),
        ("plain but wide", "utf-16-be"),
    ],
)
def test_an_encoding_that_every_byte_is_in_is_proposed(look: Look, tmp_path: Path, text: str, encoding: str) -> None:
    seen = look(f"text;n\n{text};1\n".encode(encoding))
    assert seen.present.refused is not None
    assert seen.present.refused.reason_code == Reason.WRONG_ENCODING
    assert seen.proposal is not None
    assert seen.proposal.settings == SourceSettings(encoding=encoding)
    assert text[-6:] in seen.bytes.samples[encoding] or encoding.startswith("utf-16")
    assert [row.text for row in rows_with(seen, tmp_path)] == [text]


def test_where_only_a_person_can_tell_the_encoding_each_is_shown(look: Look) -> None:
    seen = look("text\nOh “Voilà”, très élégant êtes\n".encode("mac_roman"))
    assert seen.bytes.samples["mac_roman"] == "Oh “Voilà”, très élégant êtes"
    assert seen.bytes.samples["cp1251"] == "Oh ТVoil€У, trЏs ЋlЋgant ђtes"
    assert "cp1252" not in seen.bytes.samples


def test_encoding_and_columns_are_proposed_together(look: Look, tmp_path: Path) -> None:
    seen = look("Kommentar;Datum\nGrüße, es war schön;24.12.2026\n".encode("cp1252"), "umfrage/a.csv")
    assert seen.bytes.delimiter == ";"
    assert seen.proposal is not None
    assert seen.proposal.settings.encoding == "cp1252"
    (row,) = rows_with(seen, tmp_path)
    assert row.text == "Grüße, es war schön"


def test_a_delimiter_that_is_not_the_file_s_is_mended(look: Look, tmp_path: Path) -> None:
    seen = look("id,text,x\n1,it is good,2\n", delimiter=";")
    assert seen.proposal is not None
    assert seen.proposal.settings.delimiter == ","
    assert [row.text for row in rows_with(seen, tmp_path)] == ["it is good"]
    assert look("sep=;\nid;text\n1;it is good\n", delimiter=",").proposal is None


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_seen(look: Look, mark: str) -> None:
    seen = look("text\ngood\n".encode(mark))
    assert seen.bytes.marked
    assert seen.bytes.encoding == {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}[mark]
    assert seen.present.accepted == 1


def workbook() -> bytes:
    book, stream = Workbook(), io.BytesIO()
    assert book.active is not None
    for row in (["Case Number", "Body"], [1, "it is good"], [2, "it is bad"]):
        book.active.append(row)
    book.save(stream)
    return stream.getvalue()


LINES = '{"Case Number": 1, "Body": "it is good"}\n{"Case Number": 2, "Body": "it is bad", "tags": ["x"]}\n'


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("a.xlsx", workbook(), "an Excel workbook, its first sheet"),
        ("a.parquet", bad_files.parquet({"Case Number": [1, 2], "Body": ["it is good", "it is bad"]}), "Parquet"),
        ("a.jsonl", LINES.encode(), "JSON Lines"),
        ("a.json", json.dumps([json.loads(line) for line in LINES.splitlines()], indent=1).encode(), "a JSON list"),
        ("a.csv.gz", gzip.compress(b"Case Number|Body\n1|it is good\n2|it is bad\n"), "CSV"),
        ("a.txt", b"Case Number\tBody\n1\tit is good\n2\tit is bad\n", "CSV"),
    ],
)
def test_every_form_is_looked_at(look: Look, tmp_path: Path, name: str, content: bytes, title: str) -> None:
    seen = look(content, f"crm/{name}")
    assert seen.bytes.form.title == title
    assert seen.bytes.compressed == name.endswith(".gz")
    assert [column.name for column in seen.columns][:2] == ["Case Number", "Body"]
    assert seen.left_alone == (Reason.UNKNOWN_EXTENSION if name == "a.txt" else None)
    assert [(row.id, row.text) for row in rows_with(seen, tmp_path)] == [("1", "it is good"), ("2", "it is bad")]


def test_rejected_rows_are_counted_by_reason(look: Look) -> None:
    seen = look('text,n\ngood,1\nbad,1,2\n"oh, 1\n\n ,3\n')
    assert seen.present.accepted == 1
    assert seen.present.rejected[Reason.WRONG_COLUMN_COUNT] == 1
    assert seen.present.rejected.total() > 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%PDF-1.7 something", "export.csv: a PDF; export the table as .csv or .xlsx"),
        (b"PK\x05\x06" + bytes(18), "export.csv: an empty zip archive"),
        (b"", "export.csv: 0 bytes; deliver it again with its rows"),
        (b"<html><body>no table</body></html>", "export.csv: HTML or XML, whatever its name"),
        (bytes(range(1, 32)) * 9 + b"\xff\x81", "export.csv: bytes that are no text and no form that is read"),
        (b"\x1f\x8b\x08 not gzip", "export.csv: a gzip file that is damaged or cut off"),
    ],
)
def test_a_file_that_is_not_read_is_named_in_one_line(look: Look, content: bytes, said: str) -> None:
    with pytest.raises(UserError) as error:
        look(content)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_memory_does_not_grow_with_the_file(look: Look) -> None:
    peaks = []
    for rows in (12_000, 48_000):
        content = "Review,Posted\n" + "it is good to be here,1/5/2026\n" * rows
        tracemalloc.start()
        seen = look(content)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        peaks.append(peak - len(content))
        assert seen.present.refused is not None
        assert seen.proposed is not None
        assert seen.proposed.accepted == rows
    assert peaks[1] < peaks[0] + 2_000_000


@needs_cases
@pytest.mark.parametrize(
    "name",
    [
        "text-column-names/03_play_utf8_orig.csv",
        "text-column-names/10_col_body.csv",
        "text-column-names/10_col_review.csv",
        "text-column-names/11_intercom.jsonl",
        "utf16-bom-google-play/01_play_utf16_orig.csv",
        "ansi-rows-lost-for-ever/survey.csv",
    ],
)
def test_a_reported_file_is_read_with_the_lines_that_are_proposed(tmp_path: Path, name: str) -> None:
    seen = inspect_file(CASES / name, FeedbackSettings(), tmp_path)
    assert seen.present.refused is not None
    assert seen.proposed is not None
    assert seen.proposed.accepted == len(rows_with(seen, tmp_path)) >= 2
    assert not seen.proposed.rejected
    assert not seen.proposed.undated.forms
