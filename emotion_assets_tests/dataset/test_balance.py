"""Planted defects are found, each statistic is the known one, and the real set's known defects are there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

from emotion_assets.dataset.balance import (
    BalanceReport,
    balance_report,
    class_shares,
    confident_learning,
    find_duplicates,
    find_label_errors,
    find_overlaps,
    find_shifts,
    labelled_rows,
    normalised,
)
from emotion_assets.dataset.files import SPLITS
from emotion_assets.dataset.splits import load_dataset
from emotion_assets.settings.schema import DatasetSettings
from emotion_assets_tests.conftest import REAL_DATASET, needs_real_dataset

Splits = dict[str, pd.DataFrame]
EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")


@pytest.fixture(scope="module")
def sample() -> Splits:
    return load_dataset(DatasetSettings(), EMOTIONS, 17).splits


def frame(*rows: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["text", "label"])


def planted(sample: Splits, split: str, *rows: tuple[str, str]) -> Splits:
    return sample | {split: pd.concat([sample[split], frame(*rows)], ignore_index=True)}


def test_a_leaked_text_is_found_also_when_case_and_punctuation_differ(sample: Splits) -> None:
    text, label = sample["train"].iloc[5]
    second, its_label = sample["train"].iloc[6]
    other = next(name for name in EMOTIONS if name != its_label)
    splits = planted(sample, "test", (text, label), (second.upper() + " !!", other))
    found = {(o.split_a, o.split_b): o for o in find_overlaps(labelled_rows(splits))}[("train", "test")]
    assert (found.shared, found.disagreeing) == (1, 0)
    assert (found.shared_normalised, found.disagreeing_normalised) == (2, 1)
    report = balance_report(splits, EMOTIONS, 17)
    assert any("train 6" in example.places for example in report.leaks)


def test_planted_duplicates_and_conflicts_are_counted_once_for_each_text(sample: Splits) -> None:
    splits = planted(
        sample,
        "train",
        *[("A wholly new message about a kettle", "joy")] * 3,
        ("Another new one, about a lamp", "joy"),
        ("Another new one, about a lamp", "anger"),
        ("another new ONE about a lamp!", "anger"),
    )
    found = find_duplicates(labelled_rows(splits))[0]
    assert (found.split, found.duplicated, found.conflicting) == ("train", 2, 1)
    assert (found.duplicated_normalised, found.conflicting_normalised) == (2, 1)


def test_normalising_ignores_case_punctuation_and_width_but_keeps_letters_of_every_script() -> None:
    assert normalised("It’s  GREAT!!") == normalised("it s great") == normalised("ｉｔ's great")
    assert normalised("Это чудо") == "это чудо"
    assert normalised("!!!") == "!!!" != normalised("???")


def test_a_planted_label_error_is_among_the_least_believed(sample: Splits) -> None:
    train = sample["train"].copy()
    telling = train.index[(train["label"] == "anger") & train["text"].str.contains("furious")][0]
    train.loc[telling, "label"] = "love"
    errors, notes = find_label_errors(labelled_rows(sample | {"train": train}), 17)
    assert not notes
    mine = [e for e in errors if (e.split, e.row) == ("train", telling + 1)]
    assert mine and mine[0].suggested == "anger" and errors.index(mine[0]) < 10


def test_without_enough_rows_for_folds_label_errors_are_not_sought_and_that_is_said() -> None:
    splits = {split: frame(("good", "joy"), ("bad", "anger")) for split in SPLITS}
    errors, notes = find_label_errors(labelled_rows(splits), 17)
    assert errors == [] and "at least 5" in notes[0]


def test_confident_learning_finds_what_cleanlab_finds() -> None:
    """Expected: cleanlab 2.9.0, find_label_issues(given, p, filter_by="confident_learning") on these very numbers."""
    rng = np.random.default_rng(7)
    given = rng.integers(0, 3, 60)
    logits = rng.normal(0, 1.2, (60, 3))
    logits[np.arange(60), given] += 1.0
    p = np.exp(logits)
    p = (p / p.sum(1, keepdims=True)).round(3)
    p /= p.sum(1, keepdims=True)
    expected = [2, 4, 6, 7, 12, 13, 14, 15, 16, 23, 24, 27, 31, 35, 38, 43, 44, 45, 48, 50, 53, 56]
    assert np.flatnonzero(confident_learning(p, given)).tolist() == expected


def test_shares_and_imbalance_count_every_label_also_one_without_rows() -> None:
    splits = {"train": frame(*[("a", "joy")] * 6, *[("b", "anger")] * 2), "test": frame(("c", "joy"))}
    counts = [(s.split, s.emotion, s.n, s.share) for s in class_shares(splits, ("joy", "anger", "fear"))]
    assert counts[:3] == [("train", "joy", 6, 0.75), ("train", "anger", 2, 0.25), ("train", "fear", 0, 0.0)]
    assert counts[3:] == [("test", "joy", 1, 1.0), ("test", "anger", 0, 0.0), ("test", "fear", 0, 0.0)]


def test_the_shift_is_pearsons_chi_squared_and_the_jensen_shannon_distance_worked_by_hand() -> None:
    def rows(joy: int, anger: int) -> pd.DataFrame:
        return frame(*[("a", "joy")] * joy, *[("b", "anger")] * anger)

    splits = {"train": rows(60, 40), "test": rows(20, 80)}
    (found,) = find_shifts(class_shares(splits, ("joy", "anger")))
    # expected counts 40 and 60 in both rows; Yates' continuity correction of a 2 by 2 table takes 0.5 off each gap
    by_hand = 2 * (19.5**2 / 40 + 19.5**2 / 60)
    assert found.chi_squared == pytest.approx(by_hand)
    p, q, m = np.array([0.6, 0.4]), np.array([0.2, 0.8]), np.array([0.4, 0.6])
    divergence = (p * np.log2(p / m)).sum() / 2 + (q * np.log2(q / m)).sum() / 2
    assert found.jensen_shannon == pytest.approx(np.sqrt(divergence))
    assert found.p_value < 1e-6


def test_equal_shares_do_not_shift() -> None:
    splits = {name: frame(("a", "joy"), ("b", "anger"), ("c", "fear")) for name in ("train", "test")}
    (found,) = find_shifts(class_shares(splits, ("joy", "anger", "fear")))
    assert (found.p_value, found.jensen_shannon) == (1.0, 0.0)
    assert chisquare([1, 1, 1]).pvalue == 1.0


def test_lengths_are_counted_in_words_with_one_set_of_bins_for_all_splits(sample: Splits) -> None:
    found = find_duplicates(labelled_rows(sample))
    assert len({part.lengths.bin_edges for part in found}) == 1
    for part in found:
        words = sample[part.split]["text"].str.split().str.len()
        assert part.lengths.words_max == words.max() and part.lengths.words_median == words.median()
        assert sum(part.lengths.histogram) == part.rows


def test_the_report_survives_being_stored_as_json(sample: Splits) -> None:
    report = balance_report(sample, EMOTIONS, 17)
    assert BalanceReport.model_validate_json(report.model_dump_json()) == report
    assert sum(row["n"] for row in report.counts) == sum(len(part) for part in sample.values())


@needs_real_dataset
def test_the_real_set_has_31_duplicated_training_texts_30_of_them_with_conflicting_labels(
    real: Callable[[], BalanceReport],
) -> None:
    report = real()
    train = report.splits[0]
    assert (train.rows, train.duplicated, train.conflicting) == (16000, 31, 30)
    overlaps = {(o.split_a, o.split_b): (o.shared, o.disagreeing) for o in report.overlaps}
    assert overlaps == {("train", "validation"): (3, 3), ("train", "test"): (2, 2), ("validation", "test"): (1, 1)}
    assert 100 < report.likely_label_errors["train"] < 1000
    assert report.imbalance_ratio == pytest.approx(5362 / 572)


@pytest.fixture
def real() -> Callable[[], BalanceReport]:
    def load() -> BalanceReport:
        splits = load_dataset(DatasetSettings(source=str(REAL_DATASET)), EMOTIONS, 17).splits
        return balance_report(splits, EMOTIONS, 17)

    return load
