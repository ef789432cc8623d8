"""Bring the evaluation tables up to date: what has its row stays untouched, what has none is computed and added."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from emotion_assets.evaluation.rows import (
    EvaluationContext,
    compare_models,
    current_predictions,
    evaluate_model,
    join_rows,
)
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import RAW_DATASET
from emotion_assets.storage.store import Store, StoreError
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.evaluation import EvaluationKey, add_evaluations, evaluation_keys, mark_current


class NothingToEvaluateError(UserError):
    """No model of the profile has predictions on the current dataset."""


@dataclass(frozen=True)
class Outcome:
    """``keys`` are the rows that count now, ``added`` how many of them are new, ``missing`` says why for a model."""

    keys: list[EvaluationKey]
    added: int
    missing: dict[str, str]


def evaluate_all(settings: Settings, store: Store, warehouse: Warehouse, run_id: str, now: datetime) -> Outcome:
    """Evaluate every model that has sound predictions on the current dataset; the others cost the table nothing.

    Raises:
        NothingToEvaluateError: no model has.
    """
    dataset = store.current(RAW_DATASET)
    predictions, missing = current_predictions(settings, store, dataset)
    context = EvaluationContext(settings.profile, dataset, run_id, now)
    with warehouse.reading() as db:
        present = evaluation_keys(db)
    parts = []
    for name, folder in list(predictions.items()):
        if not present.issuperset(context.keys({name: folder})):
            try:
                model = store.open("models", folder.info["model_digest"], verify=False)
            except StoreError as error:
                missing[name] = str(error)
                del predictions[name]
                continue
            parts.append(evaluate_model(name, settings.models[name], folder, model, context))
    if not predictions:
        raise NothingToEvaluateError(f"no model can be evaluated: {next(iter(missing.values()))}")
    keys = context.keys(predictions)
    rows = join_rows(parts)
    rows.comparisons = compare_models(predictions, context)
    with warehouse.writing() as db:
        add_evaluations(db, rows)
        mark_current(db, keys, now)
    return Outcome(keys, len(set(keys) - present), missing)
