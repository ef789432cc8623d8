"""The Ray engine on a real cluster of this machine: the same answers, whatever happens to its actors."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from emotion_assets.ingest.ledger import ingest
from emotion_assets.scoring.calibration import Calibration, calibrate
from emotion_assets.scoring.engines.engine import decode_scores, make_block
from emotion_assets.scoring.engines.local import LocalEngine
from emotion_assets.scoring.engines.ray import RayEngine, _connected, _import_ray, pack, unpack
from emotion_assets.scoring.engines.registry import choose_engine
from emotion_assets.scoring.score import score_feedback
from emotion_assets.settings.scoring import RaySettings, ScoringSettings
from emotion_assets.storage.store import StoredFolder, StoreError
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: install emotion_assets[ray]"
    ),
    pytest.mark.timeout(120),
]

ACTORS = 2
SETTINGS = ScoringSettings(engine="ray", workers=ACTORS)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests of this file: the engine uses what the process is connected to."""
    with _connected(_import_ray(), RaySettings(), ACTORS):
        yield


@pytest.fixture
def calibration(workspace: Workspace) -> Calibration:
    return calibrate(workspace.settings, workspace.store)


def texts(n: int) -> list[str]:
    given = world.sample_texts()
    return [f"{given[i % len(given)]} {i}" for i in range(n)]


def blocks(given: list[str], size: int) -> Iterator[pa.RecordBatch]:
    return (make_block(given[start : start + size]) for start in range(0, len(given), size))


def score(engine: RayEngine | LocalEngine, calibration: Calibration, given: list[str], size: int) -> np.ndarray:
    answers = [decode_scores(block) for block in engine.answers(calibration, blocks(given, size))]
    return np.concatenate([one.probabilities for one in answers])


def actors() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if "ray::Worker" in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


def wait_for_no_actor() -> None:
    deadline = time.monotonic() + 30
    while actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert actors() == []


@pytest.mark.parametrize("size", [1700, 300])
def test_the_answers_are_those_of_one_process_in_any_blocks(calibration: Calibration, size: int) -> None:
    given = texts(1700)
    expected = score(LocalEngine(ScoringSettings()), calibration, given, 4096)
    found = score(RayEngine(SETTINGS), calibration, given, size)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    wait_for_no_actor()


def test_the_order_of_the_texts_changes_no_answer(calibration: Calibration) -> None:
    given = texts(900)
    order = np.random.default_rng(1).permutation(len(given))
    straight = score(RayEngine(SETTINGS), calibration, given, 400)
    mixed = score(RayEngine(SETTINGS), calibration, [given[i] for i in order], 400)
    np.testing.assert_allclose(mixed, straight[order], atol=1e-5, rtol=0)


def test_a_killed_actor_is_replaced_and_no_row_is_lost_or_doubled(calibration: Calibration) -> None:
    given = texts(6000)
    expected = score(LocalEngine(ScoringSettings()), calibration, given, 4096)
    answered, killed = [], 0
    for block in RayEngine(SETTINGS).answers(calibration, blocks(given, 500)):
        answered.append(decode_scores(block).probabilities)
        if len(answered) in (1, 4):
            os.kill(actors()[0].pid, signal.SIGKILL)
            killed += 1
    assert killed == 2
    found = np.concatenate(answered)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_only_a_few_blocks_are_read_ahead_of_the_answers(calibration: Calibration) -> None:
    read = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal read
        for block in blocks(texts(10_000), 100):
            read += 1
            yield block

    answers = RayEngine(SETTINGS).answers(calibration, counted())
    for given in range(1, 20):
        next(answers)
        assert read <= given + 2 * ACTORS
    answers.close()
    wait_for_no_actor()


def test_a_model_that_is_gone_is_the_line_that_one_process_says(calibration: Calibration, tmp_path: Path) -> None:
    gone = replace(calibration, folder=StoredFolder(tmp_path / "gone", calibration.folder.digest))
    said = []
    for engine in (LocalEngine(ScoringSettings()), RayEngine(SETTINGS)):
        with pytest.raises((StoreError, OSError)) as raised:
            score(engine, gone, ["so happy"], 10)
        said.append((type(raised.value), str(raised.value)))
    assert said[0] == said[1]
    wait_for_no_actor()


def test_what_the_blocks_raise_comes_through(calibration: Calibration) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield make_block(["so happy"])
        raise RuntimeError("the file is torn")

    with pytest.raises(RuntimeError, match="the file is torn"):
        list(RayEngine(SETTINGS).answers(calibration, broken()))
    wait_for_no_actor()


def test_the_same_rows_are_stored_as_by_one_process(make_home: Callable[..., Workspace]) -> None:
    found = []
    for name in ("local", "ray"):
        workspace = make_home(name, batch_size=40)
        world.drop_inbox(workspace)
        ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")
        settings = choose_engine(workspace.settings, name)
        score_feedback(settings, workspace.store, workspace.warehouse, "run")
        found.append(world.state(workspace))
    local, ray = (state.pop("scored_feedback") for state in found)
    assert found[0].keys() == found[1].keys()
    for one, other in zip(local, ray, strict=True):
        assert one.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-5)
        assert one.pop("confidence") == pytest.approx(other.pop("confidence"), abs=1e-5)
        assert one == other
    queues = [{row["feedback_id"]: row["reason"] for row in state["review_queue"]} for state in found]
    assert queues[0] == queues[1]


def test_a_slice_is_sent_without_the_rows_beside_it() -> None:
    block = make_block([f"text {i}" * 10 for i in range(4000)])
    part = block.slice(1000, 3)
    assert len(pack(part)) < 2000
    assert unpack(pack(part)).equals(part)
