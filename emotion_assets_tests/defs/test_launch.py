"""A training as a step of a run: its progress in the run's log, its errors as one line, its end with the run's end."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import torch
from safetensors.torch import load_file

from emotion_assets.defs.launch import run_training
from emotion_assets.jobs.process import TrainingJob, stored_input
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.settings.schema import Training
from emotion_assets_tests.worlds.tiny import LABELS, stored_case


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _job(root: Path, epochs: int = 1) -> TrainingJob:
    _, base, tokens = stored_case(root)
    training = Training(epochs=epochs, batch_size=10, learning_rate=1e-3)
    target = root / "target"
    target.mkdir()
    return TrainingJob(
        kind="transformer",
        name="tiny_model",
        settings=TransformerModel(method="lora", base="tiny", training=training).model_dump(mode="json"),
        labels=LABELS,
        seed=5,
        inputs={"base": stored_input(base), "tokens": stored_input(tokens)},
        target=str(target),
        checkpoints=str(root / "checkpoints"),
    )


def _materialize(
    job: TrainingJob, instance: dg.DagsterInstance | None = None, retry: bool = False, processes: int = 1
) -> dg.ExecuteInProcessResult:
    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1) if retry else None)
    def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"measured": run_training(context, job, processes)})

    return dg.materialize([model], raise_on_error=False, instance=instance)


def _failure(result: dg.ExecuteInProcessResult) -> Any:
    assert not result.success
    return next(e for e in result.all_events if e.is_step_failure).event_specific_data


def _children() -> list[psutil.Process]:
    return [
        p for p in psutil.Process().children(recursive=True) if "emotion_assets.jobs.process" in " ".join(p.cmdline())
    ]


def test_progress_is_in_the_runs_log_and_the_measurements_come_back(tmp_path: Path) -> None:
    with dg.instance_for_test() as instance:
        result = _materialize(_job(tmp_path), instance)
        assert result.success
        lines = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("tiny_model: step 6/6 (100%)" in line for line in lines)
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["measured"].value["trainable_parameters"] > 0
    assert (tmp_path / "target" / "model.json").is_file()


def test_two_processes_train_together_and_only_the_first_speaks(tmp_path: Path) -> None:
    alone = _job(tmp_path)
    together = dataclasses.replace(
        alone, target=str(tmp_path / "together"), checkpoints=str(tmp_path / "together_checkpoints")
    )
    Path(together.target).mkdir()
    with dg.instance_for_test() as instance:
        results = [_materialize(alone), _materialize(together, instance, processes=2)]
        assert all(result.success for result in results)
        lines = [entry.user_message for entry in instance.all_logs(results[1].run_id)]
    assert sum("tiny_model: step 6/6 (100%)" in line for line in lines) == 1
    one, two = (
        result.get_asset_materialization_events()[0].materialization.metadata["measured"].value for result in results
    )
    weights, others = (
        load_file(Path(job.target) / "adapter" / "adapter_model.safetensors") for job in (alone, together)
    )
    for name in weights:
        torch.testing.assert_close(others[name], weights[name], rtol=0, atol=2e-5)
    assert two["validation_accuracy"] == one["validation_accuracy"]


def test_a_users_error_of_several_processes_is_one_line_and_is_not_retried(tmp_path: Path) -> None:
    job = dataclasses.replace(_job(tmp_path), labels=["joy", "fear"])
    result = _materialize(job, retry=True, processes=2)
    assert "materialise the tokens again" in _failure(result).user_failure_data.description
    assert not any(event.is_step_up_for_retry for event in result.all_events)


def test_a_users_error_is_one_line_and_is_not_retried(tmp_path: Path) -> None:
    result = _materialize(dataclasses.replace(_job(tmp_path), labels=["joy", "fear"]), retry=True)
    data = _failure(result)
    assert "materialise the tokens again" in data.user_failure_data.description
    assert "\n" not in data.user_failure_data.description
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert not list((tmp_path / "target").iterdir())


def test_a_killed_process_is_told_as_such(tmp_path: Path) -> None:
    def kill() -> None:
        while not _children():
            time.sleep(0.05)
        _children()[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    data = _failure(_materialize(_job(tmp_path, epochs=100_000)))
    thread.join()
    assert "was killed, most likely because memory ran out" in data.user_failure_data.description


@pytest.mark.parametrize(("processes", "threads"), [(1, "5"), (2, "2")])
def test_processes_share_the_threads_that_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, threads: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    found: list[str] = []

    def look() -> None:
        while len(_children()) < (1 if processes == 1 else 3):  # torchrun, and its two
            time.sleep(0.05)
        found.extend(child.environ()["OMP_NUM_THREADS"] for child in _children())

    thread = threading.Thread(target=look)
    thread.start()
    assert _materialize(_job(tmp_path), processes=processes).success
    thread.join()
    assert set(found) == {threads}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cancelled_run_ends_the_whole_group_within_seconds(tmp_path: Path, processes: int) -> None:
    """Dagster cancels a run by an interrupt of the step's process; torchrun starts groups of its own."""
    job = _job(tmp_path, epochs=100_000)
    interrupted: list[float] = []
    seen: list[psutil.Process] = []

    def interrupt() -> None:
        while len(_children()) < (1 if processes == 1 else 3):  # torchrun, and its two
            time.sleep(0.05)
        time.sleep(2.0)
        seen.extend(_children())
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = _materialize(job, processes=processes)
    took = time.monotonic() - interrupted[0]
    thread.join()
    assert not result.success
    psutil.wait_procs(seen, timeout=5)
    assert seen and not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in seen)
    assert took < 8
    assert not list((tmp_path / "target").iterdir())


def test_what_outlives_its_parent_in_the_group_is_killed_too(tmp_path: Path) -> None:
    """A stubborn process that ignores TERM, with a child of its own."""
    import subprocess
    import sys

    from emotion_assets.defs.launch import _end_group

    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    started = time.monotonic()
    _end_group(process)
    process.stdout.close()
    assert time.monotonic() - started < 6
    assert process.returncode == -signal.SIGKILL
    for _ in range(100):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child outlived its group")
