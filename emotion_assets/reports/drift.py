"""Has what customers write, and what the model makes of it, moved away from what the model was trained on?

Belongs here: distances between two samples, with the size that chance alone would give. Does not belong here: which
samples are compared (``feedback.report``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SOME, STRONG = 0.1, 0.25
"""The customary bounds of the population stability index: below the first nothing to see, above the second much."""


Figures = tuple[float, float, float]
"""Psi, Jensen-Shannon divergence in bits, and the chance level of psi."""


@dataclass(frozen=True)
class Drift:
    """A comparison of recent rows with a reference.

    ``psi``: population stability index, sum of (p - q) ln(p / q) over bins; ``jensen_shannon``: in bits, 0 to 1;
    ``chance``: the psi that 95 in 100 samples of this size stay below without any drift. All None below the minimum n.
    """

    what: str
    reference: str
    n: int
    psi: float | None
    jensen_shannon: float | None
    chance: float | None
    now: str
    before: str

    @property
    def verdict(self) -> str:
        if self.psi is None or self.chance is None:
            return "too few rows"
        if self.psi < max(SOME, self.chance):
            return "none seen"
        return "strong" if self.psi >= STRONG else "some"


def compare_counts(recent: Sequence[int], reference: Sequence[int]) -> Figures:
    """Psi, Jensen-Shannon divergence and the chance level of psi for counts over the same bins.

    Half a row is added to each bin, so that an empty one gives no infinite term. Without drift psi is about
    (1/n + 1/m) times a chi-squared variable with bins - 1 degrees of freedom (Yurdakul and Naranjo 2020).
    """
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import chi2

    a, b = np.asarray(recent, dtype=float) + 0.5, np.asarray(reference, dtype=float) + 0.5
    p, q = a / a.sum(), b / b.sum()
    psi = float(((p - q) * np.log(p / q)).sum())
    chance = float(chi2.ppf(0.95, len(p) - 1) * (1 / a.sum() + 1 / b.sum()))
    return psi, float(jensenshannon(p, q, base=2) ** 2), chance


def compare_values(recent: np.ndarray, reference: np.ndarray, bins: int = 10) -> Figures:
    """As ``compare_counts``, over the quantiles of the reference; equal quantiles give fewer bins."""
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))

    def counts(values: np.ndarray) -> np.ndarray:
        return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)

    return compare_counts(counts(recent).tolist(), counts(reference).tolist())


def share_difference(now: int, n_now: int, before: int, n_before: int, confidence: float) -> tuple[float, float, float]:
    """Difference of two shares with its interval: Newcombe (1998), method 10, from two Wilson intervals."""
    from scipy.stats import binomtest

    p, q = now / n_now, before / n_before
    a = binomtest(now, n_now).proportion_ci(confidence, method="wilson")
    b = binomtest(before, n_before).proportion_ci(confidence, method="wilson")
    low = p - q - float(np.hypot(p - a.low, b.high - q))
    high = p - q + float(np.hypot(a.high - p, q - b.low))
    return p - q, low, high
