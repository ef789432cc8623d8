"""The trials of a sweep: trainings of the same models that differ in seed and learning rate.

Belongs here: which trials there are, what each is worth, and the mean and spread over seeds. Does not belong here: how
a trial is trained and shown (``defs.sweep``). Nothing of a trial is stored: its scores live in memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from emotion_assets.evaluation.metrics import evaluate
from emotion_assets.evaluation.predictions import score_splits
from emotion_assets.models.hyperparameters import (
    learning_rate_of,
    replace_settings,
    require_seed,
    swept_models,
    swept_seeds,
)
from emotion_assets.settings.errors import SettingsError
from emotion_assets.settings.schema import ModelSettings, Settings
from emotion_assets.storage.store import Store, StoredFolder

RANKED_BY = "validation accuracy"


@dataclass(frozen=True)
class Trial:
    """One training: a model of the profile, its settings with the learning rate of the trial, and the seed."""

    model: str
    settings: ModelSettings
    seed: int

    @property
    def learning_rate(self) -> float | None:
        """None of a model that has none."""
        return learning_rate_of(self.settings)

    def __str__(self) -> str:
        rate = "" if self.learning_rate is None else f", learning rate {self.learning_rate:g}"
        return f"{self.model}{rate}, seed {self.seed}"


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes:
        version: of the stored model.
        how: whether it was trained or recalled.
        figures: accuracy and macro F1 from 0 to 1 by split and name, as ``score_trial`` gives them.
    """

    trial: Trial
    version: str
    how: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """Mean of a figure over seeds and sample standard deviation (n - 1); None of a single seed."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.deviation is None else f"{self.mean:.3f} ± {self.deviation:.3f}"


@dataclass(frozen=True)
class TrialSummary:
    """A model with one learning rate (None: it has none) over ``seeds`` seeds: each figure's spread."""

    model: str
    learning_rate: float | None
    seeds: int
    spreads: Mapping[str, Spread]


def plan_trials(
    settings: Settings, models: Sequence[str], seeds: Sequence[int], learning_rates: Sequence[float]
) -> list[Trial]:
    """Every model with every learning rate and every seed, seeds of the same settings behind each other.

    Args:
        models: empty: ``swept_models``.
        seeds: empty: ``swept_seeds``.
        learning_rates: empty: the profile's own of each model.

    Raises:
        SettingsError: one line; a model is not in the profile or has no learning rate, a value is out of bounds or is
            there twice, or there is no model.
    """
    models = models or swept_models(settings)
    seeds = seeds or swept_seeds(settings)
    for what, values in (("models", models), ("seeds", seeds), ("learning_rates", learning_rates)):
        if repeated := [value for value in values if values.count(value) > 1]:
            raise SettingsError(f"{what}: {repeated[0]} is there twice; name it once")
    if not models:
        raise SettingsError("models: no model of the profile has a learning rate; name the models to train")
    for seed in seeds:
        require_seed("seeds", seed)
    return [
        Trial(name, chosen, seed)
        for name in models
        for chosen in _with_learning_rates(settings, name, learning_rates)
        for seed in seeds
    ]


def _with_learning_rates(settings: Settings, name: str, learning_rates: Sequence[float]) -> Iterator[ModelSettings]:
    if (model := settings.models.get(name)) is None:
        raise SettingsError(f"models: {name!r} is not in the profile; it has {', '.join(settings.models)}")
    if learning_rates and learning_rate_of(model) is None:
        raise SettingsError(f"learning_rates: {name} takes none; take it out of models, or leave learning_rates empty")
    if not learning_rates:
        yield model
    for rate in learning_rates:
        yield replace_settings(name, model, {"training.learning_rate": rate})


def score_trial(trial: Trial, model: StoredFolder, dataset: StoredFolder, store: Store) -> dict[str, float]:
    """Accuracy and macro F1 on validation and test, as the evaluation table has them of the same model.

    Raises:
        DataError: the model does not know the dataset's labels, or gave probabilities that are not finite.
        StoreError: the base checkpoint that the model needs is not in the store any more.
    """
    from emotion_assets.training.runtime import free_memory

    try:
        parts, _ = score_splits(trial.model, model, dataset, store)
    finally:
        free_memory()  # the next trial is trained in another process, on the same GPU
    figures: dict[str, float] = {}
    for split, part in parts.items():
        found = evaluate(part.actual, part.probabilities, part.labels)
        figures |= {f"{split} accuracy": float(found.accuracy.value), f"{split} macro F1": float(found.macro_f1.value)}
    return figures


def summarise(results: Sequence[TrialResult]) -> list[TrialSummary]:
    """One summary for each model and learning rate, the best mean of ``RANKED_BY`` first."""
    groups: dict[tuple[str, float | None], list[TrialResult]] = {}
    for result in results:
        groups.setdefault((result.trial.model, result.trial.learning_rate), []).append(result)
    summaries = [
        TrialSummary(model, rate, len(group), {name: _spread(group, name) for name in group[0].figures})
        for (model, rate), group in groups.items()
    ]
    return sorted(summaries, key=lambda summary: -summary.spreads[RANKED_BY].mean)


def _spread(group: Sequence[TrialResult], figure: str) -> Spread:
    values = [result.figures[figure] for result in group]
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
