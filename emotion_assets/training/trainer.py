"""The training loop: the one ``Trainer`` fits every network of the graph, in fine-tuning and in pre-training.

An optimizer step takes ``batch_size * gradient_accumulation`` rows, in one or more forward passes. The gradients of
these passes are summed and divided once, by the number of targets in the whole step. So a step of 4 passes over 5 rows
has the gradient of one batch of 20 rows, and so have two processes with 10 rows each. An interrupted training resumes
from its last saved state and ends with the same weights.

The host does not wait for a GPU between the steps: a step's loss and gradient norm are read when the next step is
queued. That they are finite is known before anything is evaluated, saved or returned.

Belongs here: the loop and what it saves to resume. Does not belong here: the optimiser and its learning rate
(``optimizer``), what is reported (``progress``), the state's file (``resume``), any particular model or loss
(``models``).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import nn

from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Training
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.training import distributed
from emotion_assets.training.cuda_graphs import PassGraphs, StaticPasses
from emotion_assets.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from emotion_assets.training.progress import Progress, Report, TrainingHistory
from emotion_assets.training.resume import ResumeState
from emotion_assets.training.runtime import Runtime
from emotion_assets.training.transfer import HostCopy

REPORT_SECONDS = 5.0
SMALLEST_LOSS_SCALE = 2.0**-10
MEMORY_RAN_OUT = "memory ran out"
FORWARD_TOKENS = 1536
"""Of a forward pass on a CPU, about: more at once take more memory than they save time."""

LossFunction = Callable[[Sequence[int]], tuple[torch.Tensor, float]]
"""Row indices -> the loss summed over these rows' targets (a scalar) and the number, or summed weight, of those
targets: at least 1 where there is one."""


class TrainingError(UserError):
    """A training that cannot go on; no model comes out of it."""


@dataclass(frozen=True)
class TrainingTask:
    """What to train.

    Attributes:
        name: how progress lines and errors call it.
        module: its parameters that require gradients are trained, in place.
        rows: the number of training rows.
        loss_of: the loss of some rows, given as indices below ``rows``.
        evaluate: the score to maximise, computed after each epoch. Without it the last weights are kept.
        checkpoint_activations: makes the module take less memory and more time, where one row alone does not fit.
        lengths: of each row, in tokens; several processes share a step's tokens evenly.
        static_passes: the same losses in a form that a CUDA graph can repeat, or why there is none.
    """

    name: str
    module: nn.Module
    rows: int
    loss_of: LossFunction
    evaluate: Callable[[], float] | None = None
    checkpoint_activations: Callable[[], None] | None = None
    lengths: Sequence[int] | None = None
    static_passes: StaticPasses | str = "not made for this network"


@dataclass
class Position:
    """Where a training is. The field names are part of the resume state's file.

    Attributes:
        step: optimizer steps done.
        epochs_done: epochs done and evaluated.
        stepping: seconds spent in optimizer steps.
        elapsed: seconds since the start, up to the last save; time between an interruption and its resumption excluded.
        recent: the losses of the steps since the last point of the loss curve.
        best: the highest score so far.
    """

    step: int = 0
    epochs_done: int = 0
    stepping: float = 0.0
    elapsed: float = 0.0
    recent: list[float] = field(default_factory=list)
    best: float | None = None


class Trainer:
    """Trains a task's network. ``fit`` is the whole training, ``step`` one optimizer step of it."""

    def __init__(
        self, task: TrainingTask, training: Training, runtime: Runtime, seed: int, rows_per_forward: int = 0
    ) -> None:
        """Set up a training at its beginning; all processes start from the first one's weights.

        Args:
            seed: decides the order of the rows and, with the step, what dropout and masking draw.
            rows_per_forward: most rows of one forward pass, ``training.batch_size`` if 0. Apart from rounding, and
                from what dropout draws, the result does not depend on it.

        Raises:
            TrainingError: the task has no rows or nothing to train.
        """
        self.task, self.training, self.runtime, self.seed = task, training, runtime, seed
        self.parameters = [p for p in task.module.parameters() if p.requires_grad]
        if not self.parameters or task.rows == 0:
            raise TrainingError(
                f"{task.name}: nothing to train ({len(self.parameters)} trainable tensors, {task.rows} rows)"
            )
        distributed.broadcast([p.data for p in self.parameters])
        self.rows_per_step = training.batch_size * training.gradient_accumulation
        self.steps_per_epoch = math.ceil(task.rows / self.rows_per_step)
        self.epochs = max(training.epochs, math.ceil(training.min_steps / self.steps_per_epoch))
        self.total_steps = self.epochs * self.steps_per_epoch
        self.optimizer = make_optimizer(self.parameters, training)
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.needs_loss_scaling)
        self.history = TrainingHistory(rows_per_forward=rows_per_forward or training.batch_size)
        passes = "several processes" if distributed.is_joined() else task.static_passes
        self.graphs = PassGraphs(passes, self.parameters, self._add_gradients)
        self.position = Position()
        self.kept_weights: list[torch.Tensor] = []  # of the best epoch so far, with keep: best
        self._unread: deque[tuple[int, HostCopy]] = deque()  # number and figures of the steps that were not read yet
        self._started = self._reported = time.monotonic()

    def fit(self, report: Report, resume_state: ResumeState | None = None) -> TrainingHistory:
        """Train to the end, or to the end from where ``resume_state`` left off.

        With ``training.keep == "best"`` the weights of the epoch with the highest score are kept, of equal scores the
        earliest's; else those of the last epoch. With ``training.patience`` it ends after that many epochs without a
        higher score; the learning rate follows the schedule of all epochs until then.

        Raises:
            TrainingError: a loss or gradient that is not finite.
        """
        if resume_state is not None:
            self.restore(resume_state)
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in range(1, self.epochs + 1):
            order = torch.randperm(self.task.rows, generator=generator).tolist()  # drawn for finished epochs as well
            if epoch <= self.position.epochs_done:
                continue
            if self._patience_is_spent():
                break
            self._train_epoch(epoch, order, report, resume_state)
            self._evaluate(epoch)
            self.position.epochs_done = epoch
        self._load_kept_weights()
        self.task.module.eval()
        self.history.seconds = time.monotonic() - self._started
        self.history.rows_per_second = self.position.epochs_done * self.task.rows / self.position.stepping
        return self.history

    def step(self, rows: Sequence[int]) -> None:
        """One optimizer step on these rows of the whole group of processes.

        Raises:
            TrainingError: the loss or the gradient is not finite; on a GPU, those of the step before.
        """
        factor = learning_rate_factor(self.training, self.position.step, self.total_steps)
        set_learning_rate(self.optimizer, self.training.learning_rate * factor)
        torch.manual_seed(_seed_of_step(self.seed, self.position.step))
        sums, targets = self._accumulate_gradients(rows)
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        distributed.all_reduce([sums, *gradients])
        scale = self.scaler.scale(torch.ones((), device=sums.device)) if self.scaler.is_enabled() else None
        self.scaler.unscale_(self.optimizer)
        if distributed.is_joined():  # the targets of all processes are known on the device alone
            torch._foreach_mul_(gradients, (len(rows) / sums[1].clamp(min=1.0)).float())
        else:
            torch._foreach_mul_(gradients, len(rows) / max(targets, 1.0))
        norm = nn.utils.clip_grad_norm_(self.parameters, self.training.max_grad_norm)
        self.scaler.step(self.optimizer)  # does nothing where the gradient of a scaled loss is not finite
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        figures = [sums, norm.to(sums.dtype).view(1)] + ([] if scale is None else [scale.to(sums.dtype).view(1)])
        self._unread.append((self.position.step + 1, HostCopy(torch.cat(figures))))
        self.position.step += 1
        self._read_figures(leave=1 if self.runtime.device.type == "cuda" else 0)

    def _read_figures(self, leave: int = 0) -> None:
        """Read the loss and the gradient's norm of the steps done, but for the last ``leave`` ones.

        Raises:
            TrainingError: one of them is not finite.
        """
        fix = "lower learning_rate or use precision: fp32"
        while len(self._unread) > leave:
            step, figures = self._unread.popleft()
            loss, targets, norm, *scale = figures.read()
            if not math.isfinite(loss):
                raise TrainingError(f"{self.task.name}: the loss is {loss} at step {step}; {fix}")
            scale_can_shrink = bool(scale) and scale[0] > SMALLEST_LOSS_SCALE
            if not scale_can_shrink and not math.isfinite(norm):
                raise TrainingError(f"{self.task.name}: the gradient is not finite at step {step}; {fix}")
            self.position.recent.append(loss / max(targets, 1.0))

    def save(self, resume_state: ResumeState) -> None:
        """Write all that the rest of the training depends on.

        Raises:
            OSError: see ``ResumeState.write``.
            TrainingError: the weights are not finite.
        """
        self._read_figures()
        self.position.elapsed = time.monotonic() - self._started
        tensors: dict[str, torch.Tensor] = {f"parameter.{i}": p for i, p in enumerate(self.parameters)}
        tensors |= {f"kept.{i}": weights for i, weights in enumerate(self.kept_weights)}
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in values.items()}
        facts = {"fitted": asdict(self.history), "at": asdict(self.position), "scaler": self.scaler.state_dict()}
        resume_state.write(tensors, facts)

    def restore(self, resume_state: ResumeState) -> None:
        """Go to where ``save`` was last called; stay at the beginning if it never was in this training."""
        if (state := resume_state.read()) is None:
            return
        tensors, facts = state
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter.{i}"])
        optimizer_state = self.optimizer.state_dict()
        optimizer_state["state"] = {}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            if part == "optimizer":
                index, _, name = rest.partition(".")
                optimizer_state["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(optimizer_state)
        self.scaler.load_state_dict(facts["scaler"])
        self.kept_weights = [
            tensors[f"kept.{i}"].to(p.device) for i, p in enumerate(self.parameters) if f"kept.{i}" in tensors
        ]
        self.history, self.position = TrainingHistory(**facts["fitted"]), Position(**facts["at"])
        self.history.resumed_at_step = self.position.step
        if self.history.memory_ran_out:
            self.graphs.give_up(MEMORY_RAN_OUT)
        if self.history.checkpointed and self.task.checkpoint_activations is not None:
            self.task.checkpoint_activations()
        self._reported = time.monotonic()
        self._started = self._reported - self.position.elapsed

    def _train_epoch(self, epoch: int, order: list[int], report: Report, resume_state: ResumeState | None) -> None:
        """The optimizer steps that are left of an epoch, on the rows in this order."""
        position = self.position
        self.task.module.train()
        before = time.monotonic()
        while position.step < epoch * self.steps_per_epoch:
            begin = (position.step % self.steps_per_epoch) * self.rows_per_step
            self.step(order[begin : begin + self.rows_per_step])
            failpoint("training.mid_step")
            now = time.monotonic()
            position.stepping += now - before
            before = now
            self._record(epoch, now, report)
            if resume_state is not None and resume_state.is_due() and distributed.is_first():
                self.save(resume_state)
                before = time.monotonic()

    def _record(self, epoch: int, now: float, report: Report) -> None:
        """Add a point to the loss curve and report progress, every ``REPORT_SECONDS`` and at some steps anyway."""
        position, step = self.position, self.position.step
        report_is_due = now - self._reported >= REPORT_SECONDS
        if not (report_is_due or step in (1, self.total_steps) or step % self.steps_per_epoch == 0):
            return
        self._read_figures()
        mean_loss = float(np.mean(position.recent))
        self.history.steps.append(step)
        self.history.losses.append(mean_loss)
        position.recent = []
        if report_is_due or step == self.total_steps:
            rows_per_second = min(step * self.rows_per_step, epoch * self.task.rows) / position.stepping
            seconds_left = position.stepping / step * (self.total_steps - step)
            report(
                Progress(
                    self.task.name, step, self.total_steps, epoch, self.epochs, mean_loss, rows_per_second, seconds_left
                )
            )
            self._reported = now

    def _evaluate(self, epoch: int) -> None:
        """Score the weights after an epoch, and keep a copy of them if they are the best so far."""
        if self.task.evaluate is None:
            return
        self.task.module.eval()
        with torch.no_grad():
            score = self.task.evaluate()
        self.history.scores.append(score)
        if self.training.keep == "best" and (self.position.best is None or score > self.position.best):
            self.position.best, self.history.best_epoch = score, epoch
            self.kept_weights = [p.detach().clone() for p in self.parameters]

    def _patience_is_spent(self) -> bool:
        """Whether the last ``training.patience`` epochs gave no higher score than the best before them."""
        patience = self.training.patience
        return patience is not None and len(self.history.scores) - self.history.best_epoch >= patience

    def _load_kept_weights(self) -> None:
        """End with the weights of the best epoch, or with the last ones where none were kept."""
        if not self.kept_weights:
            self.history.best_epoch = self.epochs
            return
        with torch.no_grad():
            for parameter, weights in zip(self.parameters, self.kept_weights, strict=True):
                parameter.copy_(weights)

    def _accumulate_gradients(self, rows: Sequence[int]) -> tuple[torch.Tensor, float]:
        """``_gradients``, with less memory from here on if what it takes now does not fit."""
        while (sums := self._gradients_that_fit(rows)) is None:
            self.optimizer.zero_grad(set_to_none=True)
            if self.runtime.device.type == "cuda":
                torch.cuda.empty_cache()
        return sums

    def _gradients_that_fit(self, rows: Sequence[int]) -> tuple[torch.Tensor, float] | None:
        """``_gradients``; None where memory ran out and the next attempt takes less.

        First come passes without graphs, then fewer rows in a forward pass, down to one, then activations that are
        computed again. What filled the memory is freed only when this has returned: the exception's traceback holds on
        to it.
        """
        history, task = self.history, self.task
        try:
            return self._gradients(rows)
        except torch.OutOfMemoryError:
            history.memory_ran_out = True
            if not self.graphs.problem:
                self.graphs.give_up(MEMORY_RAN_OUT)
            elif history.rows_per_forward > 1:
                smaller = self.training.batch_size
                history.rows_per_forward = min(smaller, (history.rows_per_forward + 1) // 2)
            elif task.checkpoint_activations is not None and not history.checkpointed:
                history.checkpointed = True
                task.checkpoint_activations()
            else:
                raise
        return None

    def _gradients(self, rows: Sequence[int]) -> tuple[torch.Tensor, float]:
        """Add to each ``grad`` the gradient of this process's summed loss, divided by the number of rows in the step.

        Returns the summed loss and the number of targets of this process, ``[2]`` on the device, and that number.
        """
        sums, counted = torch.zeros(2, dtype=self.runtime.sum_dtype, device=self.runtime.device), 0.0
        mine, size = distributed.shard_by_size(rows, self._lengths(rows)), self.history.rows_per_forward
        for start in range(0, len(mine), size):
            for chosen in self._split(mine[start : start + size]):
                loss, targets = self._pass(chosen, len(rows))
                sums[0] += loss
                sums[1] += targets
                counted += targets
        return sums, counted

    def _split(self, rows: Sequence[int]) -> list[Sequence[int]]:
        """The rows of a pass, in several passes where they have more tokens than are worth their memory."""
        if self.runtime.device.type != "cpu":
            return [rows]
        lengths = self._lengths(rows)
        return distributed.divide_by_size(rows, lengths, -(-sum(lengths) // FORWARD_TOKENS))

    def _lengths(self, rows: Sequence[int]) -> list[int]:
        return [1 if self.task.lengths is None else self.task.lengths[row] for row in rows]

    def _pass(self, rows: Sequence[int], divisor: int) -> tuple[torch.Tensor, float]:
        """One forward and backward pass; the summed loss and the number of targets."""
        if not self.graphs.problem:
            return self.graphs.run(rows, divisor)
        targets = 0.0

        def loss_of() -> torch.Tensor:
            nonlocal targets
            loss, targets = self.task.loss_of(rows)
            return loss

        return self._add_gradients(loss_of, divisor), targets

    def _add_gradients(self, loss_of: Callable[[], torch.Tensor], divisor: int) -> torch.Tensor:
        with self.runtime.autocast():
            loss = loss_of()
        self.scaler.scale(loss / divisor).backward()
        return loss.detach()


def _seed_of_step(seed: int, step: int) -> int:
    """The seed of what a step draws at random (dropout, masks): a resumed step draws what it would have drawn."""
    return (seed * 1_000_003 + step) * 1024 + distributed.rank()
