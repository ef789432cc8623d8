"""What is wrong with the evaluation tables: lists of problems, empty when all is well."""

from __future__ import annotations

from emotion_assets.evaluation.predictions import SCORED_SPLITS, Problems
from emotion_assets.evaluation.rows import current_predictions
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import RAW_DATASET
from emotion_assets.storage.store import Store
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.evaluation import classes_on, current_evaluations


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
