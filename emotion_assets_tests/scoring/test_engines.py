"""Engines give the same scores whatever the number of workers; a killed worker costs no row and doubles none."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from emotion_assets.ingest.ledger import ingest
from emotion_assets.scoring.calibration import Calibration, calibrate
from emotion_assets.scoring.engines import parts
from emotion_assets.scoring.engines.engine import Engine, decode_scores, make_block, score_batches
from emotion_assets.scoring.engines.local import LocalEngine
from emotion_assets.scoring.engines.registry import make_engine
from emotion_assets.scoring.score import load_champion, score_feedback
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.scoring import ScoringSettings
from emotion_assets.storage.failpoints import VARIABLE
from emotion_assets.storage.store import StoreError
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import PROJECT
from emotion_assets_tests.worlds import feedback as world

TEXTS = world.sample_texts()[:60]


def engine_of(workers: int) -> Engine:
    return make_engine(ScoringSettings(workers=workers))


def blocks_of(sizes: list[int]) -> list[pa.RecordBatch]:
    """Blocks that hold all texts, in order."""
    assert sum(sizes) == len(TEXTS)
    ends = np.cumsum(sizes)
    return [make_block(TEXTS[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def probabilities(engine: Engine, calibration: Calibration, blocks: list[pa.RecordBatch]) -> np.ndarray:
    answers = list(engine.answers(calibration, iter(blocks)))
    assert [one.num_rows for one in answers] == [block.num_rows for block in blocks]
    return np.concatenate([decode_scores(one).probabilities for one in answers])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 4)


@pytest.mark.parametrize("kind", ["tfidf_svm", "bigru"])
def test_scores_do_not_depend_on_blocks_or_workers(workspace: Workspace, small_parts: None, kind: str) -> None:
    if kind == "bigru":
        world.train_bigru_champion(workspace, max_length=30)
    calibration = calibrate(workspace.settings, workspace.store)
    expected = load_champion(workspace).answers(TEXTS).probabilities
    for workers, sizes in ((1, [60]), (1, [7, 1, 22, 30]), (2, [60]), (2, [7, 1, 22, 30])):
        found = probabilities(engine_of(workers), calibration, blocks_of(sizes))
        assert np.abs(found - expected).max() < 1e-5
        assert (found.argmax(1) == expected.argmax(1)).all()


def test_no_block_gives_no_answer(workspace: Workspace) -> None:
    calibration = calibrate(workspace.settings, workspace.store)
    assert list(engine_of(1).answers(calibration, iter([]))) == []
    assert list(engine_of(2).answers(calibration, iter([]))) == []


def test_a_killed_worker_loses_no_row_and_doubles_none(workspace: Workspace, small_parts: None) -> None:
    calibration = calibrate(workspace.settings, workspace.store)
    expected = load_champion(workspace).answers(TEXTS).probabilities
    killed: list[int] = []

    def killing(blocks: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, block in enumerate(blocks):
            if number == 5:
                worker = workers_of(os.getpid())[0]
                worker.kill()
                killed.append(worker.pid)
            yield block

    answers = list(engine_of(2).answers(calibration, killing(blocks_of([6] * 10))))
    assert killed
    assert np.abs(np.concatenate([decode_scores(one).probabilities for one in answers]) - expected).max() < 1e-5
    assert workers_of(os.getpid()) == []


def workers_of(pid: int) -> list[psutil.Process]:
    """Processes that score; one that reads files may be there since an earlier test."""
    readers = {process.pid for process in multiprocessing.active_children() if process.name == "file reader"}
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if child.pid not in readers and "spawn_main" in " ".join(child.cmdline())]


def test_workers_that_are_killed_again_and_again_are_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "scoring.worker")
    calibration = calibrate(workspace.settings, workspace.store)
    with pytest.raises(UserError, match=r"killed 3 times on the same texts.*lower scoring\.workers"):
        list(engine_of(2).answers(calibration, iter([make_block(TEXTS[:2])])))
    assert workers_of(os.getpid()) == []


def test_a_worker_whose_model_cannot_be_loaded_says_so(workspace: Workspace) -> None:
    calibration = calibrate(workspace.settings, workspace.store)
    calibration.folder.file("model.safetensors").touch()
    with pytest.raises(StoreError, match="changed while it was read"):
        list(engine_of(2).answers(calibration, iter([make_block(TEXTS[:2])])))


RUN = """
import sys
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.engines.engine import make_block
from emotion_assets.scoring.engines.local import LocalEngine
from emotion_assets.settings.scoring import ScoringSettings
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from pathlib import Path

def blocks():
    while True:
        yield make_block(["a day", "another"])

if __name__ == "__main__":
    workspace = Workspace(world.settings(Path(sys.argv[1])))
    calibration = calibrate(workspace.settings, workspace.store)
    for _ in LocalEngine(ScoringSettings(workers=2)).answers(calibration, blocks()):
        print("answered", flush=True)
"""


def test_workers_end_with_a_killed_parent(workspace: Workspace, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(workspace.settings.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(PROJECT)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"answered\n"
        workers = workers_of(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_feedback_scored_by_two_processes_gives_the_tables_of_one(make_home, small_parts: None) -> None:
    states = []
    for name, workers in (("one", 1), ("two", 2)):
        workspace = make_home(name, batch_size=32)
        world.drop_inbox(workspace)
        ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")
        settings = workspace.settings.model_copy(update={"scoring": ScoringSettings(workers=workers)})
        score_feedback(settings, workspace.store, workspace.warehouse, "run")
        states.append(world.state(workspace))
    assert len(states[0]["scored_feedback"]) > 200
    assert states[0] == states[1]


def test_batches_without_a_text_keep_their_place(workspace: Workspace) -> None:
    calibration = calibrate(workspace.settings, workspace.store)
    batches = [[], ["a"], [], [], ["b", "c"], []]
    found = list(score_batches(engine_of(1), calibration, batches, lambda batch: batch))
    assert [batch for batch, _ in found] == batches
    assert [None if scores is None else len(scores.truncated) for _, scores in found] == [None, 1, None, None, 2, None]


def test_what_the_reader_raises_comes_out_and_what_was_read_before_is_answered(workspace: Workspace) -> None:
    calibration = calibrate(workspace.settings, workspace.store)

    def blocks() -> Iterator[pa.RecordBatch]:
        yield make_block(["a"])
        raise UserError("the file ends too early")

    for workers in (1, 2):
        answers = LocalEngine(ScoringSettings(workers=workers)).answers(calibration, blocks())
        with pytest.raises(UserError, match="ends too early"):
            list(answers)


def test_a_model_that_is_written_to_while_it_scores_stops_before_the_next_batch(workspace: Workspace) -> None:
    calibration = calibrate(workspace.settings, workspace.store)
    scored = score_batches(engine_of(1), calibration, [["a"], ["b"], ["c"]], lambda batch: batch)
    assert next(scored)[0] == ["a"]
    weights = calibration.folder.file("model.safetensors")
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(StoreError, match="changed while it was read; materialise"):
        list(scored)


def test_a_model_that_changes_between_its_check_and_its_load_is_not_used(workspace: Workspace) -> None:
    calibration = calibrate(workspace.settings, workspace.store)
    folder, seal = calibration.seals[0]
    with pytest.raises(StoreError, match="changed while it was read"):
        replace(calibration, seals=((folder, seal[::-1]),)).load()
