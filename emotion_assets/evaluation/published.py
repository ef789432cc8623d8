"""The published accuracies, as rows to stand beside ours where the rows are the published ones.

They are read from the profile ``paper``, the one place that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emotion_assets.dataset.splits import OFFICIAL_TEST_FINGERPRINT
from emotion_assets.evaluation.metrics import accuracy_interval
from emotion_assets.profiles.reader import load_settings

PUBLISHED_ROWS = 2000


@dataclass(frozen=True)
class PublishedFigure:
    """A published accuracy on the official test split, with the 95% interval that its 2,000 rows give it."""

    model: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def published_figures(split_fingerprint: str) -> list[PublishedFigure]:
    """The published accuracies, best first, where these rows are the official test split; else none."""
    if split_fingerprint != OFFICIAL_TEST_FINGERPRINT:
        return []
    figures = []
    for name, model in load_settings("paper", environ={}).models.items():
        if (accuracy := model.paper_accuracy) is not None:
            interval = accuracy_interval(round(accuracy * PUBLISHED_ROWS), PUBLISHED_ROWS)
            figures.append(PublishedFigure(name, accuracy, interval.low, interval.high))
    return sorted(figures, key=lambda figure: -figure.accuracy)


def with_published(board: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one leaderboard and the published ones together, best first; ``published`` tells which is which.

    A published row has a model, an accuracy and an interval, and None in every other column.
    """
    if not board:
        return []
    ours = [{**row, "published": False} for row in board]
    none: dict[str, Any] = dict.fromkeys(ours[0])
    theirs = [
        {**none, **asdict(figure), "published": True} for figure in published_figures(board[0]["split_fingerprint"])
    ]
    return sorted([*ours, *theirs], key=lambda row: -row["accuracy"])
