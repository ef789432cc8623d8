"""Progress as people read it."""

from __future__ import annotations

import gzip
import json
import re
from itertools import islice
from pathlib import Path

import openpyxl
import pytest

from emotion_assets.cli.scoring import score_source
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.scoring import progress
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.progress import FileRows, RateLine, describe_rate, describe_seconds
from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets.storage.workspace import Workspace


def test_a_line_comes_every_ten_seconds_and_at_the_end_with_the_rate_since_the_start() -> None:
    clock, said = [0.0], []
    line = RateLine(said.append, lambda: clock[0])
    clock[0] = 100.0
    line.start(1000)
    for at, done in ((105, 1500), (112, 2200), (115, 2500), (120, 3000)):
        clock[0] = float(at)
        line(done, 3000)
    assert said == ["2,200 of 3,000 rows scored, 100 rows/s, 8 s left", "3,000 of 3,000 rows scored, 100 rows/s"]


@pytest.mark.parametrize(
    ("seconds", "told"), [(3, "3 s"), (89, "89 s"), (95, "2 min"), (3600, "60 min"), (7500, "2 h 05 min")]
)
def test_how_long(seconds: float, told: str) -> None:
    assert describe_seconds(seconds) == told


def test_without_a_total_or_a_rate_nothing_is_made_up() -> None:
    assert describe_rate(500, None, 500, 5) == "500 rows scored, 100 rows/s"
    assert describe_rate(0, 500, 0, 0) == "0 of 500 rows scored"
    assert describe_rate(250, 500, 250, 5, exact=False) == "250 of about 500 rows scored, 50 rows/s, about 5 s left"


def write_rows(path: Path, rows: int) -> Path:
    """A file of feedback in the form that its name says."""
    texts = [f"so happy about number {i}" for i in range(rows)]
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for text in ["text", *texts]:
            book.active.append([text])
        book.save(path)
        return path
    content = {
        ".csv": "\n".join(["text", *texts]),
        ".jsonl": "\n".join(json.dumps({"text": text}) for text in texts),
        ".json": json.dumps([{"text": text} for text in texts]),
    }[path.suffixes[0]].encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.csv.gz", "a.jsonl.gz"])
def test_the_rows_of_a_text_file_are_estimated_by_the_share_of_its_bytes(tmp_path: Path, name: str) -> None:
    path, file = write_rows(tmp_path / name, 40_000), FileRows()
    rows = file.counted(read_feedback(path, FeedbackSettings(), opened=file.opened))
    assert len(list(islice(rows, 20_000))) == 20_000
    assert file.total is not None
    assert 40_000 <= file.total <= 45_000
    assert not file.exact
    assert len(list(rows)) == 20_000
    assert (file.total, file.exact) == (40_000, True)


@pytest.mark.parametrize("name", ["small.csv", "a.xlsx"])
def test_of_a_small_file_or_a_workbook_nothing_is_made_up(tmp_path: Path, name: str) -> None:
    path, file = write_rows(tmp_path / name, 1500), FileRows()
    rows = file.counted(read_feedback(path, FeedbackSettings(), opened=file.opened))
    assert len(list(islice(rows, 1200))) == 1200
    assert (file.total, file.exact) == (None, False)
    assert len(list(rows)) == 300
    assert (file.total, file.exact) == (None, False)


@pytest.mark.parametrize("output", [None, "scores.csv"])
def test_scoring_a_text_file_says_about_how_long_it_takes_yet(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output: str | None,
) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    calibration = calibrate(workspace.settings, workspace.store)
    source, target = write_rows(tmp_path / "a.csv.gz", 40_000), None if output is None else tmp_path / output
    score_source(calibration, source, workspace.settings, target, None)
    lines = capsys.readouterr().err.splitlines()
    estimates = [
        re.fullmatch(r"([\d,]+) of about ([\d,]+) rows scored, [\d,]+ rows/s, about \d+ s left", line) for line in lines
    ]
    totals = [int(found[2].replace(",", "")) for found in estimates if found]
    assert totals
    assert all(40_000 <= total <= 80_000 for total in totals)
    assert re.fullmatch(r"40,000 of 40,000 rows scored, [\d,]+ rows/s", lines[-1])
