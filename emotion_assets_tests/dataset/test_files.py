"""Which file is which split: other names, shards, saved datasets, and what looks like a split and is none."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from emotion_assets.dataset.files import find_splits
from emotion_assets.dataset.splits import from_parts
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import DatasetSettings
from emotion_assets_tests.dataset.test_splits import LABELS, ROWS, load, problem, write_form


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with train and test."""
    for split in ("train", "test"):
        write_form(tmp_path, split, ".csv", ROWS)
    return tmp_path


@pytest.fixture
def saved_part() -> datasets.Dataset:
    """What somebody calls ``save_to_disk`` on: labels are numbers, in an order that is not the profile's."""
    datasets.disable_progress_bars()
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["anger", "joy"]))
    numbers = [["anger", "joy"].index(label) for _, label in ROWS]
    return datasets.Dataset.from_dict({"text": [text for text, _ in ROWS], "label": numbers}, features=features)


def rows_of(folder: Path, split: str) -> list[tuple[str, str]]:
    dataset = load(folder)
    assert dataset.notes == ()
    return list(dataset.splits[split].itertuples(index=False, name=None))


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ["val", "valid", "dev", "eval", "VALIDATION"])
def test_validation_goes_by_its_other_names(folder: Path, name: str, suffix: str) -> None:
    write_form(folder, name, suffix, ROWS[:3])
    assert find_splits(folder)["validation"] == [folder / f"{name}{suffix}"]
    assert rows_of(folder, "validation") == ROWS[:3]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("validation_set.csv", "name it validation.csv, or take it out of the folder"),
        ("tweets-val.jsonl", "name it validation.jsonl, or take it out of the folder"),
        ("dev.ods", "save it as validation.csv, or take it out of the folder"),
        ("valid.csv.gz", "save it as validation.csv, or take it out of the folder"),
        ("validation", "save it as validation.csv, or take it out of the folder"),
        ("train_small.csv", "take it out of the folder, or add its rows to train.csv"),
        ("testing.tsv", "take it out of the folder, or add its rows to test.csv"),
    ],
)
def test_a_file_that_looks_like_a_split_and_is_not_used_is_an_error(folder: Path, name: str, fix: str) -> None:
    (folder / name).write_text("text,label\n", encoding="utf-8")
    assert problem(folder) == f"{folder}: {name} looks like a split and is not used; {fix}"


def test_a_folder_that_looks_like_a_split_is_an_error_too(folder: Path) -> None:
    (folder / "val").mkdir()
    assert problem(folder) == (
        f"{folder}: val looks like a split and is not used; save_to_disk did not write it: put its rows into "
        "validation.csv, or take it out"
    )


@pytest.mark.parametrize("name", ["README.md", "test.py", "train.log", ".train.csv.swp", "train.csv~", "notes.txt"])
def test_other_files_may_lie_beside_the_splits(folder: Path, name: str) -> None:
    (folder / name).write_text("?", encoding="utf-8")
    assert set(find_splits(folder)) == {"train", "test"}


def test_two_files_for_validation_are_refused_whatever_their_names(folder: Path) -> None:
    for name in ("dev", "validation"):
        write_form(folder, name, ".csv", ROWS)
    assert problem(folder) == f"{folder}: holds dev.csv and validation.csv; keep one file for each split"


def write_shards(folder: Path, count: int) -> None:
    for place in range(count):
        write_form(folder, f"val-{place:05}-of-{count:05}", ".parquet", ROWS[place : place + 1])


def test_shards_are_read_one_after_the_other(folder: Path) -> None:
    write_shards(folder, 3)
    assert rows_of(folder, "validation") == ROWS[:3]


def test_a_shard_without_rows_is_no_error_beside_others(folder: Path) -> None:
    write_form(folder, "validation-00000-of-00002", ".jsonl", [])
    write_form(folder, "validation-00001-of-00002", ".jsonl", ROWS[:1])
    assert rows_of(folder, "validation") == ROWS[:1]


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    write_shards(folder, 3)
    (folder / "val-00001-of-00003.parquet").unlink()
    assert problem(folder) == (
        f"{folder}: shard 1 of 3 is missing beside val-00000-of-00003.parquet; add it (they count from 0)"
    )


def test_shards_beside_a_whole_file_are_refused(folder: Path) -> None:
    write_shards(folder, 2)
    write_form(folder, "dev", ".csv", ROWS)
    assert "holds dev.csv and val-00000-of-00002.parquet; keep one file for each split" in problem(folder)


def test_a_folder_that_save_to_disk_wrote_is_read(tmp_path: Path, saved_part: datasets.Dataset) -> None:
    datasets.DatasetDict(train=saved_part, test=saved_part, val=saved_part).save_to_disk(tmp_path)
    for split in ("train", "validation", "test"):
        assert rows_of(tmp_path, split) == ROWS


def test_splits_saved_one_by_one_in_shards_and_another_format_are_read(
    folder: Path, saved_part: datasets.Dataset
) -> None:
    saved_part.with_format("numpy").save_to_disk(folder / "valid", num_shards=2)
    assert rows_of(folder, "validation") == ROWS


def test_a_saved_dataset_without_splits_or_damaged_is_named(tmp_path: Path, saved_part: datasets.Dataset) -> None:
    saved_part.save_to_disk(tmp_path / "one")
    assert "holds one dataset without splits; divide it" in problem(tmp_path / "one")
    datasets.DatasetDict(train=saved_part, test=saved_part).save_to_disk(tmp_path / "two")
    (tmp_path / "two" / "train" / "data-00000-of-00001.arrow").write_bytes(b"no arrow")
    message = problem(tmp_path / "two")
    assert message.startswith(f"{tmp_path / 'two' / 'train'}: cannot be read as save_to_disk writes it (")
    assert message.endswith("; save it again")


def test_splits_of_a_loaded_dataset_go_by_the_same_names(saved_part: datasets.Dataset) -> None:
    parts = datasets.DatasetDict(train=saved_part, test=saved_part, dev=saved_part.select([0]), extra=saved_part)
    dataset = from_parts(parts, DatasetSettings(source="somebody/moods"), LABELS, 1)
    assert list(dataset.splits["validation"].itertuples(index=False, name=None)) == ROWS[:1]
    assert dataset.notes == ("splits that are not used: extra",)
    del parts["test"]
    with pytest.raises(DataError, match="dataset somebody/moods: has no test split"):
        from_parts(parts, DatasetSettings(source="somebody/moods"), LABELS, 1)
