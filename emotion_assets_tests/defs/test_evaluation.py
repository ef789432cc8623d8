"""The evaluation group as Dagster runs it: data versions, run config, what the UI shows, what follows what."""

from __future__ import annotations

import re
from typing import Any

import dagster as dg
import pytest

from emotion_assets.defs.dataset import dataset_assets
from emotion_assets.defs.evaluation import evaluation_assets
from emotion_assets.storage.keys import model_key
from emotion_assets_tests.worlds.evaluated import World, world

__all__ = ["world"]


def run(world: World, instance: dg.DagsterInstance, *keys: str, **config: Any) -> dg.ExecuteInProcessResult:
    assets = evaluation_assets(world.workspace.settings)
    return dg.materialize(
        [*dataset_assets(world.workspace.settings)[:2], *assets],
        selection=[dg.AssetKey(key.split("/")) for key in keys],
        instance=instance,
        resources={"workspace": world.workspace},
        run_config={"ops": {"champion_model": {"config": config}}} if config else None,
        raise_on_error=False,
    )


def data_version(instance: dg.DagsterInstance, key: str) -> str:
    event = instance.get_latest_materialization_event(dg.AssetKey(key.split("/")))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.tags is not None
    return event.asset_materialization.tags["dagster/data_version"]


@pytest.fixture
def trained(world: World) -> World:
    """A world in which two models are trained; predictions, evaluation and champion are still to be made."""
    world.store_model("tfidf_svm")
    world.store_model("bert_base", rows=300)
    return world.without("bigru")


EVERYTHING = ("predictions/tfidf_svm", "predictions/bert_base", "evaluation_table", "champion_model")


def test_a_decision_that_changes_nothing_keeps_the_data_version_which_is_the_models_hash(trained: World) -> None:
    instance = dg.DagsterInstance.ephemeral()
    assert run(trained, instance, "class_balance_report", *EVERYTHING).success
    champion = trained.workspace.store.current(model_key("tfidf_svm"))
    assert data_version(instance, "champion_model") == champion.digest
    before = {key: data_version(instance, key) for key in EVERYTHING}
    assert run(trained, instance, *EVERYTHING).success
    assert {key: data_version(instance, key) for key in EVERYTHING} == before


def test_pin_rollback_and_unpin_are_run_configuration(trained: World) -> None:
    instance = dg.DagsterInstance.ephemeral()
    assert run(trained, instance, *EVERYTHING).success
    models = {name: trained.workspace.store.current(model_key(name)).digest for name in ("tfidf_svm", "bert_base")}
    for config, expected in (
        ({"pin": "bert_base"}, "bert_base"),
        ({}, "bert_base"),
        ({"rollback": True}, "tfidf_svm"),
        ({"unpin": True}, "tfidf_svm"),
    ):
        assert run(trained, instance, "champion_model", **config).success
        assert data_version(instance, "champion_model") == models[expected], config


def test_a_pin_that_does_not_exist_fails_with_one_line_and_leaves_the_champion(trained: World) -> None:
    instance = dg.DagsterInstance.ephemeral()
    run(trained, instance, *EVERYTHING)
    result = run(trained, instance, "champion_model", pin="gpt")
    assert not result.success
    failure = result.failure_data_for_node("champion_model")
    assert failure is not None and failure.user_failure_data is not None
    assert "pin 'gpt' is no model or version" in str(failure.user_failure_data.description)
    assert data_version(instance, "champion_model") == trained.workspace.store.current(["champion_model"]).digest


def test_the_evaluation_shows_the_leaderboard_two_plots_and_a_link_to_the_page(trained: World) -> None:
    result = run(trained, dg.DagsterInstance.ephemeral(), "class_balance_report", *EVERYTHING)
    (shown,) = [m.metadata for m in result.asset_materializations_for_node("evaluation_table")]
    assert shown["dagster/row_count"].value == 4
    assert "tfidf_svm" in str(shown["leaderboard"].value)
    address, reports = trained.workspace.settings.reports_url, trained.workspace.settings.reports
    for plot in ("accuracy", "confusion of the best"):
        (name,) = set(re.findall(rf"{address}/(plots/[\w-]+\.png)", str(shown[plot].value)))
        assert (reports / name).read_bytes().startswith(b"\x89PNG")
    page = reports / str(shown["page"].value).removeprefix(f"{address}/")
    assert page.is_file() and "tfidf_svm" in page.read_text(encoding="utf-8")


def test_a_model_that_was_never_trained_does_not_keep_the_others_from_being_evaluated(world: World) -> None:
    world.store_model("tfidf_svm")
    instance, settings = dg.DagsterInstance.ephemeral(), world.workspace.settings
    definitions = dg.Definitions(
        assets=[*dataset_assets(settings)[:2], *evaluation_assets(settings)],
        resources={"workspace": world.workspace},
    )

    def requested(cursor: Any = None) -> Any:
        return dg.evaluate_automation_conditions(
            definitions, instance, dg.AssetSelection.assets("evaluation_table"), cursor=cursor
        )

    nothing = requested()
    assert nothing.total_requested == 0
    assert run(world, instance, "class_balance_report").success
    report_only = requested(nothing.cursor)
    assert report_only.total_requested == 0
    assert run(world, instance, "predictions/tfidf_svm").success
    assert requested(report_only.cursor).total_requested == 1
