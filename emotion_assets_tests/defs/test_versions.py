"""One place declares the version of a step's code; its recipe and its asset both follow it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emotion_assets.dataset import balance
from emotion_assets.dataset.splits import read_splits
from emotion_assets.defs import dataset as dataset_defs
from emotion_assets.defs.build import build_defs
from emotion_assets.evaluation.predictions import predict
from emotion_assets.jobs.process import TrainingJob
from emotion_assets.settings import versions
from emotion_assets.storage.keys import BALANCE, RAW_DATASET, model_key
from emotion_assets.storage.store import Store, fingerprint
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds.evaluated import World, world

__all__ = ["world"]


def training_recipe(world: World) -> str:
    return TrainingJob("bigru", "bigru", {}, ["joy"], 1, {}, "", "").recipe


def predictions_recipe(world: World) -> str:
    return recalled(world, lambda w: predict("bigru", *stored(w), w.workspace.store))


def tokens_recipe(world: World) -> str:
    return recalled(world, lambda w: dataset_defs._tokens(w.workspace, "bert", None))


def balance_recipe(world: World) -> str:
    return recalled(world, lambda w: dataset_defs._store_balance(w.workspace))


def test_the_balance_of_a_dataset_is_recalled_and_that_of_another_one_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = world.workspace
    first = dataset_defs._store_balance(workspace)
    file = first.file("report.json")
    report = balance.BalanceReport.model_validate_json(file.read_text(encoding="utf-8"))
    dataset = workspace.store.current(RAW_DATASET)
    assert report == balance.balance_report(read_splits(dataset), workspace.settings.labels, workspace.settings.seed)

    monkeypatch.setattr(balance, "balance_report", lambda *_: pytest.fail("computed again"))
    assert dataset_defs._store_balance(workspace) == first == workspace.store.current(BALANCE)
    other = workspace.settings.model_copy(update={"seed": workspace.settings.seed + 1})
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        dataset_defs._store_balance(Workspace(other))
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        dataset_defs._store_balance(workspace)


def test_the_recipe_of_tokens_is_what_it_was_while_there_is_no_system_prompt(world: World) -> None:
    settings = world.workspace.settings
    dataset, tokenizer = world.workspace.store.current(RAW_DATASET), settings.tokenizers["bert"].model_dump(mode="json")
    expected = fingerprint(versions.TOKENS, tokenizer, settings.labels, "Do it.", dataset.digest)

    def recipe(system: str) -> str:
        return recalled(world, lambda w: dataset_defs._tokens(w.workspace, "bert", "Do it.", system))

    assert recipe("") == expected
    assert recipe("Be kind.") != expected


def stored(world: World) -> Any:
    store = world.workspace.store
    return store.current(model_key("tfidf_svm")), store.current(RAW_DATASET)


def recalled(world: World, work: Callable[[World], Any]) -> str:
    """The recipe that the work asks the store for."""
    asked: list[str] = []

    def ask(self: Store, recipe: str) -> None:
        asked.append(recipe)
        raise StopIteration

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(Store, "recall", ask)
        work(world)
    return asked[0]


@pytest.mark.parametrize(
    ("step", "recipe", "asset"),
    [
        ("TRAINING", training_recipe, "baseline_models/bigru"),
        ("TRAINING", training_recipe, "base_models/llama_mini"),
        ("PREDICTIONS", predictions_recipe, "predictions/bigru"),
        ("TOKENS", tokens_recipe, "tokenised_splits/bert"),
        ("CLASS_BALANCE", balance_recipe, "class_balance_report"),
    ],
)
def test_a_version_that_goes_up_changes_the_recipe_and_the_asset(
    world: World, tmp_path: Path, step: str, recipe: Callable[[World], str], asset: str
) -> None:
    world.store_model("tfidf_svm")

    def both() -> tuple[str, str | None]:
        defs = build_defs({"home": tmp_path})
        found = {spec.key.to_user_string(): spec.code_version for spec in defs.resolve_all_asset_specs()}
        return recipe(world), found[asset]

    before = both()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, step, "of tomorrow")
        after = both()
    assert before[0] != after[0]
    assert before[1] != after[1]


def code_versions(home: Path, **changes: Any) -> dict[str, str | None]:
    defs = build_defs({"home": home, **changes})
    return {spec.key.to_user_string(): spec.code_version for spec in defs.resolve_all_asset_specs()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": {"validation_share": 0.2}}, {"raw_emotion_dataset"}),
        ({"dataset": {"columns": {"text": "Tweet"}}}, {"raw_emotion_dataset"}),
        ({"dataset": {"source": "another/dataset"}}, {"raw_emotion_dataset"}),
        (
            {"labels": ["sadness", "joy", "anger", "fear", "love", "surprise"]},
            {"raw_emotion_dataset", "tokens", "models"},
        ),
        ({"labels": ["joy", "sadness", "anger", "fear", "love", "awe"]}, {"raw_emotion_dataset", "tokens", "models"}),
        ({"seed": 18}, {"raw_emotion_dataset", "tokens", "models"}),
    ],
)
def test_dataset_settings_labels_and_seed_are_part_of_the_code_versions(
    tmp_path: Path, change: dict[str, Any], told: set[str]
) -> None:
    before, after = code_versions(tmp_path), code_versions(tmp_path, **change)
    changed = {key for key in before if before[key] != after[key]}
    assert "raw_emotion_dataset" in changed
    for group, some in (("tokens", "tokenised_splits/bert"), ("models", "baseline_models/bigru")):
        assert (some in changed) == (group in told), some
    assert ("class_balance_report" in changed) == ("tokens" in told)
    assert not {"predictions/bigru", "evaluation_table", "champion_model", "feedback"} & changed


def test_the_recipe_of_a_training_is_what_it_was_so_that_old_homes_recall_their_models() -> None:
    job = TrainingJob("bigru", "bigru", {"a": 1}, ["joy"], 1, {"dataset": {"path": "/x", "digest": "d"}}, "", "")
    assert job.recipe == "9207fe36174ee4b89b07a869ced849bc23c8c5dc662fab0b5939655e22f1c77e"
