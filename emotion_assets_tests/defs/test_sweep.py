"""The job ``sweep``: mean and spread over seeds and learning rates, and nothing else that changes."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import psutil
import pytest
from sklearn.metrics import accuracy_score, f1_score

from emotion_assets.dataset.splits import read_split
from emotion_assets.defs import run_end, sweep
from emotion_assets.defs.build import build_defs
from emotion_assets.evaluation.champion import ChampionRequest, choose_champion
from emotion_assets.evaluation.evaluate import evaluate_all
from emotion_assets.evaluation.trials import Trial, TrialResult, plan_trials, summarise
from emotion_assets.models.registry import load_scorer
from emotion_assets.profiles.reader import load_settings
from emotion_assets.storage.keys import RAW_DATASET
from emotion_assets.storage.store import StoredFolder
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import TINY_PROFILE
from emotion_assets_tests.defs.test_recipes import materialise, page
from emotion_assets_tests.worlds import feedback as world

Values = Mapping[str, Any]
FIGURES = ("validation accuracy", "validation macro F1", "test accuracy", "test macro F1")
ASKED = {"models": ["bigru"], "seeds": [17, 18, 19], "learning_rates": [5e-3, 2e-2]}


@dataclass(frozen=True)
class Run:
    done: dg.ExecuteInProcessResult
    lines: list[str]

    @property
    def shown(self) -> dict[str, Any]:
        """The metadata of what the run reported on its asset."""
        (event,) = self.done.get_asset_materialization_events()
        assert event.asset_key == dg.AssetKey("sweep")
        return {name: value.value for name, value in event.materialization.metadata.items()}

    def records(self, name: str) -> list[Values]:
        return [record.data for record in self.table(name).records]

    def table(self, name: str) -> dg.TableMetadataValue:
        (event,) = self.done.get_asset_materialization_events()
        value = event.materialization.metadata[name]
        assert isinstance(value, dg.TableMetadataValue)
        return value

    @property
    def failure(self) -> str:
        (event,) = self.done.get_step_failure_events()
        data = event.step_failure_data.user_failure_data
        assert data is not None and data.description is not None
        return data.description


def job_of(workspace: Any) -> dg.JobDefinition:
    job = sweep.sweep_job(workspace.settings)
    return dg.Definitions(jobs=[job], resources={"workspace": workspace}).resolve_job_def("sweep")


def run_sweep(workspace: Any, config: Values, instance: dg.DagsterInstance | None = None) -> Run:
    with instance or dg.DagsterInstance.ephemeral() as history:
        done = job_of(workspace).execute_in_process(
            run_config={"ops": {"trials": {"config": dict(config)}}}, instance=history, raise_on_error=False
        )
        return Run(done, [entry.user_message for entry in history.all_logs(done.run_id)])


def published(workspace: Workspace) -> dict[str, Any]:
    """All that must stay: pointers, predictions, and every table with the leaderboard and the champion's decisions."""
    store = workspace.settings.store_dir
    pointers = {file.name: file.read_bytes() for file in (store / "pointers").iterdir()}
    return {
        "pointers": pointers,
        "predictions": sorted(path.name for path in (store / "predictions").iterdir()),
        "tables": world.state(workspace),
    }


