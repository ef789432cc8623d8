"""A training ends with its run, however that ends, and a run that is over gets no materialisation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from emotion_assets.defs import run_end
from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets_tests.conftest import PROJECT, Terminal
from emotion_assets_tests.defs.test_branches import write_dataset

PROFILE = """
description: one model whose training takes hours
labels: [joy, anger]
models:
  bigru: {method: bigru, hidden_size: 8, embedding_size: 8, training: {epochs: 1000000, batch_size: 4}}
"""
TRAINING = "emotion_assets.jobs.process"


def wait_for(what: Callable[[], Any], seconds: float = 240) -> Any:
    for _ in range(int(seconds / 0.2)):
        if found := what():
            return found
        time.sleep(0.2)
    return pytest.fail(f"waited {seconds} s in vain")


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def training_run(tmp_path: Path) -> Any:
    """The worker of a run that trains, with every process it started."""
    (tmp_path / "mine.yaml").write_text(PROFILE)
    dataset = write_dataset(tmp_path / "dataset")
    terminal = Terminal(
        tmp_path / "home", {"EMOTION_PROFILE": str(tmp_path / "mine.yaml"), "EMOTION_DATASET": str(dataset)}
    )
    assert terminal.materialise("raw_emotion_dataset").returncode == 0
    environment = {
        **terminal.environment,
        "EMOTION_HOME": str(terminal.home),
        "DAGSTER_HOME": str(terminal.dagster_home),
    }
    command = ["dagster", "asset", "materialize", "--select", 'key:"baseline_models/bigru"', "-m"]
    worker = subprocess.Popen(
        [sys.executable, "-m", *command, "emotion_assets.definitions"],
        cwd=PROJECT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "said").open("w"),
    )
    of_worker = psutil.Process(worker.pid)

    def trains() -> bool:
        assert worker.poll() is None
        return any(TRAINING in " ".join(p.cmdline()) for p in of_worker.children(recursive=True))

    wait_for(trains)
    time.sleep(3)
    processes = of_worker.children(recursive=True)
    yield terminal, worker, processes
    for process in [*alive(processes), *([worker] if worker.poll() is None else [])]:
        process.kill()


def events_of(terminal: Terminal) -> tuple[dg.DagsterRun, list[str]]:
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        run = instance.get_runs(limit=1)[0]
        return run, [e.dagster_event.event_type_value for e in instance.all_logs(run.run_id) if e.dagster_event]


def test_kill_9_of_the_worker_ends_the_step_the_training_and_all_they_started(training_run: Any) -> None:
    terminal, worker, processes = training_run
    assert len(processes) >= 2  # the step and the training, at least
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_for(lambda: not alive(processes), seconds=60)
    _, events = events_of(terminal)
    assert "ASSET_MATERIALIZATION" not in events
    assert not list((terminal.home / "store").rglob(".draft-*"))


def test_a_run_that_is_marked_as_failed_from_outside_ends_its_training(training_run: Any) -> None:
    terminal, worker, processes = training_run
    run, _ = events_of(terminal)
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        instance.report_run_failed(run, "as run monitoring does")
    trains = [p for p in processes if p.is_running() and TRAINING in " ".join(p.cmdline())]
    wait_for(lambda: not alive(trains), seconds=90)
    worker.wait(240)
    run, events = events_of(terminal)
    assert run.status is dg.DagsterRunStatus.FAILURE and "ASSET_MATERIALIZATION" not in events
    assert "STEP_UP_FOR_RETRY" not in events


def test_a_step_that_outlives_its_run_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_end, "STATUS_SECONDS", 1e9)  # the watch looks too late

    @dg.asset
    @user_errors_as_failures
    def late(context: dg.AssetExecutionContext) -> None:
        context.instance.report_run_failed(context.run, "from outside")

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([late], instance=instance, raise_on_error=False)
        assert not result.get_asset_materialization_events()
        failure = result.failure_data_for_node("late")
        assert failure and failure.user_failure_data
        assert "ended (failure) while this step went on" in str(failure.user_failure_data.description)


def test_a_step_whose_run_ends_is_interrupted_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_end, "PARENT_SECONDS", 0.1)
    monkeypatch.setattr(run_end, "STATUS_SECONDS", 0.1)

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    @user_errors_as_failures
    def long(context: dg.AssetExecutionContext) -> None:
        context.instance.report_run_failed(context.run, "from outside")
        time.sleep(60)

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([long], instance=instance, raise_on_error=False)
        assert not any(event.is_step_up_for_retry for event in result.all_events)
        failure = result.failure_data_for_node("long")
        assert failure and failure.user_failure_data
        assert "is over, and so is this step" in str(failure.user_failure_data.description)
