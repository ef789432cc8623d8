"""What a model's page says of its training, and what the launchpad may ask of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from emotion_assets.defs import models
from emotion_assets.jobs.process import TrainingJob, run_job
from emotion_assets.profiles.reader import load_settings
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

    def train_here(context: Any, job: TrainingJob, devices: int) -> dict[str, Any]:
        return run_job(job, lambda line: None)

    def save_and_stop(self: Trainer[Any], state: resume.ResumeState) -> None:
        save(self, state)
        monkeypatch.setattr(Trainer, "save", save)
        raise RuntimeError("the power went")

    save = Trainer.save
    monkeypatch.setattr(resume, "MIN_SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(resume, "MAX_SHARE_OF_TIME", 1e9)
    monkeypatch.setattr(models, "run_training", train_here)
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
    tables = models._recipe_metadata(models.kind_of(model).used_settings(model), settings.seed, "trained")
    shown = settings_in(tables["recipe: lora"].value) if "recipe: lora" in tables else {}
    assert shown.get("rank") == rank
    assert all(len(table.value) < 1000 for name, table in tables.items() if name.startswith("recipe"))
