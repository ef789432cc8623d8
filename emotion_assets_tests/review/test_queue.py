"""The queue goes to a person and comes back; a line that cannot be used is named, the others count."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from emotion_assets.review.queue import export_review, import_review, reviewed_rows
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.exports import exports_folder
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import LABELS, drop_csv, state

Edit = Callable[[list[dict[str, str]]], None]


@pytest.fixture
def queued(workspace: Workspace) -> Workspace:
    rows = [{"id": str(i), "text": text} for i, text in enumerate(["=cmd()", "oh", "oh", *world.sample_texts()[:20]])]
    drop_csv(workspace, "a.csv", rows)
    world.run_feedback(workspace)
    return workspace


def filled(workspace: Workspace, path: Path, edit: Edit, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """Export the queue, let ``edit`` change its lines, write it back."""
    export_review(workspace.warehouse, path, LABELS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    edit(lines)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(lines)
    return path


def label_all(lines: list[dict[str, str]]) -> None:
    for line in lines:
        line |= {"label": "joy", "reviewer": "Anna"}


def test_each_text_is_one_line_and_its_label_goes_to_every_row(queued: Workspace, tmp_path: Path) -> None:
    queue = state(queued)["review_queue"]
    outcome = import_review(queued.warehouse, filled(queued, tmp_path / "r.csv", label_all), LABELS)
    assert outcome.labelled_texts == len({row["text"] for row in queue})
    assert outcome.labelled_rows == len(queue) > outcome.labelled_texts
    assert {(row["label"], row["reviewer"]) for row in _queue(queued)} == {("joy", "Anna")}
    assert export_review(queued.warehouse, tmp_path / "again.csv", LABELS) == 0


def _queue(workspace: Workspace) -> list[dict]:
    with workspace.warehouse.reading() as db:
        from emotion_assets.storage.warehouse.database import fetch

        return fetch(db, "SELECT * FROM review_queue").to_pylist()


def test_a_text_that_a_spreadsheet_would_run_is_neutralised_and_comes_back_all_the_same(
    queued: Workspace, tmp_path: Path
) -> None:
    def only_the_formula(lines: list[dict[str, str]]) -> None:
        (line,) = [line for line in lines if "cmd" in line["text"]]
        assert line["text"] == "'=cmd()"
        label_all([line])

    import_review(queued.warehouse, filled(queued, tmp_path / "r.csv", only_the_formula), LABELS)
    assert [row["text"] for row in _queue(queued) if row["label"]] == ["=cmd()"]


def test_bad_lines_are_named_and_the_others_count(queued: Workspace, tmp_path: Path) -> None:
    def spoil(lines: list[dict[str, str]]) -> None:
        label_all(lines[:6])
        lines[0]["label"] = "bored"
        lines[1]["reviewer"] = ""
        lines[2]["review_id"] = "r123"
        lines[3]["reviewed_at"] = "yesterday"
        lines.append({**lines[4], "label": "anger"})

    path = filled(queued, tmp_path / "r.csv", spoil)
    outcome = import_review(queued.warehouse, path, LABELS)
    assert outcome.labelled_texts == 2
    reasons = [why for _, why in outcome.rejected]
    for part in ("'bored' is not known", "reviewer is empty", "not in the queue", "no ISO 8601", "earlier line"):
        assert sum(part in why for why in reasons) == 1
    assert "line 2: left out" in str(outcome)


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8"), ("\t", "utf-8-sig"), (",", "utf-8-sig")])
def test_what_spreadsheets_save_is_read(queued: Workspace, tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = filled(queued, tmp_path / "r.csv", label_all, delimiter, encoding)
    assert import_review(queued.warehouse, path, LABELS).rejected == ()


def test_a_label_given_again_replaces_the_first(queued: Workspace, tmp_path: Path) -> None:
    path = filled(queued, tmp_path / "r.csv", label_all)
    import_review(queued.warehouse, path, LABELS)
    path.write_text(path.read_text(encoding="utf-8").replace(",joy,Anna", ",anger,Ben"), encoding="utf-8")
    import_review(queued.warehouse, path, LABELS)
    assert {row["reviewer"] for row in _queue(queued)} == {"Ben"}


def test_imported_labels_are_in_the_exports_at_once(queued: Workspace, tmp_path: Path) -> None:
    import_review(queued.warehouse, filled(queued, tmp_path / "r.csv", label_all), LABELS)
    table = pq.read_table(exports_folder(queued.warehouse) / "current" / "review_queue.parquet")
    assert set(table["label"].to_pylist()) == {"joy"}


def test_reviewed_rows_for_training_leave_the_audit_sample_out(queued: Workspace, tmp_path: Path) -> None:
    import_review(queued.warehouse, filled(queued, tmp_path / "r.csv", label_all), LABELS)
    audit = {row["text"] for row in _queue(queued) if row["audit"]}
    joined = reviewed_rows(queued.warehouse, LABELS)
    assert {text for text, _ in joined} == {row["text"] for row in _queue(queued)} - audit
    assert len(joined) > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"review_id,text\nr1,x\n", "no column is named 'label'"),
        (b"", "holds nothing but blanks"),
    ],
)
def test_a_file_that_is_no_review_is_one_line(workspace: Workspace, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        import_review(workspace.warehouse, path, LABELS)
    with pytest.raises(UserError, match="no such file"):
        import_review(workspace.warehouse, tmp_path / "none.csv", LABELS)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\); give the filled-in .xlsx or .csv file"):
        import_review(workspace.warehouse, tmp_path, LABELS)


def test_a_line_that_cannot_be_read_is_named_and_the_others_count(queued: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    export_review(queued.warehouse, path, LABELS)
    (first, *_) = [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
    path.write_bytes(
        b"review_id;label;reviewer\n" + first.encode() + b';joy;ann\nr2;caf\xe9;ann\nr3;"joy"x;ann\nr4;joy;ann;more\n'
    )
    outcome = import_review(queued.warehouse, path, LABELS)
    assert outcome.labelled_texts == 1
    assert [number for number, _ in outcome.rejected] == [3, 4, 5]
