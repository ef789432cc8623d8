"""A file scored in parts: cut off and run again it goes on, and what changed meanwhile is scored anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.forms.problems import Quarantine
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.scoring import parts
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.engines.engine import Engine
from emotion_assets.scoring.engines.local import LocalEngine
from emotion_assets.scoring.parts import FileJob, score_file
from emotion_assets.scoring.unstored import RowsReport
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.scoring import ScoringSettings
from emotion_assets.storage.failpoints import VARIABLE
from emotion_assets.storage.locks import BusyError, file_lock
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import TINY_PROFILE, Terminal
from emotion_assets_tests.worlds import feedback as world


class Counting(Engine):
    """The local engine; ``texts`` holds all that it scored."""

    def __init__(self, fail_after: int = 10**9) -> None:
        self.texts: list[str] = []
        self._fail_after = fail_after

    def answers(self, calibration: Any, blocks: Any) -> Any:
        def counted() -> Iterator[pa.RecordBatch]:
            for block in blocks:
                self.texts += block["text"].to_pylist()
                yield block

        for number, answers in enumerate(LocalEngine(ScoringSettings()).answers(calibration, counted())):
            if number == self._fail_after:
                raise KeyboardInterrupt
            yield answers


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 20)


def write_parquet(path: Path, rows: int = 110) -> Path:
    texts = world.sample_texts()[:rows]
    texts = ["  " if i % 25 == 3 else text for i, text in enumerate(texts)]  # five of 110 are rejected
    pq.write_table(pa.table({"id": [f"r{i}" for i in range(rows)], "text": texts}), path)
    return path


def score(
    workspace: Workspace, source: Path, output: Path, engine: Engine | None = None, said: list[str] | None = None
) -> RowsReport:
    feedback = workspace.settings.feedback
    job = FileJob(
        source, lambda: read_feedback(source, feedback), "reading", output, output.with_suffix(".rejects.csv")
    )
    calibration = calibrate(workspace.settings, workspace.store)
    return score_file(job, calibration, engine or Counting(), 7, (said if said is not None else []).append)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_parts_joined_are_the_whole_and_nothing_is_left_over(workspace: Workspace, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "big.parquet")
    report = score(workspace, source, tmp_path / "scores.parquet")
    table = pq.read_table(tmp_path / "scores.parquet")
    kept = [i for i in range(110) if i % 25 != 3]
    assert table["id"].to_pylist() == [f"r{i}" for i in kept]
    assert (report.scored, dict(report.rejects)) == (len(kept), {"empty_text": 110 - len(kept)})
    assert [row.row_number for row in report.named] == [4, 29, 54, 79, 104]
    assert len((tmp_path / "scores.rejects.csv").read_text(encoding="utf-8-sig").splitlines()) == 6
    assert left_over(tmp_path) == []
    whole = score(workspace, source, tmp_path / "whole.csv")
    assert whole.emotions == report.emotions


def test_a_run_that_was_cut_off_goes_on_and_scores_no_finished_part_again(workspace: Workspace, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "big.parquet")
    score(workspace, source, tmp_path / "expected.parquet")
    output = tmp_path / "scores.parquet"
    with pytest.raises(KeyboardInterrupt):
        score(workspace, source, output, Counting(fail_after=8))  # parts take three batches each
    assert not output.exists()
    said: list[str] = []
    engine = Counting()
    report = score(workspace, source, output, engine, said)
    assert said == ["going on after 40 rows that an earlier run has done"]
    assert len(engine.texts) == 110 - 40 - 3
    assert report.scored == 105
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "expected.parquet"))
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("what", ["input", "model", "settings"])
def test_another_input_model_or_setting_starts_anew_and_says_so(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    source, output = write_parquet(tmp_path / "big.parquet"), tmp_path / "scores.parquet"
    with pytest.raises(KeyboardInterrupt):
        score(workspace, source, output, Counting(fail_after=8))
    if what == "input":
        write_parquet(source, 90)
    elif what == "model":
        world.train_champion(workspace, c=0.02)
    else:
        monkeypatch.setattr(parts, "PART_ROWS", 30)
    said: list[str] = []
    engine = Counting()
    report = score(workspace, source, output, engine, said)
    assert said == [f"the {what} changed since the run that was cut off: scoring all rows anew"]
    assert len(engine.texts) == report.scored == (86 if what == "input" else 105)


def test_a_file_that_cannot_be_read_to_its_end_leaves_nothing(workspace: Workspace, tmp_path: Path) -> None:
    source = tmp_path / "bad.csv"
    source.write_bytes(b"text\n" + b"a fine day\n" * 100 + b'"never closed' + b"x" * 2_000_000)
    with pytest.raises(Quarantine):
        score(workspace, source, tmp_path / "scores.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "home"]


def test_a_file_that_grows_while_it_is_read_is_one_line(workspace: Workspace, tmp_path: Path) -> None:
    source = tmp_path / "live.csv"
    source.write_bytes(b"text\n" + b"a fine day\n" * 100)

    class Growing(Counting):
        def answers(self, calibration: Any, blocks: Any) -> Any:
            yield from super().answers(calibration, blocks)
            with source.open("ab") as file:
                file.write(b"one more\n")

    with pytest.raises(UserError, match="changed while it was read; run again when it is whole"):
        score(workspace, source, tmp_path / "scores.csv", Growing())
    assert not (tmp_path / "scores.csv").exists()


def test_two_commands_do_not_write_one_output(workspace: Workspace, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "big.parquet")
    with file_lock(tmp_path / ".scores.csv.lock", 0, "a test"), pytest.raises(BusyError, match="another run"):
        score(workspace, source, tmp_path / "scores.csv")


@pytest.mark.parametrize("name", ["scores.txt", "nowhere/scores.csv"])
def test_an_output_that_cannot_be_written_is_told_before_anything_is_scored(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    engine = Counting()
    with pytest.raises(UserError, match=r"end in \.parquet or \.csv|no such folder"):
        score(workspace, write_parquet(tmp_path / "big.parquet"), tmp_path / name, engine)
    assert engine.texts == []


def test_an_empty_file_is_one_line_and_leaves_the_scores_of_before(workspace: Workspace, tmp_path: Path) -> None:
    terminal = Terminal(workspace.settings.home, {"EMOTION_PROFILE": str(TINY_PROFILE)})
    source, output = tmp_path / "empty.parquet", tmp_path / "scores.csv"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    output.write_text("scores of before")
    done = terminal.emotion_assets("score", str(source), "--output", str(output))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{source}: nothing scored, it holds no text; give one with rows\n"
    assert output.read_text() == "scores of before"


def test_the_command_killed_after_a_part_goes_on(workspace: Workspace, tmp_path: Path) -> None:
    source, output = tmp_path / "big.parquet", tmp_path / "scores.parquet"
    texts = [f"a fine day, number {i}" for i in range(70_000)]  # more than a part
    pq.write_table(pa.table({"text": texts}), source)
    terminal = Terminal(workspace.settings.home, {"EMOTION_PROFILE": str(TINY_PROFILE)})
    command = ["score", str(source), "--output", str(output)]
    killed = terminal.emotion_assets(*command, **{VARIABLE: "score.part"})
    assert killed.returncode == -9
    assert not output.exists()
    done = terminal.emotion_assets(*command)
    assert done.returncode == 0, done.stderr
    assert "going on after 65,536 rows" in done.stderr
    assert pq.read_table(output)["text"].to_pylist() == texts
    assert left_over(tmp_path) == []
    assert "70000 rows scored" in done.stdout
