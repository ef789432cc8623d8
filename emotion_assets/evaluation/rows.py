"""From stored predictions to rows of the evaluation tables.

Belongs here: which figures are computed from which split, and when the published figures may stand beside ours. Does
not belong here: the figures' formulas (``ml.metrics``) and the tables (``warehouse.evaluation``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import Any

from emotion_assets.dataset.splits import OFFICIAL_TEST_FINGERPRINT
from emotion_assets.evaluation.metrics import compare, evaluate, fit_temperature
from emotion_assets.evaluation.predictions import SCORED_SPLITS, read_predictions
from emotion_assets.settings.schema import ModelSettings, Settings
from emotion_assets.storage.keys import predictions_key
from emotion_assets.storage.store import Store, StoredFolder

Row = dict[str, Any]


@dataclass(frozen=True)
class Circumstances:
    """What is the same for every model of one evaluation."""

    profile: str
    dataset: StoredFolder
    run_id: str
    now: datetime

    def fingerprint(self, split: str) -> str:
        fingerprint: str = self.dataset.info["fingerprints"][split]
        return fingerprint


@dataclass
class EvaluationRows:
    """Rows for the four tables, by table name as keyword."""

    evaluations: list[Row] = field(default_factory=list)
    by_class: list[Row] = field(default_factory=list)
    confusion: list[Row] = field(default_factory=list)
    comparisons: list[Row] = field(default_factory=list)


def current_predictions(
    settings: Settings, store: Store, dataset: StoredFolder
) -> tuple[dict[str, StoredFolder], dict[str, str]]:
    """The predictions on this dataset by model name, and for each model of the profile without any, why."""
    found, missing = {}, {}
    for name in settings.models:
        key = predictions_key(name)
        if not store.has(key):
            missing[name] = f"predictions/{name} was not materialised yet"
            continue
        folder = store.current(key)
        if folder.info["dataset_digest"] == dataset.digest:
            found[name] = folder
        else:
            missing[name] = f"predictions/{name} are of another dataset; materialise them again"
    return found, missing


def evaluate_model(
    name: str,
    settings: ModelSettings | None,
    predictions: StoredFolder,
    model: StoredFolder,
    circumstances: Circumstances,
    rows: EvaluationRows,
) -> None:
    """Add the rows of one model, both splits. ``settings`` is None for a model that left the profile.

    The temperature is fitted on validation, so the scaled figures are given for test only.
    """
    validation = read_predictions(predictions, "validation")
    temperature = fit_temperature(validation.actual, validation.probabilities)
    for split in SCORED_SPLITS:
        part = read_predictions(predictions, split)
        found = evaluate(part.actual, part.probabilities, part.labels, temperature if split == "test" else None)
        key = {
            "model": name,
            "split": split,
            "model_version": model.version,
            "split_fingerprint": circumstances.fingerprint(split),
        }
        rows.evaluations.append(
            {
                **key,
                "base_model": model.info["base"],
                "method": settings.method if settings else "left the profile",
                "profile": circumstances.profile,
                "dataset": circumstances.dataset.info["name"],
                "n_rows": found.n_rows,
                "accuracy": found.accuracy.value,
                "accuracy_low": found.accuracy.low,
                "accuracy_high": found.accuracy.high,
                "macro_f1": found.macro_f1.value,
                "macro_f1_low": found.macro_f1.low,
                "macro_f1_high": found.macro_f1.high,
                "weighted_f1": found.weighted_f1,
                "log_loss": found.log_loss,
                "log_loss_scaled": found.log_loss_scaled,
                "ece": found.ece,
                "ece_scaled": found.ece_scaled,
                "temperature": temperature,
                **{cost: model.info[cost] for cost in ("trainable_parameters", "total_parameters", "train_seconds")},
                "peak_memory_mb": model.info["peak_memory_mb"],
                "texts_per_second": predictions.info["texts_per_second"],
                "paper_accuracy": paper_accuracy(settings, split, key["split_fingerprint"]),
                "evaluated_at": circumstances.now,
                "run_id": circumstances.run_id,
                "model_digest": model.digest,
            }
        )
        rows.by_class.extend(
            {
                **key,
                "emotion": figures.label,
                "support": figures.support,
                "precision": figures.precision,
                "recall": figures.recall,
                "f1": figures.f1,
            }
            for figures in found.by_class
        )
        rows.confusion.extend(
            {**key, "actual": actual, "predicted": predicted, "n": int(found.confusion[i, j])}
            for i, actual in enumerate(part.labels)
            for j, predicted in enumerate(part.labels)
        )


def compare_models(predictions: Mapping[str, StoredFolder], circumstances: Circumstances) -> list[Row]:
    """One row for every pair of models and split; in each pair the names are in alphabetical order."""
    rows = []
    for split in SCORED_SPLITS:
        right = {name: read_predictions(folder, split).right for name, folder in sorted(predictions.items())}
        for a, b in combinations(right, 2):
            found = compare(right[a], right[b])
            rows.append(
                {
                    "split": split,
                    "split_fingerprint": circumstances.fingerprint(split),
                    "model_a": a,
                    "version_a": predictions[a].info["model_digest"][:12],
                    "model_b": b,
                    "version_b": predictions[b].info["model_digest"][:12],
                    "accuracy_difference": found.difference.value,
                    "difference_low": found.difference.low,
                    "difference_high": found.difference.high,
                    "mcnemar_p": found.mcnemar_p,
                    "only_a_right": found.only_a_right,
                    "only_b_right": found.only_b_right,
                }
            )
    return rows


def paper_accuracy(settings: ModelSettings | None, split: str, split_fingerprint: str) -> float | None:
    """The published accuracy, where our rows are the published ones: the official test split and nothing else."""
    if split != "test" or split_fingerprint != OFFICIAL_TEST_FINGERPRINT:
        return None
    return getattr(settings, "paper_accuracy", None)


def evaluation_keys(
    predictions: Mapping[str, StoredFolder], circumstances: Circumstances, splits: Sequence[str] = SCORED_SPLITS
) -> list[tuple[str, str, str, str]]:
    """The keys (model, split, model_version, split_fingerprint) of the rows that these predictions give."""
    return [
        (name, split, folder.info["model_digest"][:12], circumstances.fingerprint(split))
        for name, folder in predictions.items()
        for split in splits
    ]
