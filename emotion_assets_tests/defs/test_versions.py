"""One place declares the version of a step's code; its recipe and its asset both follow it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emotion_assets.defs import dataset as dataset_defs
from emotion_assets.defs.build import build_defs
from emotion_assets.evaluation.predictions import predict
from emotion_assets.jobs.process import TrainingJob
from emotion_assets.settings import versions
from emotion_assets.storage.keys import RAW_DATASET, model_key
from emotion_assets.storage.store import Store
from emotion_assets_tests.worlds.evaluated import World, world

__all__ = ["world"]


def training_recipe(world: World) -> str:
    return TrainingJob("bigru", "bigru", {}, ["joy"], 1, {}, "", "").recipe


def predictions_recipe(world: World) -> str:
    return recalled(world, lambda w: predict("bigru", *stored(w), w.workspace.store))


def tokens_recipe(world: World) -> str:
    return recalled(world, lambda w: dataset_defs._tokens(w.workspace, "bert", None))


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
