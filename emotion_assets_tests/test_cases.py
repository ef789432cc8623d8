"""The reported cases, one test each with an input of its own; where the reported files lie beside the project, they
are read too. Labelled data among them: ``dataset.test_rows`` reads the files."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.cli.scoring import check_targets, feedback_file
from emotion_assets.dataset.splits import load_dataset
from emotion_assets.forms.problems import Quarantine, Rejected
from emotion_assets.ingest.ledger import ingest
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.reports.pending import find_pending_work
from emotion_assets.review.queue import export_review, import_review
from emotion_assets.settings.errors import DataError, UserError
from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets.settings.schema import DatasetSettings
from emotion_assets.storage.exports import export_scores, exports_folder
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import CASES, TINY_PROFILE, Terminal, needs_cases
from emotion_assets_tests.worlds import feedback as world

LABELS = ("joy", "anger")
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def inbox(tmp_path: Path) -> Callable[..., list[tuple[Any, ...]]]:
    """Put files into the inbox and take them in: accepted, duplicate, rejected and undated rows of each that is new,
    or why it is set aside."""

    def take(files: dict[str, bytes | str], **feedback: Any) -> list[tuple[Any, ...]]:
        workspace = Workspace(world.settings(tmp_path / "home", **feedback))
        for name, content in files.items():
            path = workspace.settings.inbox / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        report = ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")
        counts = [file.counts for file in report.new]
        told = [(c.accepted, c.duplicate, c.rejected, c.undated) for c in counts]
        return [(file.reason,) if file.reason else told[place] for place, file in enumerate(report.new)]

    return take


@pytest.fixture
def split(tmp_path: Path) -> Callable[..., list[tuple[str, str]]]:
    """Write a training file beside a sound test file, and read the training rows."""
    (tmp_path / "test.csv").write_text("text,label\nso glad,joy\nso cross,anger\n")

    def rows(name: str, content: str, labels: tuple[str, ...] = LABELS, **settings: Any) -> list[tuple[str, str]]:
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        (tmp_path / "val.txt").write_text(f"so so;{labels[0]}\n")
        if labels != LABELS:
            (tmp_path / "test.csv").write_text(f"text,label\nso glad,{labels[0]}\n")
        loaded = load_dataset(DatasetSettings(source=str(tmp_path), **settings), labels, 17)
        assert len(loaded.splits["validation"]) == 1
        return list(loaded.splits["train"].itertuples(index=False, name=None))

    return rows


@pytest.fixture
def finished(workspace: Workspace) -> Workspace:
    world.drop_inbox(workspace)
    world.run_feedback(workspace)
    return workspace


def test_ansi_rows_come_once_the_encoding_is_named(inbox) -> None:
    rows = "text;created_at\r\nall well here;2026-10-01\r\nd\u00e9\u00e7u, na\u00efve \u2013 sad;2026-10-02\r\n"
    ((why,),) = inbox({"survey.csv": rows.encode("cp1252")})
    assert why.startswith("wrong_encoding: line 3 is not utf-8; set feedback.sources.default.encoding")
    assert inbox({}) == []
    assert inbox({}, sources={"default": {"encoding": "cp1252"}}) == [(2, 0, 0, 0)]
    assert inbox({}, sources={"default": {"encoding": "cp1252"}}) == []
    assert inbox({"survey_utf8.csv": rows}, sources={"default": {"encoding": "cp1252"}}) == [(0, 2, 0, 0)]


def test_dates_cost_no_row_and_come_back_with_the_setting(inbox, tmp_path: Path) -> None:
    times = ["2026-11-02 10:00:00 UTC", "02/11/2026 10:00", "1790841600", "24-02-2015 11.35", "2026-02-30", ""]
    lines = "".join(f"t{place},{time},a text {place}\n" for place, time in enumerate(times))
    assert inbox({"dates.csv": "id,created_at,text\n" + lines}) == [(6, 0, 0, 3)]
    formats = {"default": {"created_at_format": ["%d/%m/%Y %H:%M", "%d-%m-%Y %H.%M"]}}
    assert inbox({}, sources=formats) == []  # nothing is new: the rows that are there get their dates
    rows = {row["feedback_id"]: row for row in world.state(Workspace(world.settings(tmp_path / "home")))["feedback"]}
    assert [key for key, row in rows.items() if row["created_at"] is None] == ["t4", "t5"]
    assert json.loads(rows["t4"]["attributes"]) == {"created_at": "2026-02-30"}
    assert rows["t3"]["created_at"].isoformat() == "2015-02-24T11:35:00+00:00"


def test_files_for_spreadsheets_begin_with_a_mark(finished: Workspace, tmp_path: Path) -> None:
    export_review(finished.warehouse, tmp_path / "review.csv", finished.settings.labels)
    export_scores(finished.warehouse, tmp_path / "scores.csv")
    current = exports_folder(finished.warehouse) / "current" / "scores.csv"
    for path in (tmp_path / "review.csv", tmp_path / "scores.csv", current):
        assert path.read_bytes().startswith(BOM)


def test_a_review_file_may_declare_its_delimiter(finished: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    export_review(finished.warehouse, path, finished.settings.labels)
    content = path.read_bytes().removeprefix(BOM)
    path.write_bytes(BOM + b"sep=,\r\n" + content)
    assert "review_id" not in str(import_review(finished.warehouse, path, finished.settings.labels))


def test_an_export_that_grows_counts_once(inbox) -> None:
    first = "text,created_at\nall well here,2026-11-02\n"
    assert inbox({"nov.csv": first}) == [(1, 0, 0, 0)]
    assert inbox({"nov.csv": first + "not so well,2026-11-03\n"}) == [(1, 1, 0, 0)]


def test_an_id_is_of_its_source_and_an_edited_review_is_a_version(inbox) -> None:
    assert inbox({"a/x.csv": "id,text\n1,late again\n", "b/y.csv": "id,text\n1,it crashes\n"}) == [(1, 0, 0, 0)] * 2
    assert inbox({"b/z.csv": "id,text\n1,it works now\n"}) == [(1, 0, 0, 0)]


LIST = json.dumps([{"id": "a", "text": "all well"}, {"id": "b", "text": "not so well"}])


@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
@pytest.mark.parametrize(
    "content", [LIST, json.dumps(json.loads(LIST), indent=2), LIST.strip("[]").replace("}, ", "}\n")]
)
def test_a_json_list_is_read_under_any_name(name: str, content: str, inbox) -> None:
    assert inbox({name: content}) == [(2, 0, 0, 0)]


def test_one_odd_attribute_costs_no_row(inbox) -> None:
    survey = "ID,text,Response,Response\n,Open-Ended Response,Yes,No\n7,not so well,Yes,\n"
    assert inbox({"a.csv": survey, "b.jsonl": '\ufeff{"text": "fine", "rating": NaN}\r\n'}) == [
        (2, 0, 0, 0),
        (1, 0, 0, 0),
    ]


def test_the_file_that_is_read_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text\nfine\n")
    with pytest.raises(UserError, match="is the file that is read; give another name"):
        check_targets(path, output=path)


def test_a_path_that_is_missing_is_no_text() -> None:
    with pytest.raises(UserError, match="No such file"):
        feedback_file("my missing reviews.csv")
    assert feedback_file("it came late. And broken.") is None


def test_a_table_of_ones_own_is_no_damage(finished: Workspace) -> None:
    with duckdb.connect(finished.settings.database) as db:
        db.execute("CREATE TABLE notes AS SELECT 1 AS a")
    world.run_feedback(finished)


def test_nothing_scored_names_the_rows_and_ends_with_2(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": 5}\n{"text": " "}\n')
    terminal = Terminal(workspace.settings.home, {"EMOTION_PROFILE": str(TINY_PROFILE)})
    done = terminal.emotion_assets("score", str(path))
    assert done.returncode == 2
    assert "row 1: text_not_string, " in done.stdout and "row 2: empty_text, " in done.stdout


def test_the_sensor_counts_what_is_quarantined(finished: Workspace) -> None:
    said = str(find_pending_work(finished.settings, finished.store, finished.warehouse, time.time(), {}))
    assert "2 quarantined (e_broken.csv: wrong_encoding, shop/f_ansi.csv: wrong_encoding)" in said


def test_labels_that_the_file_explains_are_read_and_others_asked_for(split, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"labels are numbers; give their names in that order under dataset\.label_names"
    ):
        split("train.csv", "text,label\nso happy,1\nso angry,0\n")
    told = "text,label,label_text\nso happy,1,joy\nso angry,0,anger\n"
    assert split("train.csv", told) == [("so happy", "joy"), ("so angry", "anger")]
    (tmp_path / "train.csv").unlink()
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["anger", "joy"], "_type": "ClassLabel"},
    }
    table = pa.Table.from_pandas(pd.DataFrame({"text": ["so happy", "so angry"], "label": [1, 0]}))
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "train.parquet")
    loaded = load_dataset(DatasetSettings(source=str(tmp_path)), LABELS, 17)
    assert list(loaded.splits["train"]["label"]) == ["joy", "anger"]


def test_labelled_lines_are_read_under_the_name_json(split) -> None:
    assert split("train.json", '{"text":"a","label":"joy"}\n{"text":"b","label":"anger"}\n') == [
        ("a", "joy"),
        ("b", "anger"),
    ]


def test_a_list_of_labels_is_one_line_and_of_one_is_taken(split) -> None:
    rows = '{"text":"a","label":["joy"]}\n{"text":"b","label":["anger"]}\n'
    assert split("train.jsonl", rows) == [("a", "joy"), ("b", "anger")]
    with pytest.raises(DataError, match="row 1: the label is a list; this project takes one label a row"):
        split("train.jsonl", '{"text":"a","label":["joy","anger"]}\n')


def test_only_line_ends_end_a_line(split) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    assert split("train.csv", f"text,label\r\n{text},joy\r\nx,anger\r\n")[0] == (text, "joy")


def test_labels_are_compared_as_text(split) -> None:
    assert split("train.jsonl", '{"text":"a","label":0}\n{"text":"b","label":1}\n', ("0", "1")) == [
        ("a", "0"),
        ("b", "1"),
    ]


PLAY = {"text": "Review Text", "id": "Review Link", "created_at": "Review Submit Millis Since Epoch"}
REPORTED: list[tuple[str, dict[str, Any], int, int]] = [  # file, source, accepted rows, of them undated
    ("ansi-rows-lost-for-ever/survey.csv", {"encoding": "cp1252"}, 4, 0),
    ("ansi-rows-lost-for-ever/survey_utf8.csv", {"encoding": "cp1252"}, 4, 0),
    ("created-at-formats/12_epoch_s.jsonl", {}, 5, 0),
    ("created-at-formats/17_dates.csv", {}, 26, 6),
    ("created-at-formats/32_epoch.parquet", {}, 3, 0),
    ("growing-file-without-ids-counts-twice/day2.csv", {}, 2, 0),
    ("gzip/08_feedback.csv.gz", {}, 5, 0),
    ("ids-of-two-sources-collide/store_a.csv", {}, 2, 0),
    ("json-array/13_array.json", {}, 5, 0),
    ("json-array/15_lines.json", {}, 5, 0),
    ("json-array/16_array.jsonl", {}, 5, 0),
    ("one-odd-attribute-loses-the-row-or-file/22_surveymonkey.csv", {}, 2, 0),
    ("one-odd-attribute-loses-the-row-or-file/29_float_id.parquet", {}, 3, 0),
    ("one-odd-attribute-loses-the-row-or-file/bom.jsonl", {}, 2, 0),
    ("one-odd-attribute-loses-the-row-or-file/list.parquet", {}, 3, 0),
    ("one-odd-attribute-loses-the-row-or-file/nanattr2.parquet", {}, 3, 0),
    ("output-overwrites-input/reviews.csv", {}, 2, 0),
    ("rejects-without-row-and-rc-0/12_epoch_s.jsonl", {}, 5, 0),
    ("sensor-calls-quarantined-ingested/02_play_utf16_text.csv", {}, 5, 0),
    ("sep-line/04_sep_line.csv", {}, 5, 0),
    ("text-column-names/03_play_utf8_orig.csv", {"columns": PLAY}, 5, 0),
    ("text-column-names/10_col_Text.csv", {}, 5, 0),
    ("text-column-names/10_col_body.csv", {"columns": {"text": "body"}}, 5, 0),
    ("text-column-names/10_col_review.csv", {"columns": {"text": "review"}}, 5, 0),
    ("text-column-names/10_col_spacetext.csv", {}, 5, 0),
    ("text-column-names/11_intercom.jsonl", {"columns": {"text": "body"}}, 5, 0),
    ("utf16-bom-google-play/01_play_utf16_orig.csv", {"columns": PLAY}, 5, 0),
    ("utf16-bom-google-play/02_play_utf16_text.csv", {"encoding": "cp1252"}, 5, 0),
]
OTHERS = {
    "csv-export-without-bom", "missing-file-is-scored-as-text", "own-table-is-called-damage",  # commands alone
    "hf-integer-labels", "json-lines-named-json", "multi-label-crashes", "u2028-splits-dataset-csv",
    "unknown-label-0-use-one-of-0", "val-file-silently-ignored",  # dataset.test_rows
}  # fmt: skip


@needs_cases
@pytest.mark.parametrize(("name", "source", "rows", "undated"), REPORTED)
def test_the_reported_files_are_read(name: str, source: dict[str, Any], rows: int, undated: int) -> None:
    read = list(read_feedback(CASES / name, FeedbackSettings(sources={"default": source})))
    assert Counter(type(row) for row in read) == {Accepted: rows}, [row for row in read if isinstance(row, Rejected)]
    assert sum(isinstance(row, Accepted) and row.undated is not None for row in read) == undated


@needs_cases
@pytest.mark.parametrize("name", ["10_col_body.csv", "10_col_review.csv", "11_intercom.jsonl", "03_play_utf8_orig.csv"])
def test_the_reported_files_without_a_text_name_the_column(name: str) -> None:
    likely = {"11_intercom.jsonl": "body", "03_play_utf8_orig.csv": "Review Text"}.get(name, name[7:-4])
    with pytest.raises(Quarantine, match=rf"name it in feedback\.sources\.default\.columns\.text \(.*{likely}"):
        list(read_feedback(CASES / "text-column-names" / name, FeedbackSettings()))


@needs_cases
def test_every_reported_case_is_tried() -> None:
    folders = {path.name for path in CASES.iterdir() if path.is_dir()}
    assert folders == {name.split("/")[0] for name, *_ in REPORTED} | OTHERS
