"""Asset checks: each blocking one stops what is downstream, each warning only warns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.dataset.splits import describe_dataset, load_dataset
from emotion_assets.defs.checks import dataset_checks, evaluation_checks
from emotion_assets.defs.dataset import dataset_assets
from emotion_assets.defs.evaluation import evaluation_assets
from emotion_assets.defs.models import model_assets
from emotion_assets.evaluation.evaluate import NothingToEvaluateError
from emotion_assets.storage.keys import RAW_DATASET, model_key, predictions_key
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds.evaluated import World, world

__all__ = ["world"]
Frames = Mapping[str, pd.DataFrame]


def asset_that_stores(world: World, frames: Frames) -> dg.AssetsDefinition:
    """A ``raw_emotion_dataset`` whose loader let these frames through."""

    @dg.asset(key=RAW_DATASET)
    def raw_emotion_dataset() -> None:
        workspace = world.workspace
        good = load_dataset(workspace.settings.dataset, workspace.settings.labels, 17)
        with workspace.store.writing("datasets") as draft:
            for split, frame in frames.items():
                pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), draft.file(f"{split}.parquet"))
            folder = draft.finish(describe_dataset(good, workspace.settings.labels))
        workspace.store.point(RAW_DATASET, "datasets", folder)

    return raw_emotion_dataset


def balance_report(world: World) -> dg.AssetsDefinition:
    return dataset_assets(world.workspace.settings)[1]


def materialise(world: World, *parts: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(parts, resources={"workspace": world.workspace}, raise_on_error=False)


def outcomes(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    return {e.check_name: (e.passed, e.severity.value) for e in result.get_asset_check_evaluations()}


def materialised(result: dg.ExecuteInProcessResult) -> set[str]:
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}


@pytest.fixture
def frames(world: World) -> dict[str, pd.DataFrame]:
    settings = world.workspace.settings
    return dict(load_dataset(settings.dataset, settings.labels, 17).splits)


def broken(frames: Frames, defect: str) -> dict[str, pd.DataFrame]:
    train = frames["train"].copy()
    if defect == "schema":
        train = train.rename(columns={"text": "message"})
    elif defect == "labels":
        train.loc[0, "label"] = "rage"
    elif defect == "no_empty_text":
        train.loc[3, "text"] = "  "
    return {**frames, "train": train}


def test_a_sound_dataset_passes_every_check_and_lets_the_report_run(world: World, frames: Frames) -> None:
    result = materialise(world, asset_that_stores(world, frames), balance_report(world), dataset_checks)
    assert result.success and all(passed for passed, _ in outcomes(result).values())
    assert "class_balance_report" in materialised(result)


@pytest.mark.parametrize("defect", ["schema", "labels", "no_empty_text"])
def test_a_broken_dataset_blocks_everything_downstream(world: World, frames: Frames, defect: str) -> None:
    result = materialise(world, asset_that_stores(world, broken(frames, defect)), balance_report(world), dataset_checks)
    assert outcomes(result)[defect] == (False, "ERROR")
    assert not result.success and materialised(result) == {"raw_emotion_dataset"}


def test_a_label_of_the_profile_that_train_lacks_blocks_too(world: World, frames: Frames) -> None:
    train = frames["train"]
    without = {**frames, "train": train[train["label"] != "surprise"]}
    result = materialise(world, asset_that_stores(world, without), balance_report(world), dataset_checks)
    assert outcomes(result)["labels"] == (False, "ERROR") and "class_balance_report" not in materialised(result)


def test_a_leak_a_conflict_and_a_drift_of_shares_warn_and_do_not_block(world: World, frames: Frames) -> None:
    text, label = frames["train"].iloc[0]
    other = "anger" if label != "anger" else "joy"
    extra = pd.DataFrame({"text": [text.upper(), text], "label": [label, other]})
    drifted = frames["test"][frames["test"]["label"].isin(["joy", "fear"])]
    planted = {**frames, "test": pd.concat([drifted, extra])}
    result = materialise(world, asset_that_stores(world, planted), balance_report(world), dataset_checks)
    found = outcomes(result)
    for name in ("no_overlap", "no_conflicting_labels", "no_drift_of_shares"):
        assert found[name] == (False, "WARN")
    assert result.success and "class_balance_report" in materialised(result)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_predictions_that_are_no_probabilities_are_left_out_and_the_check_says_so(world: World, value: float) -> None:
    """The healthy model is compared and is the champion; of the broken one alone there is no evaluation."""
    world.store_model("bert_base", rows=300)
    break_predictions(world, "tfidf_svm", value)
    two = world.without("bigru")
    outcome = two.evaluate()
    assert {key.model for key in outcome.keys} == {"bert_base"}
    assert "rows are not probabilities that sum to one" in outcome.missing["tfidf_svm"]
    assert two.choose().decision["model"] == "bert_base"
    with pytest.raises(NothingToEvaluateError, match="tfidf_svm cannot be used"):
        world.without("bigru", "bert_base").evaluate()
    predictions = evaluation_assets(two.workspace.settings)[0]
    assert outcomes(check_alone(world, predictions)) == {"distributions": (False, "ERROR")}


def break_predictions(world: World, name: str, value: float) -> None:
    world.store_model(name)
    store = world.workspace.store
    real = store.current(predictions_key(name))
    with store.writing("predictions") as draft:
        for split in ("validation", "test"):
            table = pq.read_table(real.file(f"{split}.parquet"))
            column = pa.array([[value] * 6] * len(table), pa.list_(pa.float32()))
            pq.write_table(table.set_column(1, "probabilities", column), draft.file(f"{split}.parquet"))
        folder = draft.finish(real.info)
    store.point(predictions_key(name), "predictions", folder)


def check_alone(world: World, *assets: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    """The checks of these assets, as the button of the UI runs them: nothing is materialised."""
    definitions = dg.Definitions(assets=assets, resources={"workspace": world.workspace})
    checks = dg.AssetSelection.checks(*(key for asset in assets for key in asset.check_keys))
    job = dg.define_asset_job("checks_alone", checks)
    result = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("checks_alone")
    done = result.execute_in_process()
    assert not materialised(done)
    return done


def test_one_check_of_a_dataset_runs_by_itself(world: World) -> None:
    key = dg.AssetCheckKey(dg.AssetKey(RAW_DATASET), "no_overlap")
    job = dg.define_asset_job("one_check", dg.AssetSelection.checks(key))
    raw = dataset_assets(world.workspace.settings)[0]
    definitions = dg.Definitions(
        assets=[raw], asset_checks=[dataset_checks], jobs=[job], resources={"workspace": world.workspace}
    )
    done = definitions.resolve_job_def("one_check").execute_in_process()
    assert list(outcomes(done)) == ["no_overlap"] and not materialised(done)


def test_the_check_of_predictions_runs_by_itself(world: World) -> None:
    world.store_model("tfidf_svm")
    predictions = evaluation_assets(world.workspace.settings)[0]
    assert outcomes(check_alone(world, predictions)) == {"distributions": (True, "ERROR")}


@pytest.mark.parametrize(("max_length", "passed"), [(200, True), (12, False)])
def test_rows_that_were_cut_warn_and_do_not_block(world: World, max_length: int, passed: bool) -> None:
    tokenizers = world.workspace.settings.tokenizers
    short = {name: part.model_copy(update={"max_length": max_length}) for name, part in tokenizers.items()}
    settings = world.workspace.settings.model_copy(update={"tokenizers": short})
    workspace = Workspace(settings)
    tokens = dataset_assets(settings)[-1]
    result = dg.materialize([tokens], resources={"workspace": workspace})
    assert outcomes(result) == {"within_length": (passed, "WARN")}
    lengths = pd.read_parquet(workspace.store.current(tokens.key.path).file("test.parquet"))["length"]
    (event,) = result.get_asset_check_evaluations()
    problems = event.metadata["problems"].value if not passed else ""
    cut, rows = int((lengths > max_length).sum()), len(lengths)
    assert (f"| test | {cut} | {rows} | {max_length} |" in str(problems)) == (cut > rows / 100) != passed
    assert outcomes(check_alone(World(workspace), tokens)) == outcomes(result)


def test_a_model_is_intact_until_a_file_of_it_is_altered(world: World) -> None:
    model = next(a for a in model_assets(world.workspace.settings) if a.key.path[-1] == "tfidf_svm")
    assert outcomes(check_alone(world, model)) == {"store_intact": (False, "ERROR")}, "it was never trained"
    made = materialise(world, model)
    assert made.success and outcomes(made) == {"store_intact": (True, "ERROR")}
    assert outcomes(check_alone(world, model)) == {"store_intact": (True, "ERROR")}
    file = world.workspace.store.current(model_key("tfidf_svm")).file("model.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    done = check_alone(world, model)
    assert outcomes(done) == {"store_intact": (False, "ERROR")}
    (event,) = done.get_asset_check_evaluations()
    assert "was altered since it was stored" in str(event.description)


def test_figures_of_other_rows_block_the_champion(world: World) -> None:
    """The table was brought up to date while a new dataset came in: its figures are of the old rows."""
    world.store_model("tfidf_svm")
    world.evaluate()

    @dg.asset(key="evaluation_table")
    def evaluation_table() -> None:
        old = world.workspace.store.current(RAW_DATASET)
        frame = pd.read_parquet(old.file("validation.parquet")).head(50)
        world.store_dataset({"validation": frame})
        world.predict_again("tfidf_svm")

    champion_model = evaluation_assets(world.workspace.settings)[-1]
    result = materialise(world, evaluation_table, champion_model, evaluation_checks)
    assert outcomes(result)["same_rows"] == (False, "ERROR")
    assert not result.success and materialised(result) == {"evaluation_table"}


def test_a_missing_model_a_collapsed_class_and_a_guess_warn_and_do_not_block(world: World) -> None:
    world.store_model("tfidf_svm", blind_to="surprise")
    world.store_model("bert_base", blind_to="joy", rows=60)

    @dg.asset(key="evaluation_table")
    def evaluation_table() -> None:
        world.evaluate()
        with world.workspace.warehouse.writing() as db:
            db.execute("UPDATE evaluation SET accuracy = 0.1 WHERE model = 'bert_base'")

    champion_model = evaluation_assets(world.workspace.settings)[-1]
    result = materialise(world, evaluation_table, champion_model, evaluation_checks)
    found = outcomes(result)
    assert found["same_rows"] == (True, "ERROR")
    for name in ("every_model", "better_than_a_guess", "no_class_collapses"):
        assert found[name] == (False, "WARN")
    assert result.success and "champion_model" in materialised(result)
