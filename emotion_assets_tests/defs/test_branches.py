"""A model that fails costs its own branch: what is healthy is compared, promoted and scores, in the same run."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from emotion_assets.defs.executor import Dependencies
from emotion_assets_tests.conftest import Terminal

PROFILE = """
description: a healthy model beside one whose base is on a Hub that cannot be reached
labels: [joy, anger]
parallel_steps: 2
tokenizers:
  bert: {max_length: 16, source: &away {hub: nobody/nothing, revision: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}
bases:
  away: {tokenizer: bert, source: *away}
models:
  tfidf_svm: {method: tfidf_svm}
  broken: {method: full, base: away}
feedback: {settle_seconds: 0}
"""


def write_dataset(folder: Path) -> Path:
    folder.mkdir()
    words = {"joy": "happy glad smiling", "anger": "furious cross shouting"}
    for split in ("train", "validation", "test"):
        lines = [
            {"text": f"{word} {split} {n}", "label": k} for k, v in words.items() for word in v.split() for n in "12345"
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def broken_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Terminal, str]:
    root = tmp_path_factory.mktemp("branches")
    (root / "mine.yaml").write_text(PROFILE)
    dataset = write_dataset(root / "dataset")
    home = Terminal(root / "home", {"EMOTION_PROFILE": str(root / "mine.yaml"), "EMOTION_DATASET": str(dataset)})
    (home.home / "inbox").mkdir(parents=True)
    (home.home / "inbox" / "a.csv").write_text("text\nso happy and glad\nI am furious\n")
    done = home.materialise()
    assert done.returncode != 0 and "base_models/away" in done.stdout, done.stderr  # a step failed; the run says so
    return home, done.stdout


def test_what_is_healthy_is_compared_promoted_and_scores_in_the_same_run(broken_demo: tuple[Terminal, str]) -> None:
    terminal, said = broken_demo
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        (run,) = instance.get_runs()
        events = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
    assert run.status is dg.DagsterRunStatus.FAILURE
    done = {e.asset_key.to_user_string() for e in events if e.event_type_value == "ASSET_MATERIALIZATION"}
    assert {"evaluation_table", "champion_model", "feedback", "scored_feedback", "feedback_report"} <= done
    failed = {e.step_key for e in events if e.event_type_value == "STEP_FAILURE"}
    assert failed == {"base_models__away", "tokenised_splits__bert"}
    assert not done & {"baseline_models/broken", "predictions/broken"}
    assert "broken is not evaluated: predictions/broken was not materialised yet" in said
    board = terminal.emotion_assets("leaderboard")
    assert board.returncode == 0 and "tfidf_svm" in board.stdout


def test_healthy_predictions_are_checked_in_that_run(broken_demo: tuple[Terminal, str]) -> None:
    terminal, _ = broken_demo
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        (run,) = instance.get_runs()
        checks = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
    checked = {
        (e.asset_check_evaluation_data.asset_key.to_user_string(), e.asset_check_evaluation_data.check_name): (
            e.asset_check_evaluation_data.passed
        )
        for e in checks
        if e.event_type_value == "ASSET_CHECK_EVALUATION"
    }
    assert checked[("predictions/tfidf_svm", "distributions")]
    assert checked[("evaluation_table", "same_rows")]
    assert not checked[("evaluation_table", "every_model")]  # and a person is told which is missing


def test_steps_go_on_only_when_another_of_the_tolerated_succeeded() -> None:
    waits = Dependencies({"predictions__a", "predictions__b", "balance"}, {"predictions__a", "predictions__b"})
    assert waits.issubset({"predictions__a", "predictions__b", "balance"})
    assert waits.intersection({"predictions__a"}) == set()
    assert waits.intersection({"predictions__a", "predictions__b"})
    assert waits.intersection({"balance"}) == {"balance"}
    assert waits.intersection({"balance", "predictions__a"})
    assert Dependencies({"predictions__a"}, {"predictions__a", "predictions__b"}).intersection({"predictions__a"})
