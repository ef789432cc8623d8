"""The decision on an answer: it counts (ok), it is not sure enough (abstain), or the text was read in part (truncated).

This is the only place that knows the rule. New scores, scores stored before and the choice of the threshold all go
through it; to abstain by another rule, change ``certainty`` or ``decide`` and raise ``RULE``: stored scores are then
decided again by the next scoring run.
"""

from __future__ import annotations

import numpy as np

RULE = "1"
OK, ABSTAIN, TRUNCATED = "ok", "abstain", "truncated"


def certainty(probabilities: np.ndarray) -> np.ndarray:
    """How sure the model is of each answer, ``[n]``, from calibrated probabilities ``[n, labels]``: the highest one."""
    return probabilities.max(1)  # type: ignore[no-any-return]


def decide(probabilities: np.ndarray, truncated: np.ndarray, threshold: float) -> np.ndarray:
    """The status of each answer, ``[n]`` strings. An unsure answer abstains, whether or not its text was cut.

    Args:
        probabilities: calibrated, ``[n, labels]`` float32.
        truncated: ``[n]`` bool, whether the text was longer than the model reads.
        threshold: of the certainty, a value of float32: equal values compare as equal.
    """
    sure = certainty(probabilities) >= threshold
    return np.where(~sure, ABSTAIN, np.where(truncated, TRUNCATED, OK))


def choose_threshold(actual: np.ndarray, probabilities: np.ndarray, target: float) -> float:
    """The lowest certainty from which on answered rows reach ``target`` accuracy; above 1 where none does.

    ``actual`` is ``[rows]`` label indices. The rows are taken surest first; rows of equal certainty are answered
    together or not at all. This is the empirical threshold of selective classification (Geifman and El-Yaniv 2017)
    without its finite-sample correction, so few validation rows make it optimistic.
    """
    sureness = certainty(probabilities)
    order = np.argsort(-sureness, kind="stable")
    right = (probabilities.argmax(1) == actual)[order]
    accuracy = np.cumsum(right) / np.arange(1, len(right) + 1)
    ends = np.append(np.diff(sureness[order]) != 0, True)
    reached = np.flatnonzero(ends & (accuracy >= target))
    return float(sureness[order][reached[-1]]) if len(reached) else float(np.nextafter(np.float32(1), np.float32(2)))
