"""The choice of the device, and Apple's GPU without one: a training runs operations that torch has for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from emotion_assets.models.bigru import BiGruClassifier
from emotion_assets.models.kinds.bigru import BiGru
from emotion_assets.models.requirements import gpu_problem
from emotion_assets.models.transformer.attention import Backend
from emotion_assets.models.transformer.checkpoints import _four_bit_config
from emotion_assets.models.transformer.memory import free_memory, total_memory
from emotion_assets.settings.errors import DataError, SettingsError
from emotion_assets.settings.schema import Training
from emotion_assets.training.runtime import (
    DEVICE,
    Runtime,
    choose_device,
    choose_processes,
    choose_runtime,
    describe_gpu,
    peak_memory_mb,
)
from emotion_assets.training.trainer import Trainer, TrainingTask
from emotion_assets_tests.worlds.tiny import base_folder, classifier_of, rows_of


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch answers on a machine with Apple's GPU of 16 GiB, 2 GiB of them in use."""
    monkeypatch.setenv(DEVICE, "mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 * 2**30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * 2**30)


@pytest.mark.parametrize(
    ("asked", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_apples_gpu_is_used_where_it_is_asked_for(apple: None, asked: str, dtype: torch.dtype) -> None:
    runtime = choose_runtime(asked)
    assert (runtime.device.type, runtime.dtype) == ("mps", dtype)
    assert runtime.needs_loss_scaling == (asked == "fp16")
    assert runtime.sum_dtype == torch.float32  # there is no fp64
    assert (total_memory(runtime), free_memory(runtime)) == (16 * 2**30, 14 * 2**30)
    assert peak_memory_mb() == 2048
    assert describe_gpu() == "Apple's, 16 GiB of memory; not measured on one yet"
    assert gpu_problem(8) is None
    assert str(gpu_problem(24)).startswith("needs a GPU with 24 GB, Apple's may use 17; run on a larger machine")


def test_it_is_not_used_unasked_and_the_cpu_can_be_asked_for(apple: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(DEVICE, "cpu")
    assert choose_device().type == "cpu"
    monkeypatch.setenv(DEVICE, "")
    assert choose_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device().type == "cpu"


def test_four_bits_are_refused_on_apples_gpu(apple: None) -> None:
    with pytest.raises(
        DataError, match="quantization: nf4 is not for Apple's GPU; take it out, or set EMOTION_DEVICE=cpu"
    ):
        _four_bit_config(choose_runtime())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tpu", "EMOTION_DEVICE=tpu: no such device; use auto, cpu, cuda, mps"),
        ("cuda", "EMOTION_DEVICE=cuda: torch finds none here"),
        ("mps", "EMOTION_DEVICE=mps: torch finds none here"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setenv(DEVICE, name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=said):
        choose_runtime()


@pytest.mark.parametrize(("gpu", "cores", "processes"), [(False, 2, 2), (False, 1, 1), (False, 16, 2), (True, 16, 1)])
def test_a_cpu_trains_in_two_processes_and_a_gpu_in_one(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, cores: int, processes: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert choose_processes() == processes


@dataclass
class _Recorder(TorchDispatchMode):
    """Notes the operations that run, and the formats of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()
        self.formats: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self.operations.add(func._schema.name.removeprefix("aten::") + f".{func._schema.overload_name}".rstrip("."))
        leaves = out if isinstance(out, tuple | list) else [out]
        self.formats |= {leaf.dtype for leaf in leaves if isinstance(leaf, torch.Tensor)}
        return out


@cache
def _declared() -> dict[str, dict[str, Any]]:
    """How torch declares each of its operations, by name: for which devices it has a kernel."""
    file = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return {entry["func"].partition("(")[0]: entry for entry in entries}


def _runs_on_mps(operation: str) -> bool:
    entry = _declared().get(operation)
    if entry is None:  # generated from another: its own kernel calls that one's
        return True
    if "structured_delegate" in entry:
        return _runs_on_mps(entry["structured_delegate"])
    dispatch = entry.get("dispatch")
    keys = (
        {key.strip() for group in dispatch for key in group.split(",")} if dispatch else {"CompositeImplicitAutograd"}
    )
    return "MPS" in keys or any(key.startswith("Composite") for key in keys)


@dataclass(frozen=True)
class _LikeApples(Runtime):
    @property
    def sum_dtype(self) -> torch.dtype:
        return torch.float32


@pytest.fixture
def record() -> Iterator[Callable[[torch.nn.Module, Any], _Recorder]]:
    """Trains a network for two steps on the CPU, by the paths that Apple's GPU takes, and notes what ran."""

    def run(module: torch.nn.Module, loss_of: Any) -> _Recorder:
        runtime = _LikeApples(torch.device("cpu"), torch.float32, "")
        training = Training(epochs=1, batch_size=2, gradient_accumulation=2)
        trainer = Trainer(TrainingTask("t", module, 8, loss_of), training, runtime, 3)
        recorder = _Recorder()
        with recorder, sdpa_kernel(SDPBackend.MATH):
            trainer.fit(lambda _: None)
        return recorder

    yield run


def test_the_check_knows_an_operation_that_apples_gpu_lacks() -> None:
    assert _runs_on_mps("addmm") and _runs_on_mps("add_.Tensor") and _runs_on_mps("index_add")
    assert not _runs_on_mps("_fused_sdp_choice") or not _runs_on_mps("_flash_attention_forward")


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {"objective": "instruction"}),
        ("llama", {"pooling": "max", "lora": {"use_dora": True}}),
        ("llama", {"head": "transformers", "lora": {"dropout": 0.1}}),
        ("bert", {"method": "full", "pooling": "mean"}),
        ("roberta", {"method": "full", "head": "transformers"}),
    ],
    ids=str,
)
def test_a_transformer_trains_by_operations_that_apples_gpu_has(
    tmp_path: Path, record: Callable[..., _Recorder], model_type: str, settings: dict[str, Any]
) -> None:
    classifier = classifier_of(
        base_folder(tmp_path / "base", model_type, dropout=0.1), backend=Backend("sdpa", ""), **settings
    )
    rows, labels = rows_of(8, prefix=[1, 20, 21, 22, 23, 24]), torch.arange(8) % 3
    weights = None if settings.get("objective") else torch.tensor([1.0, 2.0, 3.0])

    def loss_of(chosen: Any) -> Any:
        return classifier.loss([rows[i] for i in chosen], labels[list(chosen)], weights=weights)

    done = record(classifier, loss_of)
    assert sorted(name for name in done.operations if not _runs_on_mps(name)) == []
    assert torch.float64 not in done.formats
    assert len(done.operations) > 40
    with torch.no_grad(), (scoring := _Recorder()), sdpa_kernel(SDPBackend.MATH):
        classifier.eval().log_probabilities(rows, torch.device("cpu"))
    assert sorted(name for name in scoring.operations if not _runs_on_mps(name)) == []


def test_the_bigru_trains_by_operations_that_apples_gpu_has(record: Callable[..., _Recorder]) -> None:
    model = BiGruClassifier(120, BiGru(method="bigru", hidden_size=8, embedding_size=8), 3)
    rows, labels = rows_of(8), torch.arange(8) % 3

    def loss_of(chosen: Any) -> Any:
        scores = model.log_probabilities([rows[i] for i in chosen], torch.device("cpu"))
        return torch.nn.functional.nll_loss(scores, labels[list(chosen)], reduction="sum"), len(chosen)

    done = record(model, loss_of)
    assert sorted(name for name in done.operations if not _runs_on_mps(name)) == []
