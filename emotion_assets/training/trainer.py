"""The one training loop: every network of the graph is fitted by it, pre-training included.

A step takes ``batch_size x gradient_accumulation`` rows. The gradients of its micro-batches are summed and divided once
by the number of targets in the whole step, so a step of 5 x 4 rows has the gradient of one batch of 20, and so have two
processes with 10 rows each. Where memory allows, the step is one micro-batch. A training that was cut off goes on from
its last checkpoint to the same result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Training
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.training import distributed
from emotion_assets.training.resume import Checkpoint
from emotion_assets.training.runtime import Runtime

REPORT_SECONDS = 5.0
SMALLEST_LOSS_SCALE = 2.0**-10


class TrainingError(UserError):
    """A training that cannot go on; no model comes out of it."""


@dataclass(frozen=True)
class Progress:
    """How far a training is. ``rows_per_second`` counts training rows, evaluation time excluded."""

    stage: str
    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    rows_per_second: float
    seconds_left: float

    def line(self) -> str:
        left = f"{self.seconds_left:.0f} s" if self.seconds_left < 90 else f"{self.seconds_left / 60:.1f} min"
        return (
            f"{self.stage}: step {self.step}/{self.steps} ({100 * self.step // self.steps}%), epoch {self.epoch}/"
            f"{self.epochs}, loss {self.loss:.4f}, {self.rows_per_second:,.0f} rows/s, about {left} left"
        )


Report = Callable[[Progress], None]


@dataclass
class Fitted:
    """What a training leaves behind besides the weights: the loss curve, a score per epoch, and its cost."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    rows_per_second: float = 0.0
    rows_per_forward: int = 0
    resumed_at_step: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "losses": [round(loss, 5) for loss in self.losses],
            "validation_accuracy": [round(score, 5) for score in self.scores],
            "best_epoch": self.best_epoch,
            "rows_per_second": round(self.rows_per_second, 1),
            "rows_per_forward": self.rows_per_forward,
            "resumed_at_step": self.resumed_at_step,
        }


LossOf = Callable[[Sequence[int]], tuple[torch.Tensor, int]]


@dataclass
class _Position:
    """Where a training is: steps and epochs done, seconds spent in steps and altogether, the loss since the last point
    of the curve, and the best score so far."""

    step: int = 0
    epochs_done: int = 0
    stepping: float = 0.0
    elapsed: float = 0.0
    recent: list[float] = field(default_factory=list)
    best: float | None = None


def fit(
    module: nn.Module,
    rows: int,
    loss_of: LossOf,
    training: Training,
    runtime: Runtime,
    seed: int,
    stage: str,
    report: Report,
    evaluate: Callable[[], float] | None = None,
    checkpoint: Checkpoint | None = None,
    rows_per_forward: int = 0,
) -> Fitted:
    """Train the parameters of ``module`` that require gradients, in place.

    Args:
        rows: how many training rows there are; ``loss_of`` is called with indices below it.
        loss_of: the summed loss of some rows (a scalar) and how many targets it sums over.
        evaluate: called after each epoch; with ``training.keep == "best"`` the weights of its highest value are kept
            (the earliest of equal ones).
        checkpoint: where the state of an unfinished training is kept, and found again.
        rows_per_forward: rows of one forward pass; ``training.batch_size`` unless given. The result does not depend on
            it, apart from rounding.

    Raises:
        TrainingError: a loss or gradient that is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters or rows == 0:
        raise TrainingError(f"{stage}: nothing to train ({len(parameters)} trainable tensors, {rows} rows)")
    distributed.same_start([p.data for p in parameters])
    per_step = training.batch_size * training.gradient_accumulation
    steps_per_epoch = math.ceil(rows / per_step)
    epochs = max(training.epochs, math.ceil(training.min_steps / steps_per_epoch))
    total = epochs * steps_per_epoch
    optimizer = _optimizer(parameters, training, runtime)
    factor = _schedule(training, total)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.needs_loss_scaling)
    fitted, at = Fitted(rows_per_forward=rows_per_forward or training.batch_size), _Position()
    kept: list[torch.Tensor] = []
    if checkpoint is not None and (state := checkpoint.read()) is not None:
        fitted, at, kept = _restore(state, parameters, optimizer, scaler)
        fitted.resumed_at_step = at.step
    started = reported = time.monotonic()
    elapsed_before = at.elapsed

    def save() -> None:
        at.elapsed = elapsed_before + time.monotonic() - started
        assert checkpoint is not None
        checkpoint.write(*_state(parameters, kept, optimizer, scaler, fitted, at))

    for epoch in range(1, epochs + 1):
        order = torch.randperm(rows, generator=generator).tolist()
        if epoch <= at.epochs_done:
            continue
        module.train()
        resumed = time.monotonic()
        while at.step < epoch * steps_per_epoch:
            begin = (at.step % steps_per_epoch) * per_step
            chosen = order[begin : begin + per_step]
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * factor(at.step)
            loss = _step(
                module, parameters, chosen, loss_of, training, optimizer, scaler, runtime, fitted, stage, seed, at
            )
            at.step += 1
            failpoint("training.mid_step")
            at.recent.append(loss)
            now = time.monotonic()
            at.stepping += now - resumed
            resumed = now
            if now - reported >= REPORT_SECONDS or at.step in (1, total) or at.step % steps_per_epoch == 0:
                mean = float(np.mean(at.recent))
                fitted.steps.append(at.step)
                fitted.losses.append(mean)
                at.recent = []
                if now - reported >= REPORT_SECONDS or at.step == total:
                    rate = min(at.step * per_step, epoch * rows) / at.stepping
                    left = at.stepping / at.step * (total - at.step)
                    report(Progress(stage, at.step, total, epoch, epochs, mean, rate, left))
                    reported = now
            if checkpoint is not None and checkpoint.is_due() and distributed.is_first():
                save()
                resumed = time.monotonic()
        if evaluate is not None:
            module.eval()
            with torch.no_grad():
                score = evaluate()
            fitted.scores.append(score)
            if training.keep == "best" and (at.best is None or score > at.best):
                at.best, fitted.best_epoch = score, epoch
                kept = [p.detach().clone() for p in parameters]
        at.epochs_done = epoch
    if kept:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    else:
        fitted.best_epoch = epochs
    module.eval()
    fitted.seconds = elapsed_before + time.monotonic() - started
    fitted.rows_per_second = epochs * rows / at.stepping
    return fitted


def _step(
    module: nn.Module,
    parameters: list[nn.Parameter],
    chosen: Sequence[int],
    loss_of: LossOf,
    training: Training,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
    fitted: Fitted,
    stage: str,
    seed: int,
    at: _Position,
) -> float:
    """One optimiser step; returns the mean loss over the step's targets."""
    torch.manual_seed(_seed_of_step(seed, at.step))
    sums = None
    try:
        sums = _gradients(chosen, loss_of, scaler, runtime, fitted.rows_per_forward)
    except torch.OutOfMemoryError:
        if fitted.rows_per_forward <= training.batch_size or distributed.is_joined():
            raise
    if sums is None:  # outside of the except block, whose traceback holds on to what filled the memory
        fitted.rows_per_forward = training.batch_size  # a merged step was too much: accumulate from here on
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        sums = _gradients(chosen, loss_of, scaler, runtime, fitted.rows_per_forward)
    gradients = []
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradients.append(parameter.grad)
    distributed.add_up([sums, *gradients])
    loss, targets = sums.tolist()
    if not math.isfinite(loss):
        raise TrainingError(
            f"{stage}: the loss is {loss} at step {at.step + 1}; lower learning_rate or use precision: fp32"
        )
    scaler.unscale_(optimizer)
    torch._foreach_mul_(gradients, len(chosen) / max(targets, 1.0))
    norm = nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
    if not (scaler.is_enabled() and scaler.get_scale() > SMALLEST_LOSS_SCALE) and not torch.isfinite(norm):
        raise TrainingError(
            f"{stage}: the gradient is not finite at step {at.step + 1}; lower learning_rate or use precision: fp32"
        )
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss / max(targets, 1.0)


