"""The number format of a training is measured where a chip has both, said, and kept when a training is resumed."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_assets.jobs.process import TrainingJob, run_job, stored_input
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer import precision
from emotion_assets.training import distributed
from emotion_assets.training.resume import ResumeState
from emotion_assets.training.runtime import Runtime
from emotion_assets_tests.worlds.tiny import LABELS, stored_case


def _choose(monkeypatch: pytest.MonkeyPatch, seconds: dict[torch.dtype, float], requested: str = "auto") -> Runtime:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    clock = [0.0]
    monkeypatch.setattr(precision.time, "monotonic", lambda: clock[0])

    def load_step(runtime: Runtime) -> Callable[[], None]:
        def step() -> None:
            clock[0] += seconds[runtime.dtype]

        return step

    return precision.choose_measured_runtime(requested, precision.LARGE_BASE, load_step)


@pytest.mark.parametrize(("bf16", "fp32", "chosen"), [(1.0, 2.0, torch.bfloat16), (2.0, 1.0, torch.float32)])
def test_the_faster_format_is_chosen_and_both_times_are_said(
    monkeypatch: pytest.MonkeyPatch, bf16: float, fp32: float, chosen: torch.dtype
) -> None:
    runtime = _choose(monkeypatch, {torch.bfloat16: bf16, torch.float32: fp32})
    assert runtime.dtype == chosen
    assert runtime.why == f"no GPU; a step of 8 rows took {bf16:.2f} s in bf16, {fp32:.2f} s in fp32"


def test_processes_that_train_together_choose_by_the_same_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """This one found bf16 faster; the other one, by more, fp32."""
    monkeypatch.setattr(distributed, "is_joined", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda times: times.add_(torch.tensor([3.0, 1.0])))
    runtime = _choose(monkeypatch, {torch.bfloat16: 1.0, torch.float32: 2.0})
    assert (runtime.dtype, runtime.why[-27:]) == (torch.float32, "2.00 s in bf16, 1.50 s in fp32"[-27:])


def test_what_the_profile_asks_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _choose(monkeypatch, {}, "fp32").dtype == torch.float32


def test_a_small_base_or_a_chip_without_bf16_stays_with_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(runtime: Runtime) -> Callable[[], None]:
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    assert precision.choose_measured_runtime("auto", precision.LARGE_BASE - 1, never).dtype == torch.float32
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    assert precision.choose_measured_runtime("auto", precision.LARGE_BASE, never).dtype == torch.float32


def test_a_measured_model_is_freed_before_the_next_one_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    loaded: list[weakref.ref[torch.nn.Module]] = []

    def load_step(runtime: Runtime) -> Callable[[], None]:
        assert [model() for model in loaded] == [None] * len(loaded)
        model: Any = torch.nn.Linear(2, 2)
        model.circle = [model]  # as the modules of PEFT refer to each other
        loaded.append(weakref.ref(model))
        return lambda: model(torch.ones(2)).sum().backward()

    precision.choose_measured_runtime("auto", precision.LARGE_BASE, load_step)
    assert [model() for model in loaded] == [None, None]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_measures_and_its_metadata_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(precision, "LARGE_BASE", 1)
    _, base, tokens = stored_case(tmp_path)
    model = TransformerModel.model_validate({"method": method, "base": "tiny", "training": {"epochs": 1}})
    (tmp_path / "target").mkdir()
    job = TrainingJob(
        kind="transformer",
        name="tiny_model",
        settings=model.model_dump(mode="json"),
        labels=LABELS,
        seed=5,
        inputs={"base": stored_input(base), "tokens": stored_input(tokens)},
        target=str(tmp_path / "target"),
        checkpoints=str(tmp_path / "checkpoints"),
    )
    measured = run_job(job, lambda line: None)
    said = r"cpu, (bfloat16|float32) \(no GPU; a step of 8 rows took \d+\.\d\d s in bf16, \d+\.\d\d s in fp32\)"
    assert re.fullmatch(said, measured["runtime"])
    resumed = ResumeState(tmp_path / "checkpoints", job.recipe).decide(
        "precision on cpu", lambda: pytest.fail("chosen anew")
    )
    assert resumed["why"] in measured["runtime"]


def test_the_choice_of_another_training_is_not_taken_over(tmp_path: Path) -> None:
    assert ResumeState(tmp_path, "one").decide("precision", lambda: {"dtype": "bfloat16"}) == {"dtype": "bfloat16"}
    assert ResumeState(tmp_path, "one").decide("precision", lambda: {"dtype": "float32"}) == {"dtype": "bfloat16"}
    assert ResumeState(tmp_path, "two").decide("precision", lambda: {"dtype": "float32"}) == {"dtype": "float32"}
