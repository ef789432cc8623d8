"""What a model's page says of its training, and what the launchpad may ask of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from emotion_assets.defs import models
from emotion_assets.defs import training as training_steps
from emotion_assets.evaluation.champion import ChampionRequest, choose_champion
from emotion_assets.evaluation.evaluate import evaluate_all
from emotion_assets.evaluation.predictions import predict
from emotion_assets.jobs.process import TrainingJob, run_job
from emotion_assets.models.hyperparameters import replace_settings
from emotion_assets.profiles.reader import load_settings
from emotion_assets.storage.keys import RAW_DATASET, model_key, predictions_key
from emotion_assets.storage.warehouse.evaluation import read_leaderboard
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import TINY_PROFILE
from emotion_assets_tests.worlds.feedback import make_workspace

Values = Mapping[str, Any]


def materialise(workspace: Workspace, key: str, config: Values | None = None) -> dg.ExecuteInProcessResult:
    asset = next(a for a in models.model_assets(workspace.settings) if a.key.to_user_string() == key)
    run_config = {"ops": {key.replace("/", "__"): {"config": dict(config)}}} if config else {}
    return dg.materialize([asset], resources={"workspace": workspace}, run_config=run_config, raise_on_error=False)


def page(done: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the one asset that was materialised."""
    assert done.success
    (event,) = done.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def settings_in(table: str) -> dict[str, str]:
    """Setting and value of each row of a table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1] for row in rows}


def test_a_page_shows_the_recipe_of_its_model_and_whether_it_was_trained_or_recalled(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, train_rows=200)
    first = page(materialise(workspace, "baseline_models/tfidf_svm"))
    assert settings_in(first["recipe"]) == {
        "method": "tfidf_svm",
        "ngram_max": "2",
        "min_frequency": "1",
        "c": "1",
        "seed": "17",
    }
    assert first["this version was"] == "trained"
    again = page(materialise(workspace, "baseline_models/tfidf_svm"))
    assert again["this version was"] == "recalled from the store"
    assert again["version"] == first["version"] and again["recipe"] == first["recipe"]


def test_a_page_says_that_a_training_was_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training is the real one, in this process, so that the power can go after its first save."""
    from emotion_assets.training import resume
    from emotion_assets.training.trainer import Trainer

    def train_here(context: Any, job: TrainingJob, processes: int) -> dict[str, Any]:
        return run_job(job, lambda line: None)

    def save_and_stop(self: Trainer[Any], state: resume.ResumeState) -> None:
        save(self, state)
        monkeypatch.setattr(Trainer, "save", save)
        raise RuntimeError("the power went")

    save = Trainer.save
    monkeypatch.setattr(resume, "MIN_SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(resume, "MAX_SHARE_OF_TIME", 1e9)
    monkeypatch.setattr(training_steps, "run_training", train_here)
    monkeypatch.setattr(Trainer, "save", save_and_stop)
    workspace = make_workspace(tmp_path, train_rows=200)
    assert not materialise(workspace, "baseline_models/bigru").success
    shown = page(materialise(workspace, "baseline_models/bigru"))
    assert shown["this version was"].startswith("trained, resumed at step ")
    training = settings_in(shown["recipe: training"])
    assert (training["learning_rate"], training["epochs"], training["batch_size"]) == ("0.005", "2", "32")
    assert settings_in(shown["recipe"])["dropout"] == "0.5"


@pytest.mark.parametrize(("name", "rank"), [("llama3_lora_model", "4"), ("bert_base", None)])
def test_only_a_recipe_with_adapters_shows_their_rank(name: str, rank: str | None) -> None:
    settings = load_settings(str(TINY_PROFILE), environ={})
    model = settings.models[name]
    tables = models._recipe_metadata(models.kind_of(model).used_settings(model), "trained")
    shown = settings_in(tables["recipe: lora"].value) if "recipe: lora" in tables else {}
    assert shown.get("rank") == rank
    assert all(len(table.value) < 1000 for name, table in tables.items() if name.startswith("recipe"))


def judge(workspace: Workspace, name: str, run_id: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Predict with the newest version of a model, evaluate and choose: the leaderboard's versions, the decision."""
    settings, store, warehouse = workspace.settings, workspace.store, workspace.warehouse
    folder = predict(name, store.current(model_key(name)), store.current(RAW_DATASET), store)
    store.point(predictions_key(name), "predictions", folder)
    evaluate_all(settings, store, warehouse, run_id, datetime.now(UTC))
    choice = choose_champion(settings, store, warehouse, ChampionRequest(), run_id, datetime.now(UTC))
    with warehouse.reading() as db:
        board = {row["model"]: row["model_version"] for row in read_leaderboard(db)}
    return board, choice.decision


def test_other_values_give_a_candidate_and_the_next_run_without_them_recalls_the_profiles(tmp_path: Path) -> None:
    """The rule of the champion judges the candidate, which is the better one here; the profile's version comes back as
    the model's newest one, and the champion stays."""
    workspace = make_workspace(tmp_path, train_rows=200)
    alone = {"bigru": workspace.settings.models["bigru"]}
    workspace = Workspace(workspace.settings.model_copy(update={"models": alone}))

    profile = page(materialise(workspace, "baseline_models/bigru"))
    board, decision = judge(workspace, "bigru", "first")
    assert board["bigru"] == profile["version"] == decision["model_version"]
    assert "other than the profile" not in profile

    other = {"learning_rate": 2e-2, "epochs": 12, "batch_size": 16, "seed": 5}
    candidate = page(materialise(workspace, "baseline_models/bigru", other))
    assert candidate["this version was"] == "trained"
    assert settings_in(candidate["other than the profile"]) == {
        "seed": "5",
        "training.learning_rate": "0.02",
        "training.epochs": "12",
        "training.batch_size": "16",
    }
    assert settings_in(candidate["recipe: training"])["epochs"] == "12"
    board, decision = judge(workspace, "bigru", "second")
    assert board["bigru"] == candidate["version"] != profile["version"]
    assert (decision["action"], decision["model_version"]) == ("promoted", candidate["version"])

    again = page(materialise(workspace, "baseline_models/bigru"))
    assert again["this version was"] == "recalled from the store" and again["version"] == profile["version"]
    board, decision = judge(workspace, "bigru", "third")
    assert board["bigru"] == profile["version"] and decision["model_version"] == candidate["version"]


@pytest.mark.parametrize("profile", ["embedded", "pretrained", "laptop", "paper", str(TINY_PROFILE)])
def test_a_run_without_values_has_the_settings_of_the_profile(profile: str) -> None:
    """The settings as they are written decide recipes: not a key more or less."""
    for name, model in load_settings(profile, environ={}).models.items():
        asked = replace_settings(name, model, models.TrainingConfig().settings())
        assert asked.model_dump_json() == model.model_dump_json(), name


REFUSED = [
    ("baseline_models/tfidf_svm", {"learning_rate": 0.1}, "tfidf_svm: a model of method tfidf_svm has no training."),
    ("baseline_models/bigru", {"lora_rank": 4}, "bigru: a model of method bigru has no lora.rank; leave it empty"),
    ("baseline_models/bert_base", {"lora_dropout": 0.1}, "bert_base: a model of method full has no lora.dropout"),
    ("llama3_lora_model", {"lora_rank": 0}, "llama3_lora_model: lora.rank: input should be greater than or equal to 1"),
    ("llama3_lora_model", {"lora_dropout": 1.0}, "lora.dropout: input should be less than 1 (given: 1.0)"),
    ("baseline_models/bigru", {"learning_rate": 0.0}, "training.learning_rate: input should be greater than 0"),
    ("baseline_models/bigru", {"epochs": 0}, "bigru: training.epochs: input should be greater than or equal to 1"),
    ("baseline_models/bigru", {"batch_size": -1}, "bigru: training.batch_size: input should be greater than or equal"),
    ("baseline_models/tfidf_svm", {"seed": -1}, "tfidf_svm: seed: use 0 to 2147483647 (given: -1)"),
]


@pytest.mark.parametrize(("key", "config", "line"), REFUSED)
def test_a_value_that_the_model_cannot_have_is_refused_in_one_line(key: str, config: Values, line: str) -> None:
    """Before anything is read or trained: this workspace has settings and nothing else."""
    workspace: Any = SimpleNamespace(settings=load_settings(str(TINY_PROFILE), environ={}))
    done = materialise(workspace, key, config)
    (failed,) = done.get_step_failure_events()
    error = failed.step_failure_data.error
    assert error is not None and line in error.message and error.message.strip().count("\n") == 0
    assert not any(event.is_step_up_for_retry for event in done.all_events)
