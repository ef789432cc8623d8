"""Read labelled text, in every form a user may bring it, into three checked splits.

Belongs here: file forms, the Hub, the carved validation split, and the errors that name file, row and fix. Does not
belong here: statistics (``balance``) and tokens (``tokens``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.forms.form import Columns, Record
from emotion_assets.forms.problems import Quarantine, Reason, Rejected
from emotion_assets.forms.registry import all_forms, form_of_suffix
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import SAMPLE_DIR, DatasetSettings, ReadingSettings
from emotion_assets.storage.store import StoredFolder

SPLITS = ("train", "validation", "test")
LABELLED_COLUMNS = Columns(required=(("text", "label"), ("input", "output")), others=False)
FIXES = {
    Reason.BAD_ENCODING: "save the file as UTF-8",
    Reason.INVALID_JSON: "put one object on each line",
    Reason.NOT_AN_OBJECT: "write {'text': ..., 'label': ...}",
    Reason.WRONG_COLUMN_COUNT: "write one text and one label in each row, and quote texts that hold the separator",
    Reason.BAD_QUOTE: "fix the quotes",
    Reason.UNCLOSED_QUOTE: "fix the quotes",
}
READING = ReadingSettings(max_field_bytes=1 << 24, max_row_bytes=1 << 25)
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
    folder = _folder_of(settings)
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
    folder = _folder_of(settings)
    if folder is not None:
        return str(folder)
    _require_hub(settings)
    return f"{settings.source} on the Hub, revision {settings.revision or 'newest'}"


def _folder_of(settings: DatasetSettings) -> Path | None:
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
    frames: dict[str, pd.DataFrame] = {}
    suffixes = [suffix for form in all_forms() for suffix in form.suffixes]
    for split in SPLITS:
        files = [folder / f"{split}{suffix}" for suffix in suffixes if (folder / f"{split}{suffix}").is_file()]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise DataError(f"{folder}: holds {names}; keep one file for each split")
        if files:
            frames[split] = _read_file(files[0], labels)
        elif split != "validation":
            forms = ", ".join(split + suffix for suffix in suffixes)
            raise DataError(f"{folder}: the {split} split is missing; add one of {forms}")
    notes: tuple[str, ...] = ()
    if "validation" not in frames:
        frames["train"], frames["validation"] = _carve(frames["train"], settings.validation_share, seed, folder)
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
    from datasets import ClassLabel
    from datasets import load_dataset as load_from_hub

    name = settings.source
    _require_hub(settings)
    loaded = load_from_hub(name, revision=settings.revision)
    frames = {}
    for split in SPLITS:
        if split not in loaded:
            if split == "validation":
                continue
            raise DataError(f"dataset {name}: has no {split} split; give a dataset that has one")
        part = loaded[split]
        if missing := {"text", "label"} - set(part.column_names):
            raise DataError(f"dataset {name}, {split}: no column {missing.pop()!r}; it has {part.column_names}")
        feature = part.features["label"]
        values = [feature.int2str(v) for v in part["label"]] if isinstance(feature, ClassLabel) else part["label"]
        rows = ((i, text, label) for i, (text, label) in enumerate(zip(part["text"], values, strict=True), 1))
        frames[split] = _checked(rows, f"{name}, {split}", labels)
    notes: tuple[str, ...] = ()
    if "validation" not in frames:
        frames["train"], frames["validation"] = _carve(frames["train"], settings.validation_share, seed, Path(name))
        notes = (f"{len(frames['validation'])} validation rows carved from train (stratified, seed {seed})",)
    return Dataset({split: frames[split] for split in SPLITS}, name, notes)


def _read_file(path: Path, labels: tuple[str, ...]) -> pd.DataFrame:
    form = form_of_suffix(path.suffix)
    assert form is not None
    try:
        with path.open("rb") as stream:
            return _checked(_labelled_rows(form.records(stream, READING, LABELLED_COLUMNS), path), str(path), labels)
    except Quarantine as quarantine:
        if quarantine.reason_code is Reason.EMPTY_FILE:
            raise DataError(f"{path}: holds no rows; give it at least one row for each label") from None
        raise DataError(f"{path}: {quarantine.detail}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give this user access to it") from None


Row = tuple[int, Any, Any]


def _checked(rows: Iterable[Row], where: str, labels: tuple[str, ...]) -> pd.DataFrame:
    texts: list[str] = []
    names: list[str] = []
    allowed = set(labels)
    for number, text, label in rows:
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}, row {number}: the text is empty or not text; fill it in or remove the row")
        name = label.strip() if isinstance(label, str) else label
        if name not in allowed:
            raise DataError(
                f"{where}, row {number}: unknown label {label!r}; use one of {', '.join(labels)}, or name it in the "
                "profile's labels"
            )
        texts.append(text.strip())
        names.append(name)
    if not texts:
        raise DataError(f"{where}: holds no rows; give it at least one row for each label")
    return pd.DataFrame({"text": texts, "label": names})


def _labelled_rows(records: Iterator[Record | Rejected], path: Path) -> Iterator[Row]:
    """Number, text and label of each record, in ``text``/``label`` or in instruction form (``input``/``output``).

    Raises:
        DataError: a row cannot be read, or lacks one of its columns.
    """
    for record in records:
        if isinstance(record, Rejected):
            reason = record.reason_code
            fix = FIXES.get(reason, "mend the row or remove it")
            raise DataError(f"{path}, row {record.row_number}: {reason.explain} ({record.detail}); {fix}")
        names = tuple(record.values)
        columns = LABELLED_COLUMNS.present_in(names)
        if columns is None:
            raise DataError(
                f"{path}, row {record.number}: no column {LABELLED_COLUMNS.missing_from(names)!r} (found "
                f"{', '.join(names) or 'none'}); name the columns text and label, or instruction, input and output"
            )
        text, label = columns
        yield record.number, record.values[text], record.values[label]
