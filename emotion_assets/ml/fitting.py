"""The one training loop: every network of the graph is fitted by it, pre-training included.

A step takes ``batch_size x gradient_accumulation`` rows. The gradients of its micro-batches are summed and divided once
by the number of targets in the whole step, so a step of 5 x 4 rows has the gradient of one batch of 20.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from emotion_assets.ml.runtime import Runtime, set_seed
from emotion_assets.settings import Training, UserError

REPORT_SECONDS = 5.0


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

    def as_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "losses": [round(loss, 5) for loss in self.losses],
            "validation_accuracy": [round(score, 5) for score in self.scores],
            "best_epoch": self.best_epoch,
            "rows_per_second": round(self.rows_per_second, 1),
        }


LossOf = Callable[[Sequence[int]], tuple[torch.Tensor, int]]


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
) -> Fitted:
    """Train the parameters of ``module`` that require gradients, in place.

    Args:
        rows: how many training rows there are; ``loss_of`` is called with indices below it.
        loss_of: the summed loss of some rows (a scalar) and how many targets it sums over.
        evaluate: called after each epoch; with ``training.keep == "best"`` the weights of its highest value are kept
            (the earliest of equal ones).

    Raises:
        TrainingError: a loss that is not finite.
    """
    set_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters or rows == 0:
        raise TrainingError(f"{stage}: nothing to train ({len(parameters)} trainable tensors, {rows} rows)")
    per_step = training.batch_size * training.gradient_accumulation
    steps_per_epoch = math.ceil(rows / per_step)
    epochs = max(training.epochs, math.ceil(training.min_steps / steps_per_epoch))
    total = epochs * steps_per_epoch
    optimizer = _optimizer(parameters, training, runtime)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(training, total))
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.needs_loss_scaling)
    fitted, best, kept = Fitted(), -math.inf, None
    step, recent, spent = 0, [], 0.0
    started = reported = time.monotonic()
    for epoch in range(1, epochs + 1):
        module.train()
        epoch_started = time.monotonic()
        for chosen in _batches(rows, per_step, generator):
            loss = _step(module, parameters, chosen, loss_of, training, optimizer, scaler, runtime, stage, step)
            schedule.step()
            step += 1
            recent.append(loss)
            now = time.monotonic()
            if now - reported >= REPORT_SECONDS or step in (1, total) or step % steps_per_epoch == 0:
                busy = spent + now - epoch_started
                done = min(step * per_step, epoch * rows)
                mean = float(np.mean(recent))
                fitted.steps.append(step)
                fitted.losses.append(mean)
                if now - reported >= REPORT_SECONDS or step == total:
                    left = busy / step * (total - step)
                    report(Progress(stage, step, total, epoch, epochs, mean, done / busy, left))
                    reported = now
                recent = []
        spent += time.monotonic() - epoch_started
        if evaluate is not None:
            module.eval()
            with torch.no_grad():
                score = evaluate()
            fitted.scores.append(score)
            if score > best and training.keep == "best":
                best, fitted.best_epoch = score, epoch
                kept = [p.detach().clone() for p in parameters]
    if kept is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    else:
        fitted.best_epoch = epochs
    module.eval()
    fitted.seconds = time.monotonic() - started
    fitted.rows_per_second = epochs * rows / spent
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
    stage: str,
    step: int,
) -> float:
    """One optimiser step; returns the mean loss over the step's targets."""
    total, targets = 0.0, 0
    for start in range(0, len(chosen), training.batch_size):
        with runtime.autocast():
            loss, count = loss_of(chosen[start : start + training.batch_size])
        if not torch.isfinite(loss):
            raise TrainingError(
                f"{stage}: the loss is {loss.item()} at step {step + 1}; lower learning_rate or use precision: fp32"
            )
        scaler.scale(loss).backward()
        total, targets = total + loss.item(), targets + count
    scaler.unscale_(optimizer)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.div_(max(targets, 1))
    nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return total / max(targets, 1)


def _batches(rows: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(rows, generator=generator).tolist()
    for start in range(0, rows, size):
        yield order[start : start + size]


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
