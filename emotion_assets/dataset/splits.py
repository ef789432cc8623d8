"""Read labelled text, in every form a user may bring it, into three checked splits.

Belongs here: folders, the Hub, the carved validation split, how splits are stored. Does not belong here: which file is
which split (``files``), what is in one (``rows``), statistics (``balance``) and tokens (``tokens``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.dataset.files import SPLITS, find_splits, pick_splits
from emotion_assets.dataset.rows import RowReader
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import SAMPLE_DIR, DatasetSettings
from emotion_assets.storage.store import StoredFolder

DATASET_IDENTITY = ("name", "labels")
"""What of ``describe_dataset`` decides how the rows are used: the same rows under another name are another dataset."""

OFFICIAL_TEST_FINGERPRINT = "9ff8b50f49219470679b85a5beee4a7b12d4f4a09a305407a8b9e8ec8d817833"


@dataclass(frozen=True)
class Dataset:
    """Three frames with the columns ``text`` and ``label``, and remarks on how they came to be."""

    splits: dict[str, pd.DataFrame]
    name: str
    notes: tuple[str, ...] = ()


def load_dataset(settings: DatasetSettings, labels: tuple[str, ...], seed: int) -> Dataset:
    """Read the dataset that the settings name and check every row of it.

    Raises:
        DataError: a missing or empty split, an unreadable file, a missing column, an empty text, an unknown label, a
            label without any training row, or a Hub that cannot be reached.
    """
    folder = folder_of(settings)
    if folder is None:
        dataset = _from_hub(settings, labels, seed)
    else:
        name = settings.source if settings.source == "sample" else folder.name
        dataset = _from_folder(folder, name, settings, labels, seed)
    for label in labels:
        if not (dataset.splits["train"]["label"] == label).any():
            raise DataError(
                f"{dataset.name}, train: no row has the label {label!r}; add rows with it, or take it out of the "
                "profile's labels"
            )
    return dataset


def add_training_rows(dataset: Dataset, rows: Sequence[tuple[str, str]]) -> Dataset:
    """The dataset with (text, label) pairs added to train; a text that any split has already is left out."""
    present = {text for frame in dataset.splits.values() for text in frame["text"]}
    new = [(text.strip(), label) for text, label in rows if text.strip() not in present]
    train = pd.concat([dataset.splits["train"], pd.DataFrame(new, columns=["text", "label"])], ignore_index=True)
    note = f"{len(new)} reviewed rows added to train ({len(rows) - len(new)} were there already)"
    return Dataset({**dataset.splits, "train": train}, dataset.name, (*dataset.notes, note))


def find_source(settings: DatasetSettings) -> str:
    """Where the dataset would be read from, without reading it.

    Raises:
        DataError: it is not available; the message says what is missing.
    """
    folder = folder_of(settings)
    if folder is not None:
        return str(folder)
    _require_hub(settings)
    return f"{settings.source} on the Hub, revision {settings.revision or 'newest'}"


def folder_of(settings: DatasetSettings) -> Path | None:
    """The folder that the source names, or None for a dataset of the Hub."""
    if settings.source == "sample":
        return SAMPLE_DIR
    folder = Path(settings.source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if settings.source.startswith((".", "/", "~")) or settings.source.count("/") > 1:
        raise DataError(f"dataset {settings.source}: no such folder; give a folder that holds train and test files")
    return None


def _require_hub(settings: DatasetSettings) -> None:
    from emotion_assets.storage.hub import hub_problem

    if problem := hub_problem(settings.source, settings.revision, repo_type="dataset"):
        raise DataError(
            f"dataset {settings.source}: {problem}; or set EMOTION_DATASET to sample or to a folder with split files"
        )


def split_fingerprint(frame: pd.DataFrame) -> str:
    """sha256 over the sorted lines ``label<TAB>stripped text<LF>`` in UTF-8: equal rows in any order are equal."""
    lines = sorted(f"{label}\t{text.strip()}\n" for text, label in zip(frame["text"], frame["label"], strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def write_splits(dataset: Dataset, folder: Path) -> None:
    for split, frame in dataset.splits.items():
        table = pa.table({"text": pa.array(frame["text"], pa.string()), "label": pa.array(frame["label"], pa.string())})
        pq.write_table(table, folder / f"{split}.parquet")


def read_split(folder: StoredFolder, split: str) -> pd.DataFrame:
    """One stored split as a frame with the columns ``text`` and ``label``."""
    return pd.DataFrame(pq.read_table(folder.file(f"{split}.parquet")).to_pydict())


def read_splits(folder: StoredFolder) -> dict[str, pd.DataFrame]:
    """All stored splits, by name."""
    return {split: read_split(folder, split) for split in SPLITS}


def describe_dataset(dataset: Dataset, labels: tuple[str, ...]) -> dict[str, Any]:
    """What is written beside the stored splits: name, labels, rows and fingerprint of each split, and the notes."""
    return {
        "name": dataset.name,
        "labels": list(labels),
        "rows": {split: len(frame) for split, frame in dataset.splits.items()},
        "fingerprints": {split: split_fingerprint(frame) for split, frame in dataset.splits.items()},
        "notes": list(dataset.notes),
    }


def _from_folder(folder: Path, name: str, settings: DatasetSettings, labels: tuple[str, ...], seed: int) -> Dataset:
    reader = RowReader.of(settings, labels)
    frames = {split: reader.read_paths(paths) for split, paths in find_splits(folder).items()}
    return _with_validation(frames, name, settings, seed, folder)


def _with_validation(
    frames: dict[str, pd.DataFrame], name: str, settings: DatasetSettings, seed: int, where: Path
) -> Dataset:
    notes: tuple[str, ...] = ()
    if "validation" not in frames:
        frames["train"], frames["validation"] = _carve(frames["train"], settings.validation_share, seed, where)
        notes = (f"{len(frames['validation'])} validation rows carved from train (stratified, seed {seed})",)
    return Dataset({split: frames[split] for split in SPLITS}, name, notes)


def _carve(train: pd.DataFrame, share: float, seed: int, where: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    from sklearn.model_selection import train_test_split

    try:
        kept, carved = train_test_split(train, test_size=share, random_state=seed, stratify=train["label"])
    except ValueError as error:
        raise DataError(
            f"{where}: no validation file, and none can be carved from train ({error}); add validation rows"
        ) from None
    return kept.reset_index(drop=True), carved.reset_index(drop=True)


def _from_hub(settings: DatasetSettings, labels: tuple[str, ...], seed: int) -> Dataset:
    from datasets import load_dataset as load_from_hub

    _require_hub(settings)
    return from_parts(load_from_hub(settings.source, revision=settings.revision), settings, labels, seed)


def from_parts(parts: Mapping[str, Any], settings: DatasetSettings, labels: tuple[str, ...], seed: int) -> Dataset:
    """The dataset in a ``DatasetDict`` of the library ``datasets``.

    Raises:
        DataError: as ``load_dataset``.
    """
    name = settings.source
    reader = RowReader.of(settings, labels)
    picked = pick_splits(parts)
    for split in ("train", "test"):
        if split not in picked:
            raise DataError(f"dataset {name}: has no {split} split; give a dataset that has one")
    frames = {split: reader.read_part(parts[picked[split]], f"{name}, {split}") for split in SPLITS if split in picked}
    dataset = _with_validation(frames, name, settings, seed, Path(name))
    unused = [part for part in parts if part not in picked.values()]
    notes = (f"splits that are not used: {', '.join(unused)}",) if unused else ()
    return Dataset(dataset.splits, name, dataset.notes + notes)
