"""Training and scoring on the make-believe GPU: the results of the CPU, and what a step asks of the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emotion_assets.jobs.process import TrainingJob, run_job, stored_input
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.registry import load_scorer
from emotion_assets.settings.schema import Training
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training import trainer
from emotion_assets_tests.fake_cuda.gpu import FakeGpu
from emotion_assets_tests.worlds.tiny import LABELS, stored_case

BACKENDS = ("varlen", "flash_attention_2", "hub_kernel", "sdpa", "eager")
OBJECTIVES = ("head", "instruction")


@pytest.fixture(scope="module", autouse=True)
def _no_points_in_between() -> Iterator[None]:
    """The loss curve has its points at the same steps, however slow the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "REPORT_SECONDS", 1e9)
        yield


@pytest.fixture(scope="module", params=["llama"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("case")
    return root, *stored_case(root, request.param)


def job_of(root: Path, base: StoredFolder, tokens: StoredFolder, name: str, **settings: Any) -> TrainingJob:
    training = {"epochs": 2, "batch_size": 5, "gradient_accumulation": 2, "learning_rate": 1e-3, "keep": "last"}
    training |= settings.pop("training", {})
    model = TransformerModel.model_validate(
        {"method": "lora", "base": "tiny", "training": Training(**training).model_dump(), **settings}
    )
    (root / name).mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        kind="transformer",
        name="tiny_model",
        settings=model.model_dump(mode="json"),
        labels=LABELS,
        seed=5,
        inputs={"base": stored_input(base), "tokens": stored_input(tokens)},
        target=str(root / name),
        checkpoints=str(root / f"{name}_checkpoints"),
    )


def weights_of(job: TrainingJob) -> dict[str, torch.Tensor]:
    files = sorted(Path(job.target).rglob("*.safetensors"))
    return {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def losses_of(measured: dict[str, Any]) -> Any:
    return np.array(measured["curve"]["losses"])


@pytest.fixture(scope="module")
def on_cpu(case: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the CPU measures for the jobs of ``test_training_gives_the_losses_of_the_cpu``."""
    _, _, base, tokens = case
    root = tmp_path_factory.mktemp("cpu")
    return {
        objective: run_job(
            job_of(root, base, tokens, objective, objective=objective, training={"epochs": 1, "precision": "fp32"}),
            lambda line: None,
        )
        for objective in OBJECTIVES
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("attention", BACKENDS)
def test_training_gives_the_losses_of_the_cpu_on_every_backend(
    gpu: FakeGpu, case: Any, on_cpu: dict[str, dict[str, Any]], tmp_path: Path, objective: str, attention: str
) -> None:
    _, _, base, tokens = case
    settings = {"objective": objective, "attention": attention, "training": {"epochs": 1, "precision": "bf16"}}
    measured = gpu("train", job=job_of(tmp_path, base, tokens, "gpu", **settings).to_json())
    assert measured["runtime"].startswith("cuda, bfloat16")
    assert measured["attention"].startswith(f"{attention} (")
    np.testing.assert_allclose(losses_of(measured), losses_of(on_cpu[objective]), rtol=0.03)
    assert measured["blocking"] == {}, "the host waits for the device"
    assert sorted(kind.split(" at ")[0] for kind in measured["asynchronous"]) == ["to the device", "to the host"]
    assert list(measured["asynchronous"].values()) == [1, 1]
    assert measured["step"] == "in few kernels"
    if attention == "varlen":
        in_order = {name: n for name, n in measured["kernels"].items() if name.endswith("in a fixed order")}
        assert in_order.pop("_varlen_attn_backward in a fixed order") == 2
        assert set(in_order) <= {"zeros in a fixed order"}, "other kernels are asked for it too"
    if attention not in ("sdpa", "eager"):
        assert sum(measured["kernels"].values()) <= 270, "of two layers, the optimiser included"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_in_fp32_the_weights_are_those_of_the_cpu(gpu: FakeGpu, case: Any, tmp_path: Path, objective: str) -> None:
    _, _, base, tokens = case
    here, there = (
        job_of(tmp_path, base, tokens, name, objective=objective, training={"precision": "fp32"})
        for name in ("cpu", "gpu")
    )
    run_job(here, lambda line: None)
    gpu("train", job=there.to_json())
    reference, weights = weights_of(here), weights_of(there)
    assert reference.keys() == weights.keys() and reference
    for name in reference:
        torch.testing.assert_close(weights[name], reference[name], rtol=0, atol=1e-4)


def test_a_checkpoint_goes_to_the_device_tensor_by_tensor_in_its_format(gpu: FakeGpu, case: Any) -> None:
    _, _, base, _ = case
    loaded = gpu("load", folder=str(base.path), precision="bf16")
    assert loaded["weights"] == ["cuda:0, torch.bfloat16"]
    assert loaded["largest"] < loaded["whole"] / 2, "more than a tensor at a time was held on the host"


def test_sdpa_with_grouped_queries_keeps_the_fused_kernel(gpu: FakeGpu, case: Any, tmp_path: Path) -> None:
    _, _, base, tokens = case
    job = job_of(tmp_path, base, tokens, "gpu", attention="sdpa", training={"epochs": 1, "precision": "bf16"})
    kernels = gpu("train", job=job.to_json())["kernels"]
    assert kernels["_scaled_dot_product_efficient_attention"] == 2
    assert "_softmax" not in kernels


def test_a_varlen_attn_without_grouped_queries_gets_them_repeated(gpu: FakeGpu, case: Any, tmp_path: Path) -> None:
    _, _, base, tokens = case
    jobs = [
        job_of(tmp_path, base, tokens, name, attention="varlen", training={"epochs": 1, "precision": "bf16"})
        for name in ("grouped", "repeated")
    ]
    grouped, repeated = (
        gpu("train", job=job.to_json(), groups=groups) for job, groups in zip(jobs, (True, False), strict=True)
    )
    assert repeated["attention"].startswith("varlen (")
    np.testing.assert_allclose(losses_of(repeated), losses_of(grouped), rtol=0.01)


def test_fp16_scales_the_loss_without_waiting(gpu: FakeGpu, case: Any, tmp_path: Path) -> None:
    _, _, base, tokens = case
    job = job_of(tmp_path, base, tokens, "gpu", attention="varlen", training={"epochs": 4, "precision": "fp16"})
    measured = gpu("train", job=job.to_json())
    assert measured["runtime"].startswith("cuda, float16")
    assert measured["kernels"]["_amp_foreach_non_finite_check_and_unscale_"] == 1
    assert measured["kernels"]["_amp_update_scale_"] == 1
    assert measured["blocking"] == {}
    losses = losses_of(measured)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_training_that_is_cut_off_resumes_to_the_same_weights(
    gpu: FakeGpu, case: Any, tmp_path: Path, precision: str
) -> None:
    _, _, base, tokens = case
    training = {"epochs": 2, "precision": precision, "keep": "best"}
    whole, cut = (
        job_of(tmp_path, base, tokens, name, attention="varlen", training=training) for name in ("whole", "cut")
    )
    gpu("train", job=whole.to_json())
    assert gpu("train_cut_off", job=cut.to_json(), step=9) == 8
    assert gpu("train", job=cut.to_json())["curve"]["resumed_at_step"] == 8
    one, two = weights_of(whole), weights_of(cut)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=0)


@pytest.mark.parametrize(("fits", "rows", "checkpointed"), [(5, 5, False), (2, 2, False), (0, 1, True)])
def test_what_does_not_fit_is_split_down_to_one_row_and_then_checkpointed(
    gpu: FakeGpu, case: Any, tmp_path: Path, fits: int, rows: int, checkpointed: bool
) -> None:
    _, _, base, tokens = case
    whole, split = (
        job_of(tmp_path, base, tokens, name, training={"epochs": 1, "precision": "fp32"}) for name in ("whole", "split")
    )
    run_job(whole, lambda line: None)
    curve = gpu("train", job=split.to_json(), fits=fits)["curve"]
    assert (curve["rows_per_forward"], curve["checkpointed"]) == (rows, checkpointed)
    one, two = weights_of(whole), weights_of(split)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("step", [4, 6])
def test_a_loss_that_is_no_number_is_seen_late_and_nothing_is_stored(
    gpu: FakeGpu, case: Any, tmp_path: Path, step: int
) -> None:
    """Step 6 is the last one: no step after it would read its loss."""
    _, _, base, tokens = case
    job = job_of(tmp_path, base, tokens, "gpu", attention="varlen", training={"epochs": 1, "precision": "bf16"})
    with pytest.raises(RuntimeError, match=f"TrainingError: tiny_model: the loss is nan at step {step};"):
        gpu("train", job=job.to_json(), spoilt_step=step)
    assert not list(Path(job.target).iterdir())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_activations_are_computed_again_in_half_precision_too(
    gpu: FakeGpu, case: Any, on_cpu: dict[str, dict[str, Any]], tmp_path: Path, objective: str
) -> None:
    _, _, base, tokens = case
    settings = {"objective": objective, "attention": "varlen", "training": {"epochs": 1, "precision": "bf16"}}
    measured = gpu("train", job=job_of(tmp_path, base, tokens, "gpu", **settings).to_json(), fits=0)
    assert measured["curve"]["checkpointed"] and measured["step"] == "in few kernels"
    np.testing.assert_allclose(losses_of(measured), losses_of(on_cpu[objective]), rtol=0.03)


ENCODERS = [("bert", "full", 0.0), ("bert", "full", 0.1), ("roberta", "lora", 0.0)]


@pytest.mark.parametrize(("model_type", "method", "dropout"), ENCODERS)
def test_encoders_train_as_on_the_cpu(
    gpu: FakeGpu, tmp_path: Path, model_type: str, method: str, dropout: float
) -> None:
    _, base, tokens = stored_case(tmp_path, model_type, dropout=dropout)
    settings = {"method": method, "pooling": "first", "attention": "varlen"}
    here = job_of(tmp_path, base, tokens, "cpu", **settings, training={"epochs": 1, "precision": "fp32"})
    there = job_of(tmp_path, base, tokens, "gpu", **settings, training={"epochs": 1, "precision": "bf16"})
    reference, measured = run_job(here, lambda line: None), gpu("train", job=there.to_json())
    assert measured["attention"].startswith("varlen (")
    np.testing.assert_allclose(losses_of(measured), losses_of(reference), rtol=0.2 if dropout else 0.05)
    assert measured["blocking"] == {}
    fused = "_scaled_dot_product_efficient_attention"
    assert (fused in measured["kernels"]) == (dropout > 0)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("attention", ["varlen", "sdpa"])
def test_a_model_of_the_gpu_scores_as_on_the_cpu(
    gpu: FakeGpu, case: Any, tmp_path: Path, objective: str, attention: str
) -> None:
    _, store, base, tokens = case
    texts = ["walk river stone", "cloud", "amber lantern quiet storm garden copper meadow"]
    with store.writing("models") as draft:
        settings = {"objective": objective, "attention": attention, "training": {"epochs": 1, "precision": "bf16"}}
        job = job_of(tmp_path, base, tokens, "unused", **settings)
        measured = gpu("train", job=dataclasses.replace(job, target=str(draft.path)).to_json())
        model = draft.finish({"curve": measured["curve"]})
    scored = gpu("score", store=str(store.root), model=model.digest, texts=texts)
    assert scored["weights"] == "cuda:0, torch.bfloat16"
    np.testing.assert_allclose(scored["scores"], load_scorer(model, store).score(texts), atol=0.03)
