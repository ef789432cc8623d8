"""What the evaluation tables promise: old rows stay, nothing changes without a reason, like is compared with like."""

from __future__ import annotations

import pandas as pd
import pytest

from emotion_assets.evaluation.figures import paper_accuracy
from emotion_assets.evaluation.tables import NothingToEvaluateError
from emotion_assets.ml.datasets import OFFICIAL_TEST_FINGERPRINT, read_split
from emotion_assets.ml.predictions import read_predictions
from emotion_assets.profile_reader import load_settings
from emotion_assets_tests.evaluation.conftest import World

TABLES = ("evaluation", "evaluation_by_class", "confusion", "model_comparison", "evaluation_current")


def everything(world: World) -> dict[str, list[tuple[object, ...]]]:
    return {table: world.query(f"SELECT * FROM {table} ORDER BY ALL") for table in TABLES}


def test_every_model_gets_its_rows_on_both_splits_and_every_pair_its_comparison(world: World) -> None:
    world.store_model("tfidf_svm")
    world.store_model("bert_base", rows=300)
    outcome = world.evaluate()
    assert outcome.added == 4
    assert outcome.missing == {"bigru": "predictions/bigru was not materialised yet"}
    assert world.query("SELECT split, count(*) FROM evaluation GROUP BY ALL ORDER BY ALL") == [
        ("test", 2),
        ("validation", 2),
    ]
    assert world.query("SELECT count(*) FROM evaluation_by_class") == [(2 * 2 * 6,)]
    assert world.query("SELECT count(*), sum(n) FROM confusion") == [(2 * 2 * 36, 1000)]
    pairs = world.query("SELECT split, model_a, model_b FROM model_comparison ORDER BY ALL")
    assert pairs == [("test", "bert_base", "tfidf_svm"), ("validation", "bert_base", "tfidf_svm")]


def test_the_figures_are_those_of_the_stored_predictions(world: World) -> None:
    world.store_model("tfidf_svm")
    world.evaluate()
    part = read_predictions(world.workspace.store.current(["predictions", "tfidf_svm"]), "test")
    ((accuracy, low, high, rows),) = world.query(
        "SELECT accuracy, accuracy_low, accuracy_high, n_rows FROM evaluation WHERE split = 'test'"
    )
    assert accuracy == part.right.mean() and rows == len(part.right) == 250
    assert low < accuracy < high
    right = "SELECT sum(n) FROM confusion WHERE split = 'test' AND actual = predicted"
    assert world.query(right) == [(int(part.right.sum()),)]


def test_evaluating_again_changes_no_row_of_any_table(world: World) -> None:
    world.store_model("tfidf_svm")
    world.store_model("bert_base", rows=300)
    world.evaluate()
    before = everything(world)
    again = world.evaluate()
    assert again.added == 0 and everything(world) == before


def test_a_retrained_model_gets_new_rows_and_the_old_ones_stay(world: World) -> None:
    world.store_model("tfidf_svm", rows=300)
    world.evaluate()
    before = everything(world)["evaluation"]
    newer = world.store_model("tfidf_svm")
    world.evaluate()
    after = everything(world)["evaluation"]
    assert set(before) < set(after) and len(after) == 4
    assert world.query("SELECT model, model_version FROM leaderboard") == [("tfidf_svm", newer.version)]


def test_a_model_trained_back_to_an_earlier_version_shows_that_version_without_a_new_row(world: World) -> None:
    older = world.store_model("tfidf_svm", rows=300)
    world.evaluate()
    world.store_model("tfidf_svm")
    world.evaluate()
    world.store_model("tfidf_svm", rows=300)
    assert world.evaluate().added == 0
    assert world.query("SELECT model_version FROM leaderboard") == [(older.version,)]


def test_the_leaderboard_has_the_best_model_first(world: World) -> None:
    world.store_model("bert_base", rows=300)
    world.store_model("tfidf_svm")
    board = world.evaluate().leaderboard
    assert [row["model"] for row in board] == ["tfidf_svm", "bert_base"]
    assert board[0]["accuracy"] > board[1]["accuracy"] and all(row["comparable"] for row in board)


def test_a_model_that_left_the_profile_keeps_its_rows_and_breaks_nothing(world: World) -> None:
    world.store_model("tfidf_svm")
    world.store_model("bert_base", rows=300)
    world.evaluate()
    smaller = world.without("bert_base")
    board = smaller.evaluate().leaderboard
    assert [row["model"] for row in board] == ["tfidf_svm", "bert_base"]
    assert smaller.query("SELECT count(*) FROM evaluation") == [(4,)]


def test_a_model_measured_on_other_test_rows_is_not_ranked_among_the_rest(world: World) -> None:
    world.store_model("tfidf_svm", rows=300)
    world.store_model("bert_base")
    world.evaluate()
    world.store_dataset({"test": first_rows(world, "test", 100)})
    world.predict_again("tfidf_svm")
    outcome = world.evaluate()
    assert outcome.missing["bert_base"] == "predictions/bert_base are of another dataset; materialise them again"
    board = [(row["model"], row["n_rows"], row["comparable"]) for row in outcome.leaderboard]
    assert board == [("tfidf_svm", 100, True), ("bert_base", 250, False)]


def test_going_back_to_an_earlier_dataset_brings_its_figures_back_without_new_rows(world: World) -> None:
    world.store_model("tfidf_svm")
    world.evaluate()
    world.store_dataset({"test": first_rows(world, "test", 100)})
    world.predict_again("tfidf_svm")
    world.evaluate()
    world.store_dataset()
    world.predict_again("tfidf_svm")
    outcome = world.evaluate()
    assert outcome.added == 0 and [row["n_rows"] for row in outcome.leaderboard] == [250]


def test_without_any_predictions_the_error_says_what_to_materialise(world: World) -> None:
    with pytest.raises(NothingToEvaluateError, match="predictions/tfidf_svm was not materialised yet"):
        world.evaluate()


def test_the_published_accuracy_stands_beside_the_official_test_rows_only() -> None:
    model = load_settings("paper", environ={}).models["llama3_lora_model"]
    assert paper_accuracy(model, "test", OFFICIAL_TEST_FINGERPRINT) == 0.9262
    assert paper_accuracy(model, "test", "another fingerprint") is None
    assert paper_accuracy(model, "validation", OFFICIAL_TEST_FINGERPRINT) is None
    assert paper_accuracy(None, "test", OFFICIAL_TEST_FINGERPRINT) is None


def first_rows(world: World, split: str, rows: int) -> pd.DataFrame:
    return read_split(world.workspace.store.current(["raw_emotion_dataset"]), split).head(rows)
