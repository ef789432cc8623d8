"""Read labelled text, in every form a user may bring it, into three checked splits.

Belongs here: file forms, the Hub, the carved validation split, and the errors that name file, row and fix. Does not
belong here: statistics (``balance``) and tokens (``tokens``).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import SAMPLE_DIR, DatasetSettings
from emotion_assets.storage.store import StoredFolder

SPLITS = ("train", "validation", "test")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
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
    known = {text for frame in dataset.splits.values() for text in frame["text"]}
    new = [(text.strip(), label) for text, label in rows if text.strip() not in known]
    train = pd.concat([dataset.splits["train"], pd.DataFrame(new, columns=["text", "label"])], ignore_index=True)
    note = f"{len(new)} reviewed rows added to train ({len(rows) - len(new)} were there already)"
    return Dataset({**dataset.splits, "train": train}, dataset.name, (*dataset.notes, note))


def find_source(settings: DatasetSettings) -> str:
    """Where the dataset would be read from, without reading it.

    Raises:
        DataError: it cannot be had; the message says what is missing.
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
    for split in SPLITS:
        files = [folder / f"{split}{suffix}" for suffix in SUFFIXES if (folder / f"{split}{suffix}").is_file()]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise DataError(f"{folder}: holds {names}; keep one file for each split")
        if files:
            frames[split] = _read_file(files[0], labels)
        elif split != "validation":
            forms = ", ".join(split + suffix for suffix in SUFFIXES)
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
    readers = {
        ".jsonl": _jsonl_rows,
        ".json": _json_rows,
        ".csv": _csv_rows,
        ".parquet": _parquet_rows,
        ".txt": _txt_rows,
    }
    return _checked(readers[path.suffix](path), str(path), labels)


Row = tuple[int, Any, Any]


def _checked(rows: Iterable[Row], where: str, labels: tuple[str, ...]) -> pd.DataFrame:
    texts: list[str] = []
    names: list[str] = []
    known = set(labels)
    for number, text, label in rows:
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}, row {number}: the text is empty or not text; fill it in or remove the row")
        name = label.strip() if isinstance(label, str) else label
        if name not in known:
            raise DataError(
                f"{where}, row {number}: unknown label {label!r}; use one of {', '.join(labels)}, or name it in the "
                "profile's labels"
            )
        texts.append(text.strip())
        names.append(name)
    if not texts:
        raise DataError(f"{where}: holds no rows; give it at least one row for each label")
    return pd.DataFrame({"text": texts, "label": names})


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, row {row}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None


def _fields(record: Any, path: Path, number: int) -> Row:
    """Text and label of a record, whether ``text``/``label`` or instruction form (``input``/``output``)."""
    if not isinstance(record, dict):
        raise DataError(f"{path}, row {number}: not an object; write {{'text': ..., 'label': ...}}")
    for text, label in (("text", "label"), ("input", "output")):
        if text in record and label in record:
            return number, record[text], record[label]
    missing = "label" if "text" in record else "output" if "input" in record else "text"
    raise DataError(
        f"{path}, row {number}: no column {missing!r} (found {', '.join(map(str, record)) or 'none'}); "
        "name the columns text and label, or instruction, input and output"
    )


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: not JSON ({error.msg}); put one object on each line") from None
        yield _fields(record, path, number)


def _json_rows(path: Path) -> Iterator[Row]:
    text = _text_of(path)
    try:
        records = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); give a list of objects") from None
    if not isinstance(records, list):
        raise DataError(f"{path}: holds no list; give a list of objects")
    for number, record in enumerate(records, 1):
        yield _fields(record, path, number)


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.reader(_text_of(path).splitlines(keepends=True), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        names = [name.strip() for name in header]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"{path}: the column {repeated!r} is there twice; keep one")
        _fields(dict.fromkeys(names, ""), path, 1)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(names):
                raise DataError(
                    f"{path}, row {reader.line_num}: {len(fields)} fields where the header has {len(names)}; quote "
                    "texts that hold a comma"
                )
            yield _fields(dict(zip(names, fields, strict=True)), path, reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, row {reader.line_num}: not CSV ({error}); fix the quotes") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a Parquet file ({reason}); write it again") from None
    _fields(dict.fromkeys(table.column_names, ""), path, 1)
    for number, record in enumerate(table.to_pylist(), 1):
        yield _fields(record, path, number)


def _txt_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        text, separator, label = line.rstrip("\r").rpartition(";")
        if not separator:
            raise DataError(f"{path}, row {number}: no ';' between text and label; write text;label")
        yield number, text, label
