"""What a person should know of the evaluation tables before trusting a decision made from them."""

from __future__ import annotations

from typing import Any

from emotion_assets.evaluation.figures import current_predictions
from emotion_assets.keys import RAW_DATASET
from emotion_assets.ml.predictions import SCORED_SPLITS
from emotion_assets.settings import Settings
from emotion_assets.store import Store
from emotion_assets.warehouse.database import Warehouse
from emotion_assets.warehouse.evaluation import classes_on, current_evaluations

Problems = list[dict[str, Any]]


def evaluation_problems(settings: Settings, store: Store, warehouse: Warehouse) -> dict[str, Problems]:
    """Problems by kind, empty lists when all is well.

    same_rows: a model of the profile whose current figures are of other rows than the current splits;
    every_model: a model of the profile without predictions on the current dataset; better_than_a_guess: not more
    accurate on validation than always naming the most frequent label; no_class_collapses: recall below
    ``collapse_recall`` on validation.
    """
    dataset = store.current(RAW_DATASET)
    fingerprints, n_rows = dataset.info["fingerprints"], dataset.info["rows"]
    evaluated, missing = current_predictions(settings, store, dataset)
    with warehouse.reading() as db:
        rows = [row for row in current_evaluations(db) if row["model"] in evaluated]
        classes = classes_on(db, "validation", fingerprints["validation"])
    current = {(row["model"], row["model_version"]): row for row in rows if row["split"] == "validation"}
    classes = [c for c in classes if c["support"] and (c["model"], c["model_version"]) in current]
    support = {c["emotion"]: c["support"] for c in classes}
    guess = max(support.values(), default=0) / n_rows["validation"]
    return {
        "same_rows": [
            {"model": row["model"], "split": row["split"], "rows": row["n_rows"], "dataset": row["dataset"]}
            for row in rows
            if (row["split_fingerprint"], row["n_rows"]) != (fingerprints[row["split"]], n_rows[row["split"]])
        ]
        + [
            {"model": name, "split": split, "rows": 0, "dataset": "not evaluated"}
            for name in evaluated
            for split in SCORED_SPLITS
            if not any(row["model"] == name and row["split"] == split for row in rows)
        ],
        "every_model": [{"model": name, "problem": why} for name, why in missing.items()],
        "better_than_a_guess": [
            {"model": row["model"], "validation accuracy": row["accuracy"], "most frequent label": guess}
            for row in current.values()
            if row["accuracy"] <= guess
        ],
        "no_class_collapses": [
            {"model": c["model"], "label": c["emotion"], "rows": c["support"], "recall": c["recall"]}
            for c in classes
            if c["recall"] < settings.evaluation.collapse_recall
        ],
    }
