"""Rows scored without being stored: what stands in the files of scores and of rejected rows."""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from emotion_assets.forms.problems import Quarantine
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.engines.registry import make_engine
from emotion_assets.scoring.unstored import RowsReport, score_rows
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds.feedback import drop_csv, state


def score_file(
    workspace: Workspace, path: Path, output: Path | None = None, rejects: Path | None = None, batch_size: int = 4
) -> RowsReport:
    rows = read_feedback(path, workspace.settings.feedback)
    engine = make_engine(workspace.settings.scoring)
    calibration = calibrate(workspace.settings, workspace.store)
    return score_rows(calibration, rows, engine, batch_size, output, rejects)


def test_a_file_is_scored_without_storing_anything(workspace: Workspace, tmp_path: Path) -> None:
    path = drop_csv(workspace, "a.csv", [{"id": "=1+1", "text": "=what a lovely day"}, {"id": "2", "text": " "}])
    report = score_file(workspace, path, tmp_path / "out.csv")
    assert str(report).startswith("1 rows scored by tfidf_svm")
    assert str(report).endswith("; 1 rejected as empty_text")
    assert (tmp_path / "out.csv").read_bytes().startswith(BOM_UTF8 + b'"row_number"')
    (row,) = csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8-sig"))
    assert (row["id"], row["text"]) == ("'=1+1", "'=what a lovely day")
    score_file(workspace, path, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == ["=what a lovely day"]
    assert state(workspace)["feedback"] == []


def test_every_rejected_row_stands_in_its_file_and_the_first_ten_are_named(
    workspace: Workspace, tmp_path: Path
) -> None:
    texts = [" " if number % 2 else f"text {number}, é" for number in range(50)]
    path = drop_csv(workspace, "a.csv", [{"id": str(number), "text": text} for number, text in enumerate(texts)])
    report = score_file(workspace, path, tmp_path / "out.csv", tmp_path / "rejects.csv")
    assert (report.scored, report.rejects) == (25, {"empty_text": 25})
    assert [row.row_number for row in report.named] == list(range(3, 23, 2))
    with (tmp_path / "rejects.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row_number"] for row in rows] == [str(number) for number in range(3, 53, 2)]
    assert {(row["reason_code"], row["detail"]) for row in rows} == {("empty_text", "text without a visible character")}
    assert rows[0]["raw_excerpt"].strip() == "1,"
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts[::2]


def test_scores_of_before_stay_when_nothing_is_scored_and_the_rejected_rows_are_written(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "out.csv").write_text("scores of before")
    path = drop_csv(workspace, "a.csv", [{"text": " "}])
    report = score_file(workspace, path, tmp_path / "out.csv", tmp_path / "rejects.csv")
    assert report.scored == 0
    assert (tmp_path / "out.csv").read_text() == "scores of before"
    assert "empty_text" in (tmp_path / "rejects.csv").read_text(encoding="utf-8-sig")


def test_a_file_that_cannot_be_read_to_its_end_writes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    path = drop_csv(workspace, "a.csv", [{"text": "good"}, {"text": " "}])
    path.write_bytes(path.read_bytes() + b'"never closed' + b"x" * 2_000_000)
    with pytest.raises(Quarantine):
        score_file(workspace, path, tmp_path / "out.csv", tmp_path / "rejects.csv", batch_size=1)
    assert [file.name for file in tmp_path.iterdir()] == ["home"]
