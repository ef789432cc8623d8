"""Class probabilities of a stored model for the rows of a stored dataset, kept so that no row is scored twice.

Does not belong here: what the probabilities are worth (``metrics``).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.dataset.splits import read_split
from emotion_assets.settings import versions
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import Store, StoredFolder, fingerprint

SCORED_SPLITS = ("validation", "test")
SUM_TOLERANCE = 1e-3
Problems = list[dict[str, Any]]


@dataclass(frozen=True)
class Predictions:
    """One split, in dataset row order: ``actual`` ``[rows]`` int and ``probabilities`` ``[rows, labels]`` float32."""

    labels: tuple[str, ...]
    actual: np.ndarray
    probabilities: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """``[rows]`` bool: whether the most probable label is the actual one."""
        return self.probabilities.argmax(1) == self.actual


def predict(name: str, model: StoredFolder, dataset: StoredFolder, store: Store) -> StoredFolder:
    """The predictions folder of a model: recalled when this model scored this dataset before, else scored now.

    Raises:
        DataError: the model does not know the dataset's labels, or gave probabilities that are not finite.
        StoreError: the base checkpoint that the model needs is not in the store any more.
    """
    recipe = fingerprint("predictions", versions.PREDICTIONS, model.digest, dataset.digest)
    if (recalled := store.recall(recipe)) is not None:
        return recalled
    parts, texts_per_second = score_splits(name, model, dataset, store)
    with store.writing("predictions") as draft:
        for split, part in parts.items():
            columns = {
                "label": pa.array(part.actual, pa.int16()),
                "probabilities": pa.array(list(part.probabilities), pa.list_(pa.float32())),
            }
            pq.write_table(pa.table(columns), draft.file(f"{split}.parquet"))
        labels = dataset.info["labels"]
        about = {"labels": labels, "model_name": name, "model_digest": model.digest, "dataset_digest": dataset.digest}
        measured = {
            "texts_per_second": texts_per_second,
            "rows": {split: len(part.actual) for split, part in parts.items()},
        }
        folder = draft.finish(about | measured, identity=list(about))
    store.remember(recipe, "predictions", folder)
    return folder


def score_splits(
    name: str, model: StoredFolder, dataset: StoredFolder, store: Store
) -> tuple[dict[str, Predictions], float]:
    """What a model says of every row of the scored splits, by split, and how many texts a second it has read.

    Args:
        name: of the model, for errors.

    Raises:
        DataError: the model does not know the dataset's labels, or gave probabilities that are not finite.
        StoreError: the base checkpoint that the model needs is not in the store any more.
    """
    from emotion_assets.models.registry import load_scorer

    scorer = load_scorer(model, store)
    labels: list[str] = dataset.info["labels"]
    if sorted(scorer.labels) != sorted(labels):
        raise DataError(
            f"{name} {model.version}: knows the labels {', '.join(scorer.labels)}, the dataset has "
            f"{', '.join(labels)}; train the model on this dataset"
        )
    order = [scorer.labels.index(label) for label in labels]
    frames = {split: read_split(dataset, split) for split in SCORED_SPLITS}
    scorer.score(frames["validation"]["text"].tolist()[:8])  # the first call pays for lazy set-up; it is not measured
    parts: dict[str, Predictions] = {}
    seconds, rows = 0.0, 0
    for split, frame in frames.items():
        started = time.perf_counter()
        probabilities = scorer.score(frame["text"].tolist())[:, order]
        seconds, rows = seconds + time.perf_counter() - started, rows + len(frame)
        if not np.isfinite(probabilities).all():
            raise DataError(f"{name} {model.version}: probabilities are not finite on {split}; train it again")
        actual = frame["label"].map(labels.index).to_numpy().astype(np.int64)
        parts[split] = Predictions(tuple(labels), actual, probabilities)
    return parts, rows / seconds


def read_predictions(folder: StoredFolder, split: str) -> Predictions:
    table = pq.read_table(folder.file(f"{split}.parquet"))
    labels = tuple(folder.info["labels"])
    flat = table.column("probabilities").combine_chunks().flatten().to_numpy()
    actual = table.column("label").to_numpy().astype(np.int64)
    return Predictions(labels, actual, flat.reshape(len(actual), len(labels)))


def prediction_problems(predictions: StoredFolder, dataset: StoredFolder) -> Problems:
    """Splits whose predictions are not one probability distribution over the dataset's labels per dataset row."""
    problems = []
    for split in SCORED_SPLITS:
        part = read_predictions(predictions, split)
        p = part.probabilities
        if list(part.labels) != dataset.info["labels"]:
            problems.append({"split": split, "problem": f"labels are {', '.join(part.labels)}"})
        elif len(p) != dataset.info["rows"][split]:
            problems.append(
                {"split": split, "problem": f"{len(p)} rows, the dataset has {dataset.info['rows'][split]}"}
            )
        elif bad := int((~np.isfinite(p) | (p < 0)).any(1).sum() + (np.abs(p.sum(1) - 1) > SUM_TOLERANCE).sum()):
            problems.append({"split": split, "problem": f"{bad} rows are not probabilities that sum to one"})
    return problems
