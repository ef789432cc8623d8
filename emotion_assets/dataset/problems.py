"""What is wrong with a stored dataset, or with its tokens: lists of problems, empty when all is well.

The loaders refuse bad input before it is stored; this looks again at what is stored, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.dataset.balance import class_shares, find_duplicates, find_overlaps, find_shifts, labelled_rows
from emotion_assets.dataset.files import SPLITS
from emotion_assets.dataset.splits import read_splits
from emotion_assets.storage.store import StoredFolder

Problems = list[dict[str, Any]]
DRIFT_P_VALUE = 0.01
MOST_CUT = 0.01  # share of a split's rows
STRINGS = (pa.string(), pa.large_string())


def dataset_problems(dataset: StoredFolder, labels: Sequence[str]) -> dict[str, Problems]:
    """Problems by kind, in the order schema, labels, no_empty_text, no_overlap, no_conflicting_labels,
    no_drift_of_shares. Nothing after a broken schema can be looked for, which is then the problem."""
    broken = schema_problems(dataset)
    splits = {} if broken else read_splits(dataset)
    looks: dict[str, Callable[[], Problems]] = {
        "labels": lambda: label_problems(splits, labels),
        "no_empty_text": lambda: empty_texts(splits),
        "no_overlap": lambda: overlap_problems(splits),
        "no_conflicting_labels": lambda: conflict_problems(splits),
        "no_drift_of_shares": lambda: drift_problems(splits, labels),
    }
    unknown: Problems = [{"problem": "cannot be looked for: the schema is broken"}]
    return {"schema": broken, **{name: unknown if broken else look() for name, look in looks.items()}}


def schema_problems(dataset: StoredFolder) -> Problems:
    """Splits that are no Parquet file with rows and just the string columns text and label."""
    problems = []
    for split in SPLITS:
        try:
            table = pq.read_table(dataset.file(f"{split}.parquet"))
        except (OSError, pa.ArrowException) as error:
            problems.append({"split": split, "problem": f"not readable: {str(error).splitlines()[0]}"})
            continue
        types = {field.name: field.type for field in table.schema}
        if set(types) != {"text", "label"} or not all(kind in STRINGS for kind in types.values()):
            columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
            problems.append({"split": split, "problem": f"columns are {columns}, not text string, label string"})
        elif not table.num_rows:
            problems.append({"split": split, "problem": "no rows"})
    return problems


def label_problems(splits: Mapping[str, pd.DataFrame], labels: Sequence[str]) -> Problems:
    """Labels that a split has beside those of the profile, and those of the profile that train has no row of."""
    problems = [
        {"split": split, "label": str(label), "rows": int(n), "problem": "is not in the profile"}
        for split, frame in splits.items()
        for label, n in frame["label"].value_counts(dropna=False).items()
        if label not in labels
    ]
    absent = [label for label in labels if label not in set(splits["train"]["label"])]
    return problems + [{"split": "train", "label": label, "rows": 0, "problem": "has no row"} for label in absent]


def empty_texts(splits: Mapping[str, pd.DataFrame]) -> Problems:
    """Rows (counted from 1) whose text is missing or blank."""
    return [
        {"split": split, "row": row, "label": label}
        for split, frame in splits.items()
        for row, (text, label) in enumerate(zip(frame["text"], frame["label"], strict=True), 1)
        if not isinstance(text, str) or not text.strip()
    ]


def overlap_problems(splits: Mapping[str, pd.DataFrame]) -> Problems:
    """Pairs of splits that share a text, normalised."""
    return [o.model_dump() for o in find_overlaps(labelled_rows(splits)) if o.shared_normalised]


def conflict_problems(splits: Mapping[str, pd.DataFrame]) -> Problems:
    """Splits in which copies of a text, normalised, carry different labels."""
    return [
        {"split": d.split, "texts more than once": d.duplicated_normalised, "with conflicts": d.conflicting_normalised}
        for d in find_duplicates(labelled_rows(splits))
        if d.conflicting_normalised
    ]


def drift_problems(splits: Mapping[str, pd.DataFrame], labels: Sequence[str]) -> Problems:
    """Splits whose label shares differ from train's by more than chance (chi-squared, p below 0.01)."""
    shifts = find_shifts(class_shares(splits, labels))
    return [shift.model_dump() for shift in shifts if shift.p_value < DRIFT_P_VALUE]


def cut_problems(statistics: Mapping[str, Mapping[str, Any]], max_length: int) -> Problems:
    """Splits of which more than ``MOST_CUT`` of the rows were cut at ``max_length`` tokens.

    Args:
        statistics: of each split, as ``write_tokens`` returns them.
    """
    return [
        {
            "split": split,
            "cut rows": part["truncated"],
            "rows": part["rows"],
            "max_length": max_length,
            "95 of 100 texts have at most": part["length_p95"],
            "longest text": part["length_max"],
        }
        for split, part in statistics.items()
        if part["truncated"] > MOST_CUT * part["rows"]
    ]
