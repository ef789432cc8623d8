"""What the evaluation tables promise: old rows stay, nothing changes without a reason, like is compared with like."""

from __future__ import annotations

import shutil
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.dataset.splits import OFFICIAL_TEST_FINGERPRINT, read_split
from emotion_assets.evaluation.evaluate import NothingToEvaluateError
from emotion_assets.evaluation.predictions import predict, read_predictions
from emotion_assets.evaluation.rows import paper_accuracy
from emotion_assets.profiles.reader import load_settings
from emotion_assets.storage.keys import predictions_key
from emotion_assets.storage.warehouse.evaluation import classes_on, comparisons_on, evaluations_on, read_leaderboard
from emotion_assets_tests.worlds.evaluated import World

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
    world.evaluate()
    board = leaderboard(world)
    assert [row["model"] for row in board] == ["tfidf_svm", "bert_base"]
    assert board[0]["accuracy"] > board[1]["accuracy"] and all(row["comparable"] for row in board)


def test_a_model_that_left_the_profile_keeps_its_rows_and_breaks_nothing(world: World) -> None:
    world.store_model("tfidf_svm")
    world.store_model("bert_base", rows=300)
    world.evaluate()
    smaller = world.without("bert_base")
    smaller.evaluate()
    board = leaderboard(smaller)
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
    board = [(row["model"], row["n_rows"], row["comparable"]) for row in leaderboard(world)]
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
    assert outcome.added == 0 and [row["n_rows"] for row in leaderboard(world)] == [250]


def test_without_any_predictions_the_error_says_what_to_materialise(world: World) -> None:
    with pytest.raises(NothingToEvaluateError, match="predictions/tfidf_svm was not materialised yet"):
        world.evaluate()


def test_the_published_accuracy_stands_beside_the_official_test_rows_only() -> None:
    model = load_settings("paper", environ={}).models["llama3_lora_model"]
    assert paper_accuracy(model, "test", OFFICIAL_TEST_FINGERPRINT) == 0.9262
    assert paper_accuracy(model, "test", "another fingerprint") is None
    assert paper_accuracy(model, "validation", OFFICIAL_TEST_FINGERPRINT) is None
    assert paper_accuracy(None, "test", OFFICIAL_TEST_FINGERPRINT) is None


def test_a_dataset_with_other_training_rows_alone_is_evaluated_again(world: World) -> None:
    """Validation and test, and so the probabilities, are the same to the bit: the predictions are others still."""
    world.store_model("tfidf_svm")
    before = world.evaluate()
    world.store_dataset({"train": first_rows(world, "train", 1000)})
    world.predict_again("tfidf_svm")
    after = world.evaluate()
    assert "tfidf_svm" not in after.missing
    assert [key[:4] for key in after.keys] == [key[:4] for key in before.keys]


def test_another_model_with_equal_probabilities_has_predictions_of_its_own(world: World) -> None:
    store = world.workspace.store
    first = world.store_model("tfidf_svm")
    with store.writing("models") as draft:
        shutil.copytree(first.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        draft.file("note.txt").write_text("not of the weights", encoding="utf-8")
        second = draft.finish(first.info)
    found = predict("tfidf_svm", second, store.current(["raw_emotion_dataset"]), store)
    assert found.info["model_digest"] == second.digest != first.digest


def test_a_clock_that_jumps_back_does_not_bring_old_rows_back(world: World) -> None:
    world.store_model("tfidf_svm", rows=300)
    world.evaluate()
    newer = world.store_model("tfidf_svm")
    world.minutes -= 60
    world.evaluate()
    assert [row["model_version"] for row in leaderboard(world)] == [newer.version]


def leaderboard(world: World) -> list[dict[str, Any]]:
    with world.workspace.warehouse.reading() as db:
        return read_leaderboard(db)


def first_rows(world: World, split: str, rows: int) -> pd.DataFrame:
    return read_split(world.workspace.store.current(["raw_emotion_dataset"]), split).head(rows)


def leaderboard_accuracies(world: World) -> dict[str, float]:
    with world.workspace.warehouse.reading() as db:
        rows = read_leaderboard(db)
    assert len(rows) == len({row["model"] for row in rows}), "a model stands there twice"
    return {row["model"]: row["accuracy"] for row in rows}


def test_predictions_made_anew_reach_a_version_that_was_evaluated_before(world: World) -> None:
    world.store_model("tfidf_svm")
    world.store_model("bigru", rows=500)
    world.evaluate()
    before = leaderboard_accuracies(world)
    store = world.workspace.store
    folder = store.current(predictions_key("tfidf_svm"))
    with store.writing("predictions") as draft:
        shutil.copytree(folder.path, draft.path, dirs_exist_ok=True)
        draft.file("manifest.json").unlink()
        table = pq.read_table(draft.file("test.parquet"))
        same = pa.array([[1.0] + [0.0] * (len(folder.info["labels"]) - 1)] * table.num_rows, pa.list_(pa.float32()))
        pq.write_table(table.set_column(1, "probabilities", same), draft.file("test.parquet"))
        store.point(predictions_key("tfidf_svm"), "predictions", draft.finish(folder.info))
    outcome = world.evaluate()
    after = leaderboard_accuracies(world)
    assert outcome.added == 2
    assert after["tfidf_svm"] < before["tfidf_svm"] and after["bigru"] == before["bigru"]
    with world.workspace.warehouse.reading() as db:
        fingerprint = outcome.keys[1].split_fingerprint
        pairs = comparisons_on(db, "test", fingerprint)
        assert len(evaluations_on(db, "test", fingerprint)) == 2
        assert {row["predictions_digest"] for row in classes_on(db, "test", fingerprint)} == {
            key.predictions_digest for key in outcome.keys
        }
    assert [pair["accuracy_difference"] for pair in pairs] == [pytest.approx(after["bigru"] - after["tfidf_svm"])]


def test_metrics_declared_new_are_computed_for_versions_evaluated_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.store_model("tfidf_svm")
    world.evaluate()
    before = leaderboard_accuracies(world)
    assert world.evaluate().added == 0
    monkeypatch.setattr("emotion_assets.storage.warehouse.evaluation.METRICS", "of tomorrow")
    monkeypatch.setattr("emotion_assets.evaluation.metrics.calibration_error", lambda *_: 0.123)
    assert world.evaluate().added == 2
    assert leaderboard_accuracies(world) == before
    assert world.query("SELECT ece FROM leaderboard") == [(0.123,)]
    assert world.query("SELECT count(*) FROM evaluation") == [(4,)]
    assert world.choose().decision["model"] == "tfidf_svm"
