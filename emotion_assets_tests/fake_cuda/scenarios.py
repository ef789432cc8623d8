"""What the worker is asked to do on the make-believe GPU. Arguments and results are plain values (JSON)."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import varlen

from emotion_assets.jobs.process import TrainingJob, run_job
from emotion_assets.models.registry import load_scorer
from emotion_assets.models.transformer import attention, fine_tuning
from emotion_assets.models.transformer.checkpoints import load_backbone
from emotion_assets.models.transformer.classifier import Classifier, ClassifierConfig
from emotion_assets.storage.store import Store
from emotion_assets.training import cuda_graphs, resume, trainer
from emotion_assets.training.runtime import choose_runtime
from emotion_assets.training.trainer import Trainer
from emotion_assets_tests.fake_cuda import device, kernels, tensors
from emotion_assets_tests.fake_cuda.graphs import CUDAGraph
from emotion_assets_tests.fake_cuda.llama8b import step_of_8b

__all__ = ["load", "mix", "move", "score", "step_of_8b", "train", "train_cut_off"]

trainer.REPORT_SECONDS = 1e9  # the loss curve has its points at the same steps, however slow the machine is
attention.scaled_dot_product_attention = kernels.sdpa  # type: ignore[attr-defined]
attention.importlib = types.SimpleNamespace(import_module=device.import_module)  # type: ignore[attr-defined]


class _CutOffError(Exception):
    pass


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def train(
    job: str,
    fits: int | None = None,
    groups: bool = True,
    spoilt_step: int = 0,
    graphs: bool = True,
    counted_step: int = 3,
    fault: str = "",
    rows_per_pass: int = 0,
    first_recorded: int = 0,
    full_from: int = 0,
) -> dict[str, Any]:
    """Run a training job; what was measured, and what the device was asked for in one step.

    Args:
        graphs: whether passes may be recorded.
        fault: what goes wrong with graphs, a key of ``FAULTS``.
        rows_per_pass: rows of a forward pass; 0: as many as fit.
        first_recorded: which pass of a shape is recorded; 0: the project's.
        full_from: the step from which on the memory is only as large as ``fits`` says.
        spoilt_step: the step of which the loss is not a number; 0: none.
        fits: rows of a forward pass that the memory is large enough for; 0: not for one, unless its activations are
            computed again.
        groups: whether torch's varlen_attn takes grouped queries.
    """
    counted: list[tensors.Activity] = []
    at = [0]  # the step that runs
    original_step, original_pass = Trainer.step, Trainer._pass

    def step(this: Trainer, rows: Sequence[int]) -> None:
        at[0] = this.position.step + 1
        if at[0] != counted_step:
            return original_step(this, rows)
        with tensors.counting() as activity:
            counted.append(activity)
            return original_step(this, rows)

    def one_pass(this: Trainer, rows: Sequence[int], divisor: int) -> tuple[torch.Tensor, float]:
        checkpointed = any(getattr(m, "gradient_checkpointing", False) for m in this.task.module.modules())
        if fits is not None and at[0] >= full_from and len(rows) > (1 if checkpointed else fits):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        loss, targets = original_pass(this, rows, divisor)
        return (loss * float("nan") if at[0] == spoilt_step else loss), targets

    with (
        _replaced(Trainer, "step", step),
        _replaced(Trainer, "_pass", one_pass),
        _replaced(
            Classifier, "why_shapes_differ", Classifier.why_shapes_differ if graphs else lambda _: "not asked for"
        ),
        _replaced(cuda_graphs, "EAGER_PASSES", first_recorded or cuda_graphs.EAGER_PASSES),
        _replaced(fine_tuning, "rows_per_forward", lambda *_: rows_per_pass) if rows_per_pass else nullcontext(),
        FAULTS[fault](),
        _replaced(varlen, "varlen_attn", varlen.varlen_attn if groups else _varlen_without_groups),
    ):
        measured = run_job(TrainingJob.from_json(job), lambda line: None)
    activity = counted[0] if counted else tensors.Activity()
    return measured | {name: dict(count) for name, count in vars(activity).items()}


def _refuses_to_record() -> Any:
    """A kernel that makes the host wait, as no recording allows."""

    def loss(classifier: Classifier, *inputs: Any) -> torch.Tensor:
        found = original(classifier, *inputs)
        found.item()
        return found

    original = Classifier.loss_of_packed
    return _replaced(Classifier, "loss_of_packed", loss)


def _repeats_a_wrong_gradient() -> Any:
    def replay(graph: Any) -> None:
        original(graph)
        graph.operations[-1]()  # the last gradient is added twice

    original = CUDAGraph.replay
    return _replaced(CUDAGraph, "replay", replay)


def _has_no_memory_to_record() -> Any:
    @contextmanager
    def graph(*_: Any, **__: Any) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        yield

    return _replaced(torch.cuda, "graph", graph)


FAULTS: dict[str, Callable[[], Any]] = {
    "": nullcontext,
    "refuses to record": _refuses_to_record,
    "wrong gradient": _repeats_a_wrong_gradient,
    "no memory": _has_no_memory_to_record,
}

_varlen_attn = varlen.varlen_attn


def _varlen_without_groups(
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, *, scale: Any = None, window_size: Any = None
) -> Any:
    """``varlen_attn`` as torch had it first."""
    return _varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size)


def train_cut_off(job: str, step: int, full_at: int = 0) -> int:
    """Run a training job until it is cut off in this step, its state saved after each; the steps that were saved.

    Args:
        full_at: the step in which there is no memory for graphs.
    """
    original: Callable[..., Any] = Trainer.step
    original_pass = Trainer._pass

    def one_pass(this: Trainer, rows: Sequence[int], divisor: int) -> tuple[torch.Tensor, float]:
        if this.position.step + 1 == full_at and not this.graphs.problem:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return original_pass(this, rows, divisor)

    def cut(this: Trainer, rows: Sequence[int]) -> Any:
        if this.position.step + 1 == step:
            raise _CutOffError
        return original(this, rows)

    with (
        _replaced(Trainer, "step", cut),
        _replaced(Trainer, "_pass", one_pass),
        _replaced(resume, "MIN_SECONDS_BETWEEN_WRITES", 0.0),
        _replaced(resume, "MAX_SHARE_OF_TIME", 1e9),
        suppress(_CutOffError),
    ):
        run_job(TrainingJob.from_json(job), lambda line: None)
    description = TrainingJob.from_json(job)
    state = resume.ResumeState(Path(description.checkpoints), description.recipe).read()
    return int(state[1]["at"]["step"]) if state else 0


def score(store: str, model: str, texts: list[str]) -> dict[str, Any]:
    """The probabilities of a stored model, and where its weights are."""
    scorer: Any = load_scorer(Store(Path(store)).open("models", model), Store(Path(store)))
    weights = next(scorer._model.parameters())
    return {"scores": scorer.score(texts).tolist(), "weights": f"{weights.device}, {weights.dtype}"}


def load(folder: str, precision: str) -> dict[str, Any]:
    """Load a checkpoint; where its weights are, and the bytes of the largest tensor that was sent there and of all."""
    config = ClassifierConfig("lora", "head", "last", ["a", "b"], 64, "")
    sent: list[int] = []
    with _replaced(tensors, "_to_device", lambda tensor, non_blocking: sent.append(tensor.nbytes)):
        backbone = load_backbone(Path(folder), config, choose_runtime(precision))
    weights = sorted({f"{p.device}, {p.dtype}" for p in backbone.parameters()})
    whole = sum(p.nbytes for p in backbone.parameters())
    return {"weights": weights, "largest": max(sent), "whole": whole}


def mix() -> list[str]:
    """What torch says to operations that mix the device and the host."""
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    attempts: list[Callable[[], Any]] = [
        lambda: there + here,
        lambda: there.index_select(0, torch.tensor([0])),
        lambda: torch.nn.functional.linear(there[None], torch.ones(2, 3)),
        lambda: there.numpy(),
    ]
    said = []
    for attempt in attempts:
        try:
            attempt()
            said.append("")
        except (RuntimeError, TypeError) as error:
            said.append(str(error))
    return said


def move() -> dict[str, Any]:
    """What transfers count as, and what a copy to the host holds before it has arrived."""
    with tensors.counting() as activity:
        pinned = torch.ones(3).pin_memory()
        there = pinned.to("cuda", non_blocking=True)
        torch.ones(3).to("cuda", non_blocking=True)
        torch.tensor([1.0], device="cuda")
        doubled = there * 2 + 1.0
        host = torch.empty(3, pin_memory=True)
        host.copy_(doubled, non_blocking=True)
        mark = torch.cuda.Event()
        before = host.tolist()
        mark.synchronize()
        after = host.tolist()
        total = doubled.sum().item()
    counts = {name: dict(count) for name, count in vars(activity).items()}
    return {"arrived": [x == x for x in before], "after": after, "total": total, **counts}
