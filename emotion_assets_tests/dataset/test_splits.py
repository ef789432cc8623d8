"""Every form of labelled text is read, every defect is one line with file, row and fix."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from emotion_assets.dataset.splits import (
    OFFICIAL_TEST_FINGERPRINT,
    add_training_rows,
    load_dataset,
    read_splits,
    split_fingerprint,
    write_splits,
)
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import SAMPLE_DIR, DatasetSettings
from emotion_assets.storage.store import Store
from emotion_assets_tests.conftest import PROJECT, REAL_DATASET, needs_real_dataset

LABELS = ("joy", "anger")
ROWS = [
    ("so glad it came", "joy"),
    ("furious, again", "anger"),
    ("lovely day; really", "joy"),
    ("never again", "anger"),
]


def load(folder: Path, labels: tuple[str, ...] = LABELS):
    return load_dataset(DatasetSettings(source=str(folder)), labels, seed=3)


def problem(folder: Path, labels: tuple[str, ...] = LABELS) -> str:
    with pytest.raises(DataError) as raised:
        load(folder, labels)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def write_form(folder: Path, split: str, suffix: str, rows: list[tuple[str, str]]) -> None:
    path = folder / f"{split}{suffix}"
    records = [{"text": text, "label": label} for text, label in rows]
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    elif suffix == ".json":
        instruction = [{"instruction": "Classify.", "input": text, "output": label} for text, label in rows]
        path.write_text(json.dumps(instruction), encoding="utf-8")
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["label", "text"])
            writer.writeheader()
            writer.writerows(records)
    elif suffix == ".parquet":
        pd.DataFrame(records).to_parquet(path)
    else:
        path.write_text("".join(f"{text};{label}\n" for text, label in rows), encoding="utf-8")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".txt"])
def test_every_form_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "validation", "test"):
        write_form(tmp_path, split, suffix, ROWS)
    dataset = load(tmp_path)
    for frame in dataset.splits.values():
        assert list(zip(frame["text"], frame["label"], strict=True)) == ROWS
    assert dataset.notes == ()


def test_a_missing_validation_file_is_carved_from_train_stratified_seeded_and_told(tmp_path: Path) -> None:
    rows = [(f"glad {i}", "joy") for i in range(30)] + [(f"cross {i}", "anger") for i in range(10)]
    write_form(tmp_path, "train", ".jsonl", rows)
    write_form(tmp_path, "test", ".jsonl", ROWS)
    once, again = load(tmp_path), load(tmp_path)
    validation = once.splits["validation"]
    assert validation["label"].value_counts().to_dict() == {"joy": 3, "anger": 1}
    assert set(validation["text"]).isdisjoint(once.splits["train"]["text"])
    assert len(validation) + len(once.splits["train"]) == 40
    assert validation.equals(again.splits["validation"])
    assert once.notes == ("4 validation rows carved from train (stratified, seed 3)",)


def test_a_missing_split_is_named_with_the_files_that_would_do(tmp_path: Path) -> None:
    write_form(tmp_path, "train", ".jsonl", ROWS)
    assert problem(tmp_path) == (
        f"{tmp_path}: the test split is missing; add one of test.csv, test.tsv, test.json, test.jsonl, "
        "test.ndjson, test.txt, test.parquet, test.xlsx"
    )


def test_an_empty_split_is_named(write_dataset: Callable[..., Path]) -> None:
    folder = write_dataset({"train": ROWS, "validation": ROWS, "test": []})
    assert problem(folder) == f"{folder / 'test.jsonl'}: holds no rows; give it at least one row for each label"


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".csv"):
        write_form(tmp_path, "train", suffix, ROWS)
    assert "holds train.csv and train.jsonl; keep one file for each split" in problem(tmp_path)


def test_an_unknown_label_is_named_with_its_row(write_dataset: Callable[..., Path]) -> None:
    folder = write_dataset({"train": [*ROWS, ("meh", "boredom")], "validation": ROWS, "test": ROWS})
    assert problem(folder) == (
        f"{folder / 'train.jsonl'}, row 5: unknown label 'boredom'; use one of joy, anger, or name it in the "
        "profile's labels"
    )


def test_a_label_without_a_training_row_is_named(write_dataset: Callable[..., Path]) -> None:
    folder = write_dataset({"train": ROWS, "validation": ROWS, "test": ROWS})
    assert "train: no row has the label 'fear'; add rows with it" in problem(folder, ("joy", "anger", "fear"))


def test_an_empty_text_is_named_with_its_row(write_dataset: Callable[..., Path]) -> None:
    folder = write_dataset({"train": [("  ", "joy"), *ROWS], "validation": ROWS, "test": ROWS})
    assert "row 1: the text is empty or not text; fill it in or remove the row" in problem(folder)


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        (
            ".csv",
            "text,mood\nhello,joy\n",
            "no column is named 'label' among 'text', 'mood'; name it so",
        ),
        (
            ".csv",
            "text,label\na,b,joy\n",
            "row 2: more or fewer fields than the header has (3 fields, the header has 2); write one text ",
        ),
        (".csv", 'text,label\n"open,joy\n', "a quote opens and is not closed"),
        (".csv", "text,text,label\na,b,joy\n", "two columns are named 'text'; rename one"),
        (".jsonl", '{"text": "a", "label": "joy"}\n{"text": \n', "row 2: the line is not JSON"),
        (".jsonl", '["a", "joy"]\n', "row 1: the line is JSON but not an object"),
        (".json", '"text"', "neither a list nor an object begins here"),
        (".txt", "no separator here\n", "(no ';' between text and label); write one text and one label"),
        (".parquet", "not parquet at all", "does not end as a Parquet file"),
    ],
)
def test_a_malformed_file_is_named_with_the_place(tmp_path: Path, suffix: str, content: str, said: str) -> None:
    (tmp_path / f"train{suffix}").write_text(content, encoding="utf-8")
    write_form(tmp_path, "test", ".jsonl", ROWS)
    message = problem(tmp_path)
    assert message.startswith(str(tmp_path / f"train{suffix}"))
    assert said in message


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt"])
def test_a_file_that_is_not_utf8_is_named_with_the_row(tmp_path: Path, suffix: str) -> None:
    write_form(tmp_path, "train", suffix, ROWS)
    path = tmp_path / f"train{suffix}"
    path.write_bytes(path.read_bytes().replace(b"again", "schön".encode("latin-1")))
    write_form(tmp_path, "test", ".jsonl", ROWS)
    message = problem(tmp_path)
    assert message.startswith(f"{path}")
    assert ", row " in message or "line " in message
    assert message.endswith("save the file as UTF-8")


def test_reviewed_rows_join_training_unless_a_split_has_their_text_already(write_dataset: Callable[..., Path]) -> None:
    dataset = load(write_dataset({"train": ROWS[:2], "validation": ROWS[2:3], "test": ROWS[3:]}))
    joined = add_training_rows(dataset, [("quite new", "joy"), (ROWS[3][0], "joy"), (ROWS[0][0], "anger")])
    assert joined.splits["train"].to_numpy().tolist() == [*map(list, ROWS[:2]), ["quite new", "joy"]]
    assert joined.splits["test"].equals(dataset.splits["test"])
    assert joined.notes == ("1 reviewed rows added to train (2 were there already)",)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no such folder; give a folder that holds train and test files" in problem(tmp_path / "nowhere")


def test_a_hub_dataset_without_the_hub_says_what_is_missing_and_how_to_supply_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError) as raised:
        load_dataset(DatasetSettings(source="nobody/has-this-dataset"), LABELS, 1)
    assert "not in the local cache" in str(raised.value)
    assert "set EMOTION_DATASET to sample or to a folder" in str(raised.value)


def test_the_fingerprint_is_that_of_the_rows_in_any_order() -> None:
    frame = pd.DataFrame({"text": [" b ", "a"], "label": ["joy", "anger"]})
    assert split_fingerprint(frame) == split_fingerprint(frame[::-1])
    # printf 'anger\ta\njoy\tb\n' | sha256sum
    assert split_fingerprint(frame) == "c4212c88ee6290d2a3c5f0532c142841d77a9d5122feda2caf70324e6e1a2248"


def test_written_splits_are_read_back_as_they_were(tmp_path: Path, write_dataset: Callable[..., Path]) -> None:
    dataset = load(write_dataset({"train": ROWS, "validation": ROWS[:2], "test": ROWS[2:]}))
    with Store(tmp_path / "store").writing("datasets") as draft:
        write_splits(dataset, draft.path)
        folder = draft.finish({})
    for split, frame in read_splits(folder).items():
        assert frame.equals(dataset.splits[split])


def test_the_sample_is_large_imbalanced_and_without_overlap() -> None:
    dataset = load_dataset(DatasetSettings(), ("joy", "sadness", "anger", "fear", "love", "surprise"), 1)
    texts = [text.casefold() for frame in dataset.splits.values() for text in frame["text"]]
    assert len(texts) >= 1500
    assert len(set(texts)) == len(texts)
    counts = dataset.splits["train"]["label"].value_counts()
    assert counts.max() > 4 * counts.min()


def test_no_two_words_open_more_than_three_percent_of_the_sample() -> None:
    rows = [json.loads(line) for s in ("train", "validation", "test") for line in (SAMPLE_DIR / f"{s}.jsonl").open()]
    openings = pd.Series([" ".join(row["text"].lower().split()[:2]) for row in rows]).value_counts(normalize=True)
    assert openings.max() <= 0.03


@needs_real_dataset
def test_the_real_dataset_is_read_and_is_not_the_official_test_split() -> None:
    settings = DatasetSettings(source=str(REAL_DATASET))
    dataset = load_dataset(settings, ("joy", "sadness", "anger", "fear", "love", "surprise"), 1)
    assert {split: len(frame) for split, frame in dataset.splits.items()} == {
        "train": 16000,
        "validation": 1000,
        "test": 1000,
    }
    assert split_fingerprint(dataset.splits["test"]) != OFFICIAL_TEST_FINGERPRINT


@needs_real_dataset
def test_the_instruction_format_of_the_real_dataset_is_read_as_it_is(tmp_path: Path) -> None:
    source = (PROJECT.parent / "shared" / "data" / "emotion_instruction_sample.json").read_text(encoding="utf-8")
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(source, encoding="utf-8")
    labels = tuple(sorted({record["output"] for record in json.loads(source)}))
    assert len(load(tmp_path, labels).splits["test"]) == 200
