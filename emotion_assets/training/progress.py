"""What a training reports: how far it is while it runs, and its history at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


class Reportable(Protocol):
    """Something to say of a training that runs."""

    def line(self) -> str:
        """Everything in one line, for a log."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far a training is. ``rows_per_second`` counts training rows, evaluation time excluded."""

    name: str
    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    rows_per_second: float
    seconds_left: float

    def line(self) -> str:
        """Everything in one line, for a log."""
        left = f"{self.seconds_left:.0f} s" if self.seconds_left < 90 else f"{self.seconds_left / 60:.1f} min"
        return (
            f"{self.name}: step {self.step}/{self.steps} ({100 * self.step // self.steps}%), epoch {self.epoch}/"
            f"{self.epochs}, loss {self.loss:.4f}, {self.rows_per_second:,.0f} rows/s, about {left} left"
        )


Report = Callable[[Reportable], None]


@dataclass
class TrainingHistory:
    """What a training leaves behind besides the weights. The field names are part of the resume state's file.

    Attributes:
        steps: the optimizer steps at which the loss curve has a point.
        losses: the mean loss per target since the point before, one for each of ``steps``.
        scores: what ``evaluate`` returned after each epoch.
        best_epoch: the epoch, counted from 1, whose weights were kept.
        seconds: wall time, the time before an interruption included.
        rows_per_second: training rows per second, evaluation time excluded.
        rows_per_forward: rows of one forward pass, at most.
        resumed_at_step: optimizer steps already done when the training was last resumed; 0 if it never was.
        checkpointed: whether activations are computed again in the backward pass, because memory ran out.
        memory_ran_out: whether it ever did.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    rows_per_second: float = 0.0
    rows_per_forward: int = 0
    resumed_at_step: int = 0
    checkpointed: bool = False
    memory_ran_out: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "losses": [round(loss, 5) for loss in self.losses],
            "validation_accuracy": [round(score, 5) for score in self.scores],
            "best_epoch": self.best_epoch,
            "rows_per_second": round(self.rows_per_second, 1),
            "rows_per_forward": self.rows_per_forward,
            "resumed_at_step": self.resumed_at_step,
            "checkpointed": self.checkpointed,
        }
