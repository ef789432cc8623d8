"""From stored predictions to rows of the evaluation tables.

Belongs here: which figures are computed from which split, and when the published figures may stand beside ours. Does
not belong here: the figures' formulas (``metrics``) and the tables (``storage.warehouse``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from emotion_assets.dataset.splits import OFFICIAL_TEST_FINGERPRINT
from emotion_assets.evaluation.metrics import compare, evaluate, fit_temperature
from emotion_assets.evaluation.predictions import SCORED_SPLITS, prediction_problems, read_predictions
from emotion_assets.settings.schema import ModelSettings, Settings
from emotion_assets.storage.keys import predictions_key
from emotion_assets.storage.store import Store, StoredFolder, StoreError
from emotion_assets.storage.warehouse.evaluation import EvaluationKey, EvaluationRows, metrics_version
from emotion_assets.storage.warehouse.tables import Confusion, Evaluation, EvaluationByClass, ModelComparison

COSTS = ("trainable_parameters", "total_parameters", "train_seconds", "peak_memory_mb")


@dataclass(frozen=True)
class EvaluationContext:
    """What is the same for every model of one evaluation."""

    profile: str
    dataset: StoredFolder
    run_id: str
    now: datetime

    def fingerprint(self, split: str) -> str:
        """Fingerprint of the split's rows."""
        fingerprint: str = self.dataset.info["fingerprints"][split]
        return fingerprint

    def key(self, name: str, split: str, predictions: StoredFolder) -> EvaluationKey:
        """The key of the evaluation that these predictions give."""
        version = predictions.info["model_digest"][:12]
        return EvaluationKey(name, split, version, self.fingerprint(split), predictions.digest, metrics_version())

    def keys(self, predictions: Mapping[str, StoredFolder]) -> list[EvaluationKey]:
        """The keys of both splits of several models."""
        return [self.key(name, split, folder) for name, folder in predictions.items() for split in SCORED_SPLITS]


def current_predictions(
    settings: Settings, store: Store, dataset: StoredFolder
) -> tuple[dict[str, StoredFolder], dict[str, str]]:
    """The sound predictions on this dataset by model name, and for each model of the profile without any, why."""
    predictions, missing = {}, {}
    for name in settings.models:
        key = predictions_key(name)
        if not store.has(key):
            missing[name] = f"predictions/{name} was not materialised yet"
            continue
        try:
            folder = store.current(key)
        except StoreError as error:
            missing[name] = str(error)
            continue
        if folder.info["dataset_digest"] != dataset.digest:
            missing[name] = f"predictions/{name} are of another dataset; materialise them again"
        elif problems := prediction_problems(folder, dataset):
            what = "; ".join(f"{problem['split']}: {problem['problem']}" for problem in problems)
            missing[name] = f"predictions/{name} cannot be used ({what}); train {name} again"
        else:
            predictions[name] = folder
    return predictions, missing


def evaluate_model(
    name: str,
    settings: ModelSettings | None,
    predictions: StoredFolder,
    model: StoredFolder,
    context: EvaluationContext,
) -> EvaluationRows:
    """The rows of one model, both splits. ``settings`` is None for a model that left the profile.

    The temperature is fitted on validation, so the scaled figures are given for test only.
    """
    rows = EvaluationRows()
    validation = read_predictions(predictions, "validation")
    temperature = fit_temperature(validation.actual, validation.probabilities)
    for split in SCORED_SPLITS:
        part = read_predictions(predictions, split)
        figures = evaluate(part.actual, part.probabilities, part.labels, temperature if split == "test" else None)
        key = context.key(name, split, predictions)
        rows.evaluations.append(
            Evaluation(
                **key._asdict(),
                **figures.as_columns(),
                **{cost: model.info[cost] for cost in COSTS},
                base_model=model.info["base"],
                method=settings.method if settings else "left the profile",
                profile=context.profile,
                dataset=context.dataset.info["name"],
                temperature=temperature,
                texts_per_second=predictions.info["texts_per_second"],
                paper_accuracy=paper_accuracy(settings, split, key.split_fingerprint),
                evaluated_at=context.now,
                run_id=context.run_id,
                model_digest=model.digest,
            )
        )
        for label in figures.by_class:
            columns = {column: value for column, value in vars(label).items() if column != "label"}
            rows.by_class.append(EvaluationByClass(**key._asdict(), emotion=label.label, **columns))
        rows.confusion.extend(
            Confusion(**key._asdict(), actual=actual, predicted=predicted, n=int(figures.confusion[i, j]))
            for i, actual in enumerate(part.labels)
            for j, predicted in enumerate(part.labels)
        )
    return rows


def compare_models(predictions: Mapping[str, StoredFolder], context: EvaluationContext) -> list[ModelComparison]:
    """One row for every pair of models and split; in each pair the names are in alphabetical order."""
    rows = []
    for split in SCORED_SPLITS:
        right = {name: read_predictions(folder, split).right for name, folder in sorted(predictions.items())}
        for a, b in combinations(right, 2):
            result = compare(right[a], right[b])
            rows.append(
                ModelComparison(
                    split=split,
                    split_fingerprint=context.fingerprint(split),
                    model_a=a,
                    version_a=predictions[a].info["model_digest"][:12],
                    predictions_a=predictions[a].digest,
                    model_b=b,
                    version_b=predictions[b].info["model_digest"][:12],
                    predictions_b=predictions[b].digest,
                    metrics_version=metrics_version(),
                    accuracy_difference=result.difference.value,
                    difference_low=result.difference.low,
                    difference_high=result.difference.high,
                    mcnemar_p=result.mcnemar_p,
                    only_a_right=result.only_a_right,
                    only_b_right=result.only_b_right,
                )
            )
    return rows


def paper_accuracy(settings: ModelSettings | None, split: str, split_fingerprint: str) -> float | None:
    """The published accuracy, where our rows are the published ones: the official test split and nothing else."""
    if split != "test" or split_fingerprint != OFFICIAL_TEST_FINGERPRINT:
        return None
    return getattr(settings, "paper_accuracy", None)


def join_rows(parts: Sequence[EvaluationRows]) -> EvaluationRows:
    """The rows of several models together."""
    joined = EvaluationRows()
    for part in parts:
        for table, rows in vars(part).items():
            getattr(joined, table).extend(rows)
    return joined
