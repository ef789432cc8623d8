"""Choosing the champion on real tables: promotion, refusal, pin, rollback, and what is recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emotion_assets.dataset.splits import read_split
from emotion_assets.evaluation.champion import CHAMPION_PREDICTIONS, ChampionError
from emotion_assets.evaluation.predictions import read_predictions
from emotion_assets.storage.store import StoredFolder
from emotion_assets_tests.worlds.evaluated import World


def decisions(world: World) -> list[tuple[str, str, bool, str | None]]:
    return world.query("SELECT action, model, pinned, predecessor_model FROM champion_decisions ORDER BY decided_at")


@pytest.fixture
def promoted(world: World) -> World:
    """A weak bert_base was the first champion, then a better tfidf_svm replaced it."""
    world.store_model("bert_base", rows=300)
    world.evaluate()
    world.choose()
    world.store_model("tfidf_svm")
    world.evaluate()
    world.choose()
    return world


def test_a_better_model_is_promoted_and_the_decision_its_numbers_and_predecessor_are_stored(promoted: World) -> None:
    assert decisions(promoted) == [("first", "bert_base", False, None), ("promoted", "tfidf_svm", False, "bert_base")]
    ((reason, numbers, fingerprint),) = promoted.query(
        "SELECT reason, numbers, split_fingerprint FROM champion_decisions WHERE action = 'promoted'"
    )
    assert "tfidf_svm replaces bert_base" in reason and "points of validation accuracy" in reason
    (verdict,) = json.loads(numbers)
    gain = "SELECT max(accuracy) - min(accuracy) FROM evaluation WHERE split = 'validation'"
    assert verdict["difference"] == pytest.approx(promoted.query(gain)[0][0])
    dataset = promoted.workspace.store.current(["raw_emotion_dataset"])
    assert fingerprint == dataset.info["fingerprints"]["validation"]
    assert promoted.workspace.store.current(["champion_model"]).digest == current_model(promoted, "tfidf_svm")


def test_a_worse_challenger_is_refused_and_the_refusal_is_stored(promoted: World) -> None:
    promoted.store_model("bigru", rows=500)
    promoted.evaluate()
    choice = promoted.choose()
    assert (choice.decision["action"], choice.decision["model"]) == ("kept", "tfidf_svm")
    assert choice.model.digest == current_model(promoted, "tfidf_svm")
    assert {v["model"] for v in json.loads(choice.decision["numbers"])} == {"bert_base", "bigru"}


def test_a_challenger_that_is_blind_to_a_class_is_refused(world: World) -> None:
    world.store_model("bert_base", rows=300)
    world.evaluate()
    world.choose()
    world.store_model("tfidf_svm", blind_to="surprise")
    world.evaluate()
    decision = world.choose().decision
    assert decision["action"] == "kept" and "recall below 0.1 on surprise" in decision["reason"]


def test_deciding_again_on_the_same_evidence_stores_and_changes_nothing(promoted: World) -> None:
    before = decisions(promoted)
    choice = promoted.choose()
    assert decisions(promoted) == before and choice.decision["action"] == "promoted"


def test_a_choice_never_sees_the_test_split(world: World) -> None:
    world.store_model("bert_base", rows=300)
    world.store_model("tfidf_svm")
    world.evaluate()
    with world.workspace.warehouse.writing() as db:
        db.execute("UPDATE evaluation SET accuracy = 1 WHERE model = 'bert_base' AND split = 'test'")
        db.execute("UPDATE evaluation_by_class SET recall = 0 WHERE model = 'tfidf_svm' AND split = 'test'")
    assert world.choose().decision["model"] == "tfidf_svm"


def test_a_pin_holds_through_later_decisions_until_unpin(promoted: World) -> None:
    pinned = promoted.choose(pin="bert_base")
    assert (pinned.decision["action"], pinned.decision["pinned"], pinned.decision["model"]) == (
        "pinned",
        True,
        "bert_base",
    )
    promoted.store_model("bigru", rows=1000)
    promoted.evaluate()
    assert promoted.choose().decision["model"] == "bert_base"
    freed = promoted.choose(unpin=True)
    assert freed.decision["model"] != "bert_base" and not freed.decision["pinned"]


def test_a_version_can_be_pinned_also_after_its_model_was_retrained(promoted: World) -> None:
    old = promoted.workspace.store.current(["baseline_models", "bert_base"])
    promoted.store_model("bert_base", rows=400)
    promoted.evaluate()
    choice = promoted.choose(pin=old.version)
    assert choice.model.digest == old.digest
    assert choice.predictions.info["model_digest"] == old.digest
    assert promoted.workspace.store.current(CHAMPION_PREDICTIONS).digest == choice.predictions.digest


def test_rollback_restores_the_champion_before_and_holds(promoted: World) -> None:
    back = promoted.choose(rollback=True)
    assert (back.decision["action"], back.decision["model"]) == ("rolled_back", "bert_base")
    assert back.decision["predecessor_model"] == "tfidf_svm"
    assert promoted.choose().decision["model"] == "bert_base"
    with pytest.raises(ChampionError, match="no earlier champion"):
        promoted.choose(rollback=True)


def test_a_step_that_is_tried_again_does_not_roll_back_twice(promoted: World) -> None:
    promoted.store_model("bigru", rows=500)
    promoted.choose(pin="bigru")
    assert promoted.choose(rollback=True).decision["model"] == "tfidf_svm"
    promoted.minutes -= 1
    assert promoted.choose(rollback=True).decision["model"] == "tfidf_svm"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"pin": "gpt"}, "pin 'gpt' is no model or version; use one of tfidf_svm"),
        ({"pin": "bert_base", "rollback": True}, "exclude each other"),
        ({"rollback": True, "unpin": True}, "exclude each other"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_clear_line(promoted: World, asked: dict[str, object], said: str) -> None:
    before = decisions(promoted)
    with pytest.raises(ChampionError, match=said):
        promoted.choose(**asked)
    assert decisions(promoted) == before


@pytest.mark.parametrize("asked", [{}, {"pin": "tfidf_svm"}, {"rollback": True}, {"unpin": True}])
def test_without_any_evaluation_there_is_no_champion_and_the_error_says_why(
    world: World, asked: dict[str, object]
) -> None:
    with pytest.raises(ChampionError, match="no model was evaluated yet; materialise evaluation_table first"):
        world.choose(**asked)
    assert decisions(world) == []


def test_on_new_validation_rows_the_incumbent_is_measured_again_before_anyone_may_replace_it(promoted: World) -> None:
    champion = promoted.workspace.store.current(["champion_model"])
    promoted.store_dataset({"validation": read_split(dataset(promoted), "validation").head(200)})
    promoted.store_model("tfidf_svm", rows=900)  # the champion's own model has moved on to another version
    promoted.predict_again("bert_base")
    promoted.evaluate()
    choice = promoted.choose()
    fingerprint = dataset(promoted).info["fingerprints"]["validation"]
    measured = promoted.query(
        f"SELECT n_rows FROM evaluation WHERE model_version = '{champion.version}' AND split = 'validation' "
        f"AND split_fingerprint = '{fingerprint}'"
    )
    assert measured == [(200,)]
    newer = current_model(promoted, "tfidf_svm")[:12]
    assert promoted.query("SELECT model_version FROM leaderboard WHERE model = 'tfidf_svm'") == [(newer,)]
    assert choice.decision["split_fingerprint"] == fingerprint
    assert len(read_predictions(choice.predictions, "validation").actual) == 200


def test_the_incumbent_that_left_the_profile_stays_champion_until_beaten(promoted: World) -> None:
    smaller = promoted.without("tfidf_svm")
    smaller.evaluate()
    assert smaller.choose().decision["model"] == "tfidf_svm"


def test_a_pointer_lost_in_a_crash_after_the_decision_is_put_right_by_the_next_run(promoted: World) -> None:
    store = promoted.workspace.store
    store.point(["champion_model"], "models", store.current(["baseline_models", "bert_base"]))
    before = decisions(promoted)
    promoted.choose()
    assert store.current(["champion_model"]).digest == current_model(promoted, "tfidf_svm")
    assert decisions(promoted) == before


def dataset(world: World) -> StoredFolder:
    return world.workspace.store.current(["raw_emotion_dataset"])


def current_model(world: World, name: str) -> str:
    return world.workspace.store.current(["baseline_models", name]).digest


def test_a_clock_that_jumps_back_reverses_no_decision(promoted: World) -> None:
    promoted.choose(pin="bert_base")
    promoted.minutes -= 60
    chosen = promoted.choose(unpin=True)
    assert promoted.choose().decision == chosen.decision
    assert [row[0] for row in promoted.query("SELECT action FROM champion_decisions ORDER BY decided_at")][-2:] == [
        "pinned",
        chosen.decision["action"],
    ]


def test_a_decision_made_in_the_meantime_is_not_overruled(promoted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_assets.evaluation import champion

    original = champion.predict

    def slow(*args: Any) -> Any:
        monkeypatch.setattr(champion, "predict", original)
        promoted.choose(pin="bert_base")
        return original(*args)

    monkeypatch.setattr(champion, "predict", slow)
    with pytest.raises(ChampionError, match="another run has decided in the meantime; materialise it again"):
        promoted.choose(rollback=True)
    assert promoted.choose().decision["action"] == "pinned"


def test_a_rebuild_restores_decisions_and_tells_what_no_export_had(promoted: World) -> None:
    from emotion_assets.cli.rebuild import rebuild
    from emotion_assets.storage.exports import export_tables

    tables = ("evaluation", "evaluation_by_class", "confusion", "model_comparison", "champion_decisions")
    export_tables(promoted.workspace.warehouse)
    before = {table: promoted.query(f"SELECT * FROM {table} ORDER BY ALL") for table in tables}
    assert all(before.values())
    promoted.choose(pin="bert_base")
    promoted.workspace.warehouse.path.unlink()
    lines = rebuild(promoted.workspace)
    assert {table: promoted.query(f"SELECT * FROM {table} ORDER BY ALL") for table in tables} == before
    decisions = len(before["champion_decisions"])
    assert f"champion_decisions: {decisions} of {decisions + 1} rows; the others are newer than the export" in lines
