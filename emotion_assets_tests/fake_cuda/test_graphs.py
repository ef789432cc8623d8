"""CUDA graphs of a training on the make-believe GPU: the weights of eager passes, and the ways back to those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_assets_tests.fake_cuda.gpu import FakeGpu
from emotion_assets_tests.fake_cuda.test_training import job_of, losses_of, weights_of
from emotion_assets_tests.worlds.tiny import stored_case

LATE = 20  # a step whose shape was recorded before


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return stored_case(tmp_path_factory.mktemp("case"))


def train(gpu: FakeGpu, case: Any, root: Path, name: str, asked: Any = None, **settings: Any) -> tuple[Any, Any]:
    """What was measured of a training of four epochs, each evaluated, and its weights."""
    _, base, tokens = case
    training = {"epochs": 4, "precision": "bf16", "keep": "best"} | settings.pop("training", {})
    job = job_of(root, base, tokens, name, **{"attention": "varlen", "training": training} | settings)
    return gpu("train", job=job.to_json(), counted_step=LATE, **(asked or {})), weights_of(job)


def assert_close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == two.keys() and one
    for name in one:
        difference = (one[name].float() - two[name].float()).norm() / two[name].float().norm()
        assert difference <= tolerance, name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("objective", ["head", "instruction"])
def test_repeated_passes_give_the_weights_of_eager_ones(
    gpu: FakeGpu, case: Any, tmp_path: Path, objective: str, precision: str
) -> None:
    settings = {"objective": objective, "training": {"precision": precision}}
    eager, of_eager = train(gpu, case, tmp_path, "eager", {"graphs": False}, **settings)
    graphs, of_graphs = train(gpu, case, tmp_path, "graphs", **settings)
    assert eager["cuda_graphs"] == "not used: not asked for"
    repeated, passes = (int(word) for word in graphs["cuda_graphs"].split() if word.isdigit() and int(word) > 9)
    assert passes == 24 and repeated >= 12
    np.testing.assert_allclose(losses_of(graphs), losses_of(eager), rtol=0.01)
    assert graphs["curve"]["validation_accuracy"] == eager["curve"]["validation_accuracy"]
    assert_close(of_graphs, of_eager, 0.05)


def test_a_repeated_step_is_one_launch_and_one_transfer_there(gpu: FakeGpu, case: Any, tmp_path: Path) -> None:
    eager, _ = train(gpu, case, tmp_path, "eager", {"graphs": False})
    graphs, _ = train(gpu, case, tmp_path, "graphs")
    assert graphs["kernels"]["graph launch"] == 1
    assert sum(eager["kernels"].values()) > 150
    assert sum(graphs["kernels"].values()) < 30, "the optimizer's and those that read the loss"
    assert graphs["blocking"] == {} and list(graphs["asynchronous"].values()) == [1, 1]


def test_several_passes_of_a_step_add_up(gpu: FakeGpu, case: Any, tmp_path: Path) -> None:
    """``batch_size`` rows a pass: two passes a step, whose gradients one graph adds."""
    asked = {"rows_per_pass": 5}
    eager, of_eager = train(gpu, case, tmp_path, "eager", {"graphs": False} | asked)
    graphs, of_graphs = train(gpu, case, tmp_path, "graphs", asked)
    assert " of 48 passes repeated" in graphs["cuda_graphs"]
    assert graphs["kernels"]["graph launch"] == 2
    np.testing.assert_allclose(losses_of(graphs), losses_of(eager), rtol=0.01)
    assert_close(of_graphs, of_eager, 0.05)


def test_dropout_draws_anew_in_each_repetition_what_an_eager_pass_draws(
    gpu: FakeGpu, case: Any, tmp_path: Path
) -> None:
    """Graphs that are recorded but never repeated, beside graphs that are: the same rows, in the same buckets."""
    settings = {"head_dropout": 0.3, "lora": {"dropout": 0.2}, "consistency": 1.0}
    asked = {"first_recorded": 1000}
    eager, of_eager = train(gpu, case, tmp_path, "eager", asked, **settings)
    graphs, of_graphs = train(gpu, case, tmp_path, "graphs", **settings)
    assert eager["cuda_graphs"].startswith("0 of 24") and not graphs["cuda_graphs"].startswith(("0", "not"))
    np.testing.assert_allclose(losses_of(graphs), losses_of(eager), rtol=0, atol=0)
    assert_close(of_graphs, of_eager, 0.0)


def test_a_training_that_is_cut_off_while_it_repeats_resumes_to_the_same_weights(
    gpu: FakeGpu, case: Any, tmp_path: Path
) -> None:
    _, base, tokens = case
    _, of_whole = train(gpu, case, tmp_path, "whole", head_dropout=0.3)
    training = {"epochs": 4, "precision": "bf16", "keep": "best"}
    job = job_of(tmp_path, base, tokens, "cut", attention="varlen", training=training, head_dropout=0.3)
    assert gpu("train_cut_off", job=job.to_json(), step=LATE) == LATE - 1
    assert gpu("train", job=job.to_json())["curve"]["resumed_at_step"] == LATE - 1
    assert_close(weights_of(job), of_whole, 0.0)


def test_rarely_seen_shapes_run_eagerly(gpu: FakeGpu, case: Any, tmp_path: Path) -> None:
    measured, _ = train(gpu, case, tmp_path, "one", training={"epochs": 1})
    passes = "6 passes repeated"
    assert passes in measured["cuda_graphs"] and int(measured["cuda_graphs"].split()[0]) <= 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refuses to record", "operation not permitted when stream is capturing"),
        ("wrong gradient", "a repeated pass differs from the eager one by"),
        ("no memory", "memory ran out"),
    ],
)
def test_what_goes_wrong_with_graphs_costs_no_step(
    gpu: FakeGpu, case: Any, tmp_path: Path, fault: str, said: str
) -> None:
    eager, of_eager = train(gpu, case, tmp_path, "eager", {"graphs": False})
    faulty, of_faulty = train(gpu, case, tmp_path, "faulty", {"fault": fault})
    assert faulty["cuda_graphs"].startswith("not used: ") and said in faulty["cuda_graphs"]
    assert "graph launch" not in faulty["kernels"]
    assert faulty["curve"]["rows_per_forward"] == eager["curve"]["rows_per_forward"]
    np.testing.assert_allclose(losses_of(faulty), losses_of(eager), rtol=0.01)
    assert_close(of_faulty, of_eager, 0.05)


def test_memory_that_runs_out_while_graphs_are_used_ends_them_and_then_splits_the_step(
    gpu: FakeGpu, case: Any, tmp_path: Path
) -> None:
    eager, of_eager = train(gpu, case, tmp_path, "eager", {"graphs": False})
    split, of_split = train(gpu, case, tmp_path, "split", {"fits": 5, "full_from": 15})
    assert split["cuda_graphs"] == "not used: memory ran out"
    assert split["curve"]["rows_per_forward"] == 5
    np.testing.assert_allclose(losses_of(split), losses_of(eager), rtol=0.01)
    assert_close(of_split, of_eager, 0.05)


def test_a_training_that_went_on_without_graphs_resumes_without_them(gpu: FakeGpu, case: Any, tmp_path: Path) -> None:
    _, base, tokens = case
    job = job_of(tmp_path, base, tokens, "cut", attention="varlen", training={"epochs": 4, "precision": "bf16"})
    assert gpu("train_cut_off", job=job.to_json(), step=9, full_at=7) == 8
    resumed = gpu("train", job=job.to_json())
    assert resumed["cuda_graphs"] == "not used: memory ran out"
    assert resumed["curve"]["resumed_at_step"] == 8 and resumed["curve"]["rows_per_forward"] == 10


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attention": "sdpa"}, "attention reads blocks padded to the longest row (sdpa)"),
        ({"pooling": "mean"}, "pooling mean reads the rows' lengths on the host"),
    ],
)
def test_what_cannot_be_recorded_is_said(
    gpu: FakeGpu, case: Any, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    measured, _ = train(gpu, case, tmp_path, "gpu", training={"epochs": 1}, **settings)
    assert measured["cuda_graphs"] == f"not used: {said}"