def _seed_of_step(seed: int, step: int) -> int:
    """Dropout and masks depend on seed, step and process alone: a resumed training draws what it would have drawn."""
    return (seed * 1_000_003 + step) * 1024 + distributed.rank()


def _gradients(
    chosen: Sequence[int], loss_of: LossOf, scaler: torch.amp.GradScaler, runtime: Runtime, rows_per_forward: int
) -> torch.Tensor:
    """Add to each ``grad`` the gradient of this process's summed loss over the number of rows in the step; returns the
    summed loss and the number of targets, ``[2]``."""
    sums = torch.zeros(2, dtype=torch.float64, device=runtime.device)
    mine = distributed.share(chosen)
    for start in range(0, len(mine), rows_per_forward):
        with runtime.autocast():
            loss, targets = loss_of(mine[start : start + rows_per_forward])
        scaler.scale(loss / len(chosen)).backward()
        sums[0] += loss.detach()
        sums[1] += targets
    return sums


def _state(
    parameters: list[nn.Parameter],
    kept: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    fitted: Fitted,
    at: _Position,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All that the rest of a training depends on."""
    tensors: dict[str, torch.Tensor] = {f"parameter.{i}": p for i, p in enumerate(parameters)}
    tensors |= {f"kept.{i}": p for i, p in enumerate(kept)}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return tensors, {"fitted": asdict(fitted), "at": asdict(at), "scaler": scaler.state_dict()}


def _restore(
    state: tuple[dict[str, torch.Tensor], dict[str, Any]],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> tuple[Fitted, _Position, list[torch.Tensor]]:
    tensors, facts = state
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"parameter.{i}"])
    content = optimizer.state_dict()
    content["state"] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part == "optimizer":
            index, _, what = rest.partition(".")
            content["state"].setdefault(int(index), {})[what] = value
    optimizer.load_state_dict(content)
    scaler.load_state_dict(facts["scaler"])
    kept = [tensors[f"kept.{i}"].to(p.device) for i, p in enumerate(parameters) if f"kept.{i}" in tensors]
    return Fitted(**facts["fitted"]), _Position(**facts["at"]), kept


def _optimizer(parameters: list[nn.Parameter], training: Training, runtime: Runtime) -> torch.optim.Optimizer:
    if training.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=training.learning_rate, fused=True)
    return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def _schedule(training: Training, total: int) -> Callable[[int], float]:
    """Factor on the learning rate at a step: linear warm-up, then cosine or linear to 0, or constant."""
    warmup = int(total * training.warmup_share)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(total - warmup, 1)
        if training.scheduler == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return max(0.0, 1 - done) if training.scheduler == "linear" else 1.0

    return factor
