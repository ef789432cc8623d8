"""Columns under other names, labels that are numbers, lists or objects, and what ends a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.dataset.labels import LabelNames
from emotion_assets.dataset.splits import load_dataset
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import DatasetSettings
from emotion_assets_tests.conftest import CASES, needs_cases
from emotion_assets_tests.dataset.test_splits import LABELS, ROWS

NUMBERS = {"anger": 0, "joy": 1}
NUMBERED = pd.DataFrame([(text, NUMBERS[label]) for text, label in ROWS], columns=["text", "label"])
UNNAMED = "labels are numbers; give their names in that order under dataset.label_names (0 first)"
EMOTIONS = ("joy", "sadness", "anger", "fear", "love", "surprise")
HUB_ORDER = ("sadness", "joy", "love", "anger", "fear", "surprise")


def train_of(folder: Path, labels: tuple[str, ...] = LABELS, **settings: Any) -> list[tuple[str, str]]:
    """The rows of the training file, which serves as the other splits too."""
    for path in folder.glob("train*"):
        for split in ("validation", "test"):
            shutil.copy(path, folder / path.name.replace("train", split))
    dataset = load_dataset(DatasetSettings(source=str(folder), **settings), labels, 1)
    return list(dataset.splits["test"].itertuples(index=False, name=None))


def write(folder: Path, suffix: str, frame: pd.DataFrame) -> Path:
    path = folder / f"train{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


def problem(folder: Path, labels: tuple[str, ...] = LABELS, **settings: Any) -> str:
    with pytest.raises(DataError) as raised:
        train_of(folder, labels, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def labelled_list(tmp_path: Path) -> Path:
    """Numbers in lists of one, named in the Parquet schema as ``datasets`` does."""
    names = datasets.List(datasets.ClassLabel(names=list(NUMBERS)))
    features = datasets.Features(text=datasets.Value("string"), label=names)
    columns = {"text": list(NUMBERED["text"]), "label": [[n] for n in NUMBERED["label"]]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
    return tmp_path


def test_numbers_are_named_by_the_parquet_file_itself(tmp_path: Path) -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=list(NUMBERS)))
    part = datasets.Dataset.from_dict(NUMBERED.to_dict("list"), features=features)
    part.to_parquet(tmp_path / "train.parquet")
    assert train_of(tmp_path) == ROWS
    assert train_of(tmp_path, label_names=("anger", "joy")) == ROWS
    assert problem(tmp_path, label_names=("joy", "anger")).endswith(
        "row 1: the file names the label 1 'joy', dataset.label_names 'anger'; take label_names out or correct it"
    )


def test_a_list_of_one_is_taken_from_parquet_too(labelled_list: Path) -> None:
    assert train_of(labelled_list) == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_numbers_are_named_by_the_column_label_text(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix, NUMBERED.assign(label_text=[label for _, label in ROWS]))
    assert train_of(tmp_path) == ROWS
    assert "the file names the label 1 'joy', dataset.label_names 'anger'" in problem(
        tmp_path, label_names=("joy", "anger")
    )


def test_label_text_alone_is_the_label(tmp_path: Path) -> None:
    pd.DataFrame(ROWS, columns=["text", "label_text"]).to_csv(tmp_path / "train.csv", index=False)
    assert train_of(tmp_path) == ROWS


@pytest.mark.parametrize("kind", ["int64", "float64"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_numbers_are_named_by_the_setting_and_never_by_the_order_of_the_profile(
    tmp_path: Path, suffix: str, kind: str
) -> None:
    path = write(tmp_path, suffix, NUMBERED.astype({"label": kind}))
    assert train_of(tmp_path, label_names=("anger", "joy")) == ROWS
    first = 2 if suffix == ".csv" else 1
    assert problem(tmp_path) == f"{path}, row {first}: {UNNAMED}"
    assert "the label is the number 1, which has no name (names there are: 1, the first for 0)" in problem(
        tmp_path, label_names=("joy",)
    )
    as_text = [(text, str(NUMBERS[label])) for text, label in ROWS]
    assert train_of(tmp_path, ("0", "1")) == as_text
    assert "unknown label 1" in problem(tmp_path, ("0", "2")).replace("'1'", "1").replace("1.0", "1").replace(
        "'1'", "1"
    )


@pytest.mark.parametrize(
    ("names", "value", "spelt_out", "label"),
    [
        (LabelNames(("1", "2"), declared=("1", "2")), 0, None, "1"),  # stars, counted from 0 in the file
        (LabelNames(("0", "1"), declared=("neg", "pos")), 1, None, "1"),  # the profile's labels are the numbers
        (LabelNames(("neg", "pos"), declared=("neg", "pos")), 1, None, "pos"),
        (LabelNames(("neg", "pos")), "1", " pos ", "pos"),
        (LabelNames(("neg", "pos")), " pos", "neg", "pos"),
        (LabelNames(("01", "02")), "01", None, "01"),
        (LabelNames(("-1", "1")), -1, None, "-1"),
    ],
)
def test_what_a_value_means(names: LabelNames, value: Any, spelt_out: str | None, label: str) -> None:
    assert names.label_of(value, spelt_out) == label


@pytest.mark.parametrize("number", [4, -1, -4])
def test_a_number_beyond_the_names_is_never_taken_for_another(number: int) -> None:
    stars = ("1", "2", "3", "4")
    with pytest.raises(ValueError, match=f"the label is the number {number}, which has no name"):
        LabelNames((*stars, "-1"), declared=stars).label_of(number)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["joy", "anger"], "the label is a list; this project takes one label a row (here: 'joy', 'anger'); keep one"),
        ([], "the label is a list; this project takes one label a row (here: none)"),
        ([["joy"]], "the label is a list in a list; this project takes one label a row"),
        ({"joy": 1}, "the label is an object; this project takes one label a row: write its name"),
        (None, "unknown label None; use one of joy, anger"),
        (True, "unknown label True; use one of joy, anger"),
        (float("nan"), "NaN or an infinite number (NaN is not JSON; leave the key out or use null)"),
        (0.5, "unknown label 0.5; use one of joy, anger"),
    ],
)
def test_what_is_no_label_is_one_line(tmp_path: Path, value: Any, said: str) -> None:
    rows = [*({"text": text, "label": label} for text, label in ROWS), {"text": "x", "label": value}]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert problem(tmp_path).startswith(f"{path}, row 5: {said}")


@pytest.mark.parametrize(
    ("label", "said"), [(["joy", "anger"], "the label is a list;"), ({"is": "joy"}, "the label is an object;")]
)
def test_a_nested_label_in_parquet_is_one_line(tmp_path: Path, label: Any, said: str) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [label]}), tmp_path / "train.parquet")
    assert f"row 1: {said} this project takes one label a row" in problem(tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_list_of_one_is_taken(tmp_path: Path, suffix: str) -> None:
    lines = [json.dumps({"text": text, "label": [label]}) for text, label in ROWS]
    (tmp_path / f"train{suffix}").write_text("\n".join(lines), encoding="utf-8")
    assert train_of(tmp_path) == ROWS


def test_columns_are_found_but_for_case_and_blanks(tmp_path: Path) -> None:
    lines = [f"{label}\t{text}" for text, label in ROWS]
    (tmp_path / "train.tsv").write_text("\n".join([" LABEL\tText ", *lines]), encoding="utf-8")
    assert train_of(tmp_path) == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_are_those_of_the_setting(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame(ROWS, columns=["Tweet", "mood"]).assign(text="not this", label="nor this")
    write(tmp_path, suffix, frame)
    assert train_of(tmp_path, columns={"text": "tweet", "label": "mood"}) == ROWS
    message = problem(tmp_path, columns={"text": "tweet", "label": "feeling"})
    assert "no column is named 'feeling' among 'Tweet', 'mood', 'text', 'label'" in message
    assert message.endswith("or say under dataset.columns which ones hold text and label")


def test_json_lines_named_json_are_read_and_a_broken_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ".json", pd.DataFrame(ROWS, columns=["text", "label"]))
    assert train_of(tmp_path) == ROWS
    path.write_text(path.read_text(encoding="utf-8") + '{"text": \n', encoding="utf-8")
    assert f"{path}, row 5: the line is not JSON" in problem(tmp_path)


@pytest.mark.parametrize("separator", [",", "\t"])
def test_only_line_feed_and_carriage_return_end_a_line(tmp_path: Path, separator: str) -> None:
    others = "a\u2028b\u2029c\u0085d\ve\ff\x1cg\x1dh\x1ei"
    rows = [(others, "joy"), ("plain", "anger")] * 2
    lines = "\r\n".join([f"text{separator}label", *(f"{text}{separator}{label}" for text, label in rows)])
    name = "train.csv" if separator == "," else "train.tsv"
    (tmp_path / name).write_bytes(lines.encode())
    assert train_of(tmp_path) == rows


@needs_cases
@pytest.mark.parametrize(
    ("case", "labels", "settings"),
    [
        ("val-file-silently-ignored/01_kaggle_val_txt", EMOTIONS, {}),
        ("val-file-silently-ignored/24_val_csv_and_valid", EMOTIONS, {}),
        ("hf-integer-labels/03_hf_int_parquet", EMOTIONS, {}),
        ("hf-integer-labels/04_hf_to_csv_int", EMOTIONS, {"label_names": HUB_ORDER}),
        ("json-lines-named-json/05_hf_to_json", EMOTIONS, {}),
        ("multi-label-crashes/26_multilabel_jsonl", EMOTIONS, {}),
        ("u2028-splits-dataset-csv/12_u2028_csv", EMOTIONS, {}),
        ("unknown-label-0-use-one-of-0/29_parquet_ints", tuple("012345"), {}),
    ],
)
def test_the_reported_cases_are_read_whole(case: str, labels: tuple[str, ...], settings: dict[str, Any]) -> None:
    dataset = load_dataset(DatasetSettings(source=str(CASES / case), **settings), labels, 17)
    assert {split: len(frame) for split, frame in dataset.splits.items()} == {
        "train": 120,
        "validation": 30,
        "test": 30,
    }
    gloomy = dataset.splits["train"].set_index("text")["label"].filter(like="gloomy")
    assert set(gloomy) == {"0" if "0" in labels else "sadness"}


@needs_cases
def test_the_reported_numbers_without_names_are_one_line() -> None:
    with pytest.raises(DataError, match=r"train\.csv, row 2: labels are numbers; give their names in that order"):
        load_dataset(DatasetSettings(source=str(CASES / "hf-integer-labels" / "04_hf_to_csv_int")), EMOTIONS, 17)