@dataclass(frozen=True)
class Swept:
    workspace: Workspace
    run: Run
    before: dict[str, Any]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A home with an evaluated champion, in which six trials were trained."""
    workspace = world.make_workspace(tmp_path_factory.mktemp("sweep") / "home", train_rows=200)
    settings, store, warehouse = workspace.settings, workspace.store, workspace.warehouse
    evaluate_all(settings, store, warehouse, "before", datetime.now(UTC))
    choose_champion(settings, store, warehouse, ChampionRequest(), "before", datetime.now(UTC))
    before = published(workspace)
    assert before["tables"]["evaluation"] and before["tables"]["champion_decisions"]
    return Swept(workspace, run_sweep(workspace, ASKED), before)


@pytest.fixture
def copied(swept: Swept, tmp_path: Path) -> Workspace:
    """A copy of that home."""
    shutil.copytree(swept.workspace.settings.home, tmp_path / "home")
    return Workspace(world.settings(tmp_path / "home"))


def test_an_interrupted_training_of_the_model_keeps_its_resume_state(copied: Workspace) -> None:
    state = copied.checkpoints / "baseline_models__bigru" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"of another training")
    assert run_sweep(copied, {"models": ["bigru"], "seeds": [23]}).done.success
    assert state.read_bytes() == b"of another training"


def test_every_model_rate_and_seed_is_a_row_with_its_version(swept: Swept) -> None:
    assert swept.run.done.success
    rows = swept.run.records("trials")
    assert [(row["learning rate"], row["seed"]) for row in rows] == [(r, s) for r in (5e-3, 2e-2) for s in (17, 18, 19)]
    assert {row["model"] for row in rows} == {"bigru"} and {row["this version was"] for row in rows} == {"trained"}
    assert len({row["version"] for row in rows}) == 6
    assert (swept.run.shown["trials trained"], swept.run.shown["trials recalled"]) == (6, 0)


def test_mean_and_spread_are_those_of_the_rows(swept: Swept) -> None:
    means = swept.run.records("means")
    assert {row["learning rate"] for row in means} == {5e-3, 2e-2}
    for row in means:
        trials = [t for t in swept.run.records("trials") if t["learning rate"] == row["learning rate"]]
        assert row["seeds"] == len(trials) == 3
        for figure in FIGURES:
            a, b, c = (trial[figure] for trial in trials)
            mean = (a + b + c) / 3
            spread = math.sqrt(((a - mean) ** 2 + (b - mean) ** 2 + (c - mean) ** 2) / 2)
            assert row[figure] == pytest.approx(mean)
            assert row[f"{figure} ±"] == pytest.approx(spread, abs=1e-12)
            assert f"{mean:.3f} ± {spread:.3f}" in swept.run.shown["mean ± standard deviation"]
    assert any(row["validation accuracy ±"] > 0 for row in means)
    best = max(row["validation accuracy"] for row in means)
    assert means[0]["validation accuracy"] == best
    assert swept.run.shown["best mean validation accuracy"] == best
    assert swept.run.shown["mean validation accuracy of bigru"] == best
    assert swept.run.shown["best"] == f"bigru, learning rate {means[0]['learning rate']:g}"


def test_figures_are_those_of_the_stored_model(swept: Swept) -> None:
    store = swept.workspace.store
    dataset = store.current(RAW_DATASET)
    row = swept.run.records("trials")[-1]
    (path,) = (store.root / "models").glob(f"{row['version']}*")
    scorer = load_scorer(StoredFolder(path, ""), store)
    for split in ("validation", "test"):
        frame = read_split(dataset, split)
        said = [scorer.labels[i] for i in scorer.score(frame["text"].tolist()).argmax(1)]
        assert row[f"{split} accuracy"] == pytest.approx(accuracy_score(frame["label"], said))
        macro = f1_score(frame["label"], said, average="macro", labels=scorer.labels, zero_division=0)
        assert row[f"{split} macro F1"] == pytest.approx(macro)


def test_no_pointer_leaderboard_or_champion_changes(swept: Swept) -> None:
    assert published(swept.workspace) == swept.before
    assert not [path for path in swept.workspace.checkpoints.rglob("*") if path.suffix != ".lock"]


def test_each_trial_has_one_line_that_counts(swept: Swept) -> None:
    counted = [line for line in swept.run.lines if line.startswith("trial ")]
    assert counted[0] == "trial 1/6: bigru, learning rate 0.005, seed 17"
    assert counted[5] == "trial 6/6: bigru, learning rate 0.02, seed 19"
    assert len(counted) == 6


def test_a_second_sweep_recalls_every_trial_and_starts_no_training(swept: Swept) -> None:
    again = run_sweep(swept.workspace, ASKED)
    assert any("[pipes] external process" in line for line in swept.run.lines)
    assert not any("[pipes] external process" in line for line in again.lines)
    assert (again.shown["trials trained"], again.shown["trials recalled"]) == (0, 6)
    drop = "this version was"
    rows = [{k: v for k, v in row.items() if k != drop} for row in again.records("trials")]
    assert rows == [{k: v for k, v in row.items() if k != drop} for row in swept.run.records("trials")]
    assert again.records("means") == swept.run.records("means")


def test_the_asset_recalls_what_a_trial_trained(swept: Swept, copied: Workspace) -> None:
    trial = swept.run.records("trials")[0]
    shown = page(materialise(copied, "baseline_models/bigru"))
    assert shown["this version was"] == "recalled from the store"
    assert shown["version"] == trial["version"]


def test_a_trial_recalls_what_the_asset_trained(copied: Workspace) -> None:
    shown = page(materialise(copied, "baseline_models/bigru", {"seed": 5}))
    assert shown["this version was"] == "trained"
    (row,) = run_sweep(copied, {"models": ["bigru"], "seeds": [5]}).records("trials")
    assert (row["version"], row["this version was"]) == (shown["version"], "recalled from the store")


def test_a_trial_that_fails_costs_itself_alone_and_is_named_at_the_end(copied: Workspace) -> None:
    """At such a rate the weights are no numbers any more."""
    run = run_sweep(copied, {"models": ["bigru"], "seeds": [17, 18], "learning_rates": [1e308, 5e-3]})
    assert not run.done.success
    assert [(row["learning rate"], row["seed"]) for row in run.records("trials")] == [(5e-3, 17), (5e-3, 18)]
    assert run.failure.startswith("2 of 4 trials failed (bigru, learning rate 1e+308, seed 17: ")
    assert "; bigru, learning rate 1e+308, seed 18: " in run.failure
    assert run.failure.count("\n") == 0 and "run the job again" in run.failure
    assert sum(line.startswith("bigru, learning rate 1e+308, seed 17 failed: ") for line in run.lines) == 1
    assert not any(event.is_step_up_for_retry for event in run.done.all_events)


def test_a_sweep_of_which_all_trials_fail_reports_nothing(copied: Workspace) -> None:
    run = run_sweep(copied, {"models": ["bigru"], "seeds": [17], "learning_rates": [1e308]})
    assert not run.done.success and run.failure.startswith("1 of 1 trials failed")
    assert run.done.get_asset_materialization_events() == []


def test_an_input_that_is_missing_is_named_before_anything_is_trained(copied: Workspace) -> None:
    run = run_sweep(copied, {"models": ["bigru", "student"], "seeds": [99]})
    assert run.failure.startswith("student: baseline_models/bert_base was not materialised yet")
    assert not any("trial 1/" in line for line in run.lines)


def trainings() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [p for p in children if p.is_running() and "emotion_assets.jobs.process" in " ".join(p.cmdline())]


def test_a_run_that_ends_takes_its_training_along_and_starts_no_other(
    copied: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_end, "STATUS_SECONDS", 0.1)
    model = copied.settings.models["bigru"]
    training = model.training.model_copy(update={"epochs": 1_000_000})  # type: ignore[attr-defined]
    endless = {"bigru": model.model_copy(update={"training": training})}
    workspace = Workspace(copied.settings.model_copy(update={"models": endless}))

    def end_run(history: dg.DagsterInstance) -> None:
        for _ in range(600):
            if trainings():
                history.report_run_failed(history.get_runs(limit=1)[0], "from outside")
                return
            time.sleep(0.1)

    with dg.DagsterInstance.ephemeral() as history:
        ends = threading.Thread(target=end_run, args=(history,))
        ends.start()
        run = run_sweep(workspace, {"seeds": [17, 18]}, history)
        ends.join()
    assert run.failure.endswith("is over, and so is this step")
    assert trainings() == []
    assert run.done.get_asset_materialization_events() == []
    assert [line for line in run.lines if line.startswith("trial ")] == [
        "trial 1/2: bigru, learning rate 0.005, seed 17"
    ]


REFUSED = [
    ({"models": ["bigruu"]}, "models: 'bigruu' is not in the profile; it has llama3_lora_model, bert_base, tfidf_svm,"),
    ({"models": ["bigru", "bigru"]}, "models: bigru is there twice; name it once"),
    ({"models": ["bigru"], "seeds": [17, -1]}, "seeds: use 0 to 2147483647 (given: -1)"),
    ({"models": ["bigru"], "seeds": [2**31]}, "seeds: use 0 to 2147483647 (given: 2147483648)"),
    ({"models": ["bigru"], "seeds": [3, 3]}, "seeds: 3 is there twice; name it once"),
    ({"models": ["bigru"], "learning_rates": [0.0]}, "bigru: training.learning_rate: input should be greater than 0"),
    ({"models": ["bigru"], "learning_rates": [0.1, -0.1]}, "should be greater than 0 (given: -0.1)"),
    ({"models": ["bigru"], "learning_rates": [0.1, 0.1]}, "learning_rates: 0.1 is there twice; name it once"),
    (
        {"models": ["bigru", "tfidf_svm"], "learning_rates": [0.1]},
        "learning_rates: tfidf_svm takes none; take it out of models, or leave learning_rates empty",
    ),
]


@pytest.mark.parametrize(("config", "line"), REFUSED)
def test_a_config_that_cannot_be_is_refused_in_one_line(config: Values, line: str) -> None:
    """Before anything is read or trained: this workspace has settings and nothing else."""
    run = run_sweep(SimpleNamespace(settings=load_settings(str(TINY_PROFILE), environ={})), config)
    assert line in run.failure and run.failure.count("\n") == 0
    assert not any(event.is_step_up_for_retry for event in run.done.all_events)


def test_unless_told_it_is_every_model_with_a_learning_rate_and_three_seeds() -> None:
    settings = load_settings(str(TINY_PROFILE), environ={})
    planned = plan_trials(settings, [], [], [])
    models = ["llama3_lora_model", "bert_base", "student", "bigru"]
    assert [(trial.model, trial.seed) for trial in planned] == [(m, s) for m in models for s in (17, 18, 19)]
    assert all(trial.settings == settings.models[trial.model] for trial in planned)
    fields = sweep.sweep_job(settings).run_config["ops"]["trials"]["config"]  # type: ignore[index]
    assert fields == {"models": models, "seeds": [17, 18, 19], "learning_rates": []}


def test_a_model_without_a_learning_rate_can_be_swept_over_seeds() -> None:
    settings = load_settings(str(TINY_PROFILE), environ={})
    (trial,) = plan_trials(settings, ["tfidf_svm"], [3], [])
    assert (str(trial), trial.learning_rate) == ("tfidf_svm, seed 3", None)


def results(models: int, seeds: int) -> list[TrialResult]:
    settings = load_settings(str(TINY_PROFILE), environ={}).models["tfidf_svm"]
    trials = [Trial(f"model_number_{n}", settings, seed) for n in range(models) for seed in range(seeds)]
    return [
        TrialResult(t, "0123456789ab", "trained", dict.fromkeys(FIGURES, 0.5 + i / 1000)) for i, t in enumerate(trials)
    ]


def test_one_seed_has_no_spread() -> None:
    (summary,) = summarise(results(models=1, seeds=1))
    assert summary.spreads["test accuracy"].deviation is None
    assert str(summary.spreads["test accuracy"]) == "0.500"


def test_many_trials_are_shown_whole_and_the_best_of_them_in_their_place() -> None:
    shown = sweep._materialization(results(models=30, seeds=2)).metadata
    table = shown["mean ± standard deviation"]
    assert len(str(table.value)) < 1000 and "more" in str(table.value)
    assert str(table.value).splitlines()[2].startswith("| model_number_29 |")
    whole, means = shown["trials"], shown["means"]
    assert isinstance(whole, dg.TableMetadataValue) and isinstance(means, dg.TableMetadataValue)
    assert (len(whole.records), len(means.records)) == (60, 30)
    for value in (whole, means):
        assert [column.name for column in value.schema.columns] == list(value.records[0].data)
        assert all(column.description for column in value.schema.columns)


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_defs({"home": tmp_path_factory.mktemp("home")})


def test_every_field_of_its_config_is_described(definitions: dg.Definitions) -> None:
    (step,) = definitions.resolve_job_def("sweep").nodes
    fields = step.definition.config_schema.config_type.fields  # type: ignore[attr-defined]
    assert set(fields) == {"models", "seeds", "learning_rates"}
    assert [name for name, field in fields.items() if not field.description] == []


def test_the_job_waits_for_a_slot_of_those_that_load_a_model(definitions: dg.Definitions) -> None:
    (step,) = definitions.resolve_job_def("sweep").nodes
    assert step.definition.pools == {"gpu"}


def test_materialise_all_does_not_start_it(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    node = graph.get(dg.AssetKey("sweep"))
    assert not node.is_executable and node.group_name == "evaluation"
    everything = definitions.resolve_implicit_global_asset_job_def()
    assert dg.AssetKey("champion_model") in everything.asset_layer.executable_asset_keys
    assert dg.AssetKey("sweep") not in everything.asset_layer.executable_asset_keys
