"""The checks of feedback: green on a healthy home and on a quiet inbox, a warning for each thing that goes wrong."""

from __future__ import annotations

import time

import dagster as dg
import pytest

from emotion_assets.defs import checks
from emotion_assets.defs.backlog import backlog_sensor
from emotion_assets.ingest.ledger import ingest
from emotion_assets.storage.warehouse.database import count
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds.feedback import drop_csv, run_feedback, sample_texts

HOURS = 3600.0


def outcomes(workspace: Workspace, *names: str) -> dict[str, tuple[bool, str]]:
    """Passed and severity of each check, run by itself as the button of the UI runs it."""
    keys = [key for key in checks.feedback_checks.check_keys if not names or key.name in names]
    job = dg.define_asset_job("checks_alone", dg.AssetSelection.checks(*keys))
    definitions = dg.Definitions(
        assets=[dg.AssetSpec("feedback"), dg.AssetSpec("scored_feedback")],
        asset_checks=[checks.feedback_checks],
        jobs=[job],
        resources={"workspace": workspace},
    )
    done = definitions.resolve_job_def("checks_alone").execute_in_process()
    return {e.check_name: (e.passed, e.severity.value) for e in done.get_asset_check_evaluations()}


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    moment = time.time() + hours * HOURS
    monkeypatch.setattr(checks.time, "time", lambda: moment)


def drop(workspace: Workspace, texts: list[str], name: str = "a.csv") -> None:
    drop_csv(workspace, name, [{"id": f"{name}-{i}", "text": text} for i, text in enumerate(texts)])


def test_a_healthy_home_passes_and_a_quiet_inbox_stays_green(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(workspace, sample_texts()[:300])
    run_feedback(workspace)
    passed = dict.fromkeys(("few_rejects", "no_backlog", "few_abstentions", "no_drift"), (True, "WARN"))
    assert outcomes(workspace) == passed
    later(monkeypatch, 24 * 30)
    assert outcomes(workspace, "no_backlog") == {"no_backlog": (True, "WARN")}


def test_a_source_whose_rows_are_rejected_warns(workspace: Workspace) -> None:
    texts = sample_texts()[:40]
    drop(workspace, [*texts[:38], "", ""])
    run_feedback(workspace)
    assert outcomes(workspace, "few_rejects") == {"few_rejects": (True, "WARN")}
    drop(workspace, [*texts[:30], *[""] * 10], "shop/b.csv")
    run_feedback(workspace)
    assert outcomes(workspace, "few_rejects") == {"few_rejects": (False, "WARN")}


def test_a_file_that_nobody_reads_for_two_hours_warns(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(workspace, sample_texts()[:10])
    assert outcomes(workspace, "no_backlog") == {"no_backlog": (True, "WARN")}
    later(monkeypatch, 2.1)
    assert outcomes(workspace, "no_backlog") == {"no_backlog": (False, "WARN")}


def test_rows_that_nothing_scores_for_two_hours_warn(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(workspace, sample_texts()[:10])
    ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")
    assert outcomes(workspace, "no_backlog") == {"no_backlog": (True, "WARN")}
    later(monkeypatch, 2.1)
    assert outcomes(workspace, "no_backlog") == {"no_backlog": (False, "WARN")}


def test_texts_of_another_world_warn_of_abstentions_and_drift(workspace: Workspace) -> None:
    drop(workspace, [f"zq{i} xk{i} vv{i}" for i in range(300)])
    run_feedback(workspace)
    assert outcomes(workspace, "few_abstentions", "no_drift") == {
        "few_abstentions": (False, "WARN"),
        "no_drift": (False, "WARN"),
    }


def test_a_few_rows_tell_nothing_of_abstentions_and_drift(workspace: Workspace) -> None:
    drop(workspace, [f"zq{i} xk{i} vv{i}" for i in range(20)])
    run_feedback(workspace)
    with workspace.warehouse.reading() as db:
        assert count(db, "SELECT count(*) FROM scored_feedback") == 20
    passed = {"few_abstentions": (True, "WARN"), "no_drift": (True, "WARN")}
    assert outcomes(workspace, "few_abstentions", "no_drift") == passed


def test_the_sensor_reports_a_backlog_once_and_that_it_is_gone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor: str | None = None
    instance = dg.DagsterInstance.ephemeral()

    def tick() -> list[bool]:
        nonlocal cursor
        result = backlog_sensor(dg.build_sensor_context(cursor=cursor, resources={"workspace": workspace}))
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor
        found = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
        for event in found:
            instance.report_runless_asset_event(event)  # as the daemon does
        return [event.passed for event in found]

    def shown() -> bool | None:
        key = dg.AssetCheckKey(dg.AssetKey("scored_feedback"), "no_backlog")
        record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
        evaluation = record and record.event and record.event.asset_check_evaluation
        return evaluation.passed if evaluation else None

    assert tick() == []
    drop(workspace, sample_texts()[:10])
    assert tick() == []
    later(monkeypatch, 2.1)
    assert [tick(), tick()] == [[False], []]
    assert shown() is False, "the page of the asset"
    run_feedback(workspace)
    assert [tick(), tick()] == [[True], []]
    assert shown() is True


def test_a_defect_in_a_check_tells_dagster_nothing_of_a_text(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*arguments: object) -> None:
        raise ValueError("zyzzyva")

    monkeypatch.setattr("emotion_assets.reports.problems.feedback_problems", stumble)
    definitions = dg.Definitions(
        assets=[dg.AssetSpec("feedback"), dg.AssetSpec("scored_feedback")],
        asset_checks=[checks.feedback_checks],
        jobs=[dg.define_asset_job("checks_alone", dg.AssetSelection.all_asset_checks())],
        resources={"workspace": workspace},
    )
    done = definitions.resolve_job_def("checks_alone").execute_in_process(raise_on_error=False)
    (failed,) = done.get_step_failure_events()
    assert "zyzzyva" not in str(failed.event_specific_data) and "ValueError" in str(failed.event_specific_data)
