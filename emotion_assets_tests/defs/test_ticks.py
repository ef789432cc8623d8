"""The schedule and the sensor, tick by tick: duplicate, late, unreadable, empty, none; and the job they start."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import dagster as dg
import pytest

from emotion_assets.defs.automation import feedback_job, inbox_sensor, schedules
from emotion_assets.defs.checks import feedback_checks
from emotion_assets.defs.feedback import feedback_assets
from emotion_assets.reports.pending import record_shown_reviews
from emotion_assets.review.queue import export_review, import_review
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds.feedback import LABELS, drop_csv, drop_jsonl, run_feedback, state

ROWS = [{"id": "1", "text": "What a lovely morning that was"}, {"id": "2", "text": "I am so angry about the bill"}]


def sensor_tick(workspace: Workspace, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(cursor=cursor, resources={"workspace": workspace})
    result = inbox_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def schedule_tick(workspace: Workspace) -> object:
    (schedule,) = schedules(workspace.settings)
    return schedule(dg.build_schedule_context(resources={"workspace": workspace}))


def asked(result: dg.SensorResult) -> list[str | None]:
    return [request.run_key for request in result.run_requests or []]


def skipped(result: object) -> str:
    assert isinstance(result, dg.SkipReason), result
    return str(result.skip_message)


def test_with_no_inbox_both_skip_and_say_why(workspace: Workspace) -> None:
    result = sensor_tick(workspace)
    assert asked(result) == []
    assert "nothing new" in str(result.skip_reason)
    assert "nothing new" in skipped(schedule_tick(workspace))


def test_a_new_file_is_asked_for_once_and_not_again_after_its_run(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS)
    first = sensor_tick(workspace)
    again = sensor_tick(workspace, first.cursor)
    assert len(asked(first)) == 1
    assert asked(again) == asked(first)  # the same key: Dagster starts one run for it
    assert isinstance(schedule_tick(workspace), dg.RunRequest)
    run_feedback(workspace)
    assert asked(sensor_tick(workspace, again.cursor)) == []
    assert "nothing new" in skipped(schedule_tick(workspace))


def test_a_duplicate_under_another_name_starts_nothing(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS)
    run_feedback(workspace)
    drop_csv(workspace, "b.csv", ROWS)
    assert asked(sensor_tick(workspace)) == []
    assert "nothing new" in skipped(schedule_tick(workspace))


def test_the_same_name_with_new_bytes_is_a_new_file(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS)
    first = sensor_tick(workspace)
    run_feedback(workspace)
    drop_csv(workspace, "a.csv", [*ROWS, {"id": "3", "text": "and one more, with love"}])
    second = sensor_tick(workspace, first.cursor)
    assert len(asked(second)) == 1
    assert asked(second) != asked(first)


def test_a_late_file_waits_for_the_tick_after_it_has_settled(make_home, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_home(settle_seconds=30)
    path = drop_csv(workspace, "a.csv", ROWS)
    result = sensor_tick(workspace)
    assert asked(result) == []
    assert "1 left alone" in str(result.skip_reason)
    monkeypatch.setattr("emotion_assets.defs.automation.time.time", lambda: path.stat().st_ctime + 60)
    assert len(asked(sensor_tick(workspace, result.cursor))) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_left_alone(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS).chmod(0)
    assert asked(sensor_tick(workspace)) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00 not text", b"id,message\n1,hello\n"])
def test_an_empty_or_unreadable_file_is_quarantined_by_one_run_and_then_rests(
    workspace: Workspace, content: bytes
) -> None:
    workspace.settings.inbox.mkdir()
    (workspace.settings.inbox / "bad.csv").write_bytes(content)
    assert len(asked(sensor_tick(workspace))) == 1
    run_feedback(workspace)
    (file,) = state(workspace)["ingested_files"]
    assert file["status"] == "quarantined"
    assert file["reason"]
    assert asked(sensor_tick(workspace)) == []


def label(workspace: Workspace, path: Path, emotion: str) -> None:
    """Every text of the queue as a person would label it."""
    if not path.exists():
        export_review(workspace.warehouse, path, LABELS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line | {"label": emotion, "reviewer": "Anna"} for line in csv.DictReader(file)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    assert import_review(workspace.warehouse, path, LABELS).labelled_texts > 0


def page(workspace: Workspace) -> str:
    return (workspace.settings.reports / "feedback.html").read_text(encoding="utf-8")


def test_imported_labels_are_work_for_one_tick(make_home, tmp_path: Path) -> None:
    workspace = make_home(audit_share=1)
    drop_csv(workspace, "a.csv", ROWS)
    job = job_of(workspace)
    assert job.execute_in_process().success
    assert "No row has been reviewed yet" in page(workspace)
    assert "nothing new" in skipped(schedule_tick(workspace))
    for emotion in ("joy", "anger"):  # a first label, and another one in its place
        label(workspace, tmp_path / "review.csv", emotion)
        assert asked(sensor_tick(workspace)) == []  # the inbox has nothing
        assert isinstance(schedule_tick(workspace), dg.RunRequest)
        assert job.execute_in_process().success
        assert "reviewed by a person" in page(workspace)
        assert "nothing new" in skipped(schedule_tick(workspace))
        label(workspace, tmp_path / "review.csv", emotion)  # the same label again
        assert "nothing new" in skipped(schedule_tick(workspace))


def test_labels_that_come_while_the_page_is_written_wait_for_the_next_tick(make_home, tmp_path: Path) -> None:
    workspace = make_home(audit_share=1)
    drop_csv(workspace, "a.csv", ROWS)
    run_feedback(workspace)
    with record_shown_reviews(workspace.settings, workspace.warehouse):
        label(workspace, tmp_path / "review.csv", "joy")
    assert isinstance(schedule_tick(workspace), dg.RunRequest)
    with pytest.raises(ZeroDivisionError), record_shown_reviews(workspace.settings, workspace.warehouse):
        raise ZeroDivisionError  # a page that was not written shows nothing
    assert isinstance(schedule_tick(workspace), dg.RunRequest)
    run_feedback(workspace)
    assert "nothing new" in skipped(schedule_tick(workspace))


def test_labels_without_a_champion_start_no_run_that_must_fail(make_home, tmp_path: Path) -> None:
    workspace = make_home(audit_share=1)
    drop_csv(workspace, "a.csv", ROWS)
    run_feedback(workspace)
    label(workspace, tmp_path / "review.csv", "joy")
    (workspace.settings.store_dir / "pointers" / "champion_model.json").unlink()
    assert "no champion_model yet" in skipped(schedule_tick(workspace))


def test_a_damaged_database_skips_with_the_line_that_names_the_fix(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS)
    run_feedback(workspace)
    workspace.settings.database.write_bytes(b"")
    assert "doctor --rebuild" in skipped(schedule_tick(workspace))


def test_a_tick_while_a_run_has_the_database_skips_and_says_so(workspace: Workspace, monkeypatch) -> None:
    monkeypatch.setattr("emotion_assets.reports.pending.TICK_WAIT_SECONDS", 0.1)
    drop_csv(workspace, "a.csv", ROWS)
    with workspace.warehouse.writing():
        assert "another run has been using it" in skipped(schedule_tick(workspace))
    assert isinstance(schedule_tick(workspace), dg.RunRequest)


def test_the_schedule_and_the_sensor_run_by_default(workspace: Workspace) -> None:
    (schedule,) = schedules(workspace.settings)
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert inbox_sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert schedule.cron_schedule == workspace.settings.feedback.cron


def job_of(workspace: Workspace) -> dg.JobDefinition:
    definitions = dg.Definitions(
        assets=[*feedback_assets(workspace.settings), dg.AssetSpec("champion_model")],
        asset_checks=[feedback_checks],
        jobs=[feedback_job],
        resources={"workspace": workspace},
    )
    return definitions.resolve_job_def("feedback_job")


def test_the_job_ingests_scores_and_reports_and_a_second_run_adds_nothing(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS)
    drop_jsonl(workspace, "b.jsonl", [{"text": "What a lovely morning that was"}, {"text": ""}])
    job = job_of(workspace)
    first = job.execute_in_process()
    before = state(workspace)
    assert len(before["scored_feedback"]) == 3
    (event,) = [e for e in first.get_asset_materialization_events() if e.asset_key == dg.AssetKey("scored_feedback")]
    metadata = event.materialization.metadata
    assert metadata["dagster/row_count"].value == 3
    assert metadata["texts computed"].value == 2  # identical texts are computed once
    assert Path(workspace.settings.reports / "feedback.html").is_file()
    assert job.execute_in_process().success
    assert state(workspace) == before


def test_a_step_that_a_user_can_fix_fails_with_one_line(make_home, tmp_path: Path) -> None:
    workspace = make_home()
    (workspace.settings.store_dir / "pointers" / "champion_model.json").unlink()
    drop_csv(workspace, "a.csv", ROWS)
    result = job_of(workspace).execute_in_process(raise_on_error=False)
    assert not result.success
    (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    assert failure.user_failure_data is not None
    assert "champion_model was not materialised yet" in str(failure.user_failure_data.description)


def test_the_words_of_both_count_quarantined_files_as_such(workspace: Workspace) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        drop_csv(workspace, name, [{"id": f"{name} {row['id']}", "text": row["text"]} for row in ROWS])
    (workspace.settings.inbox / "play.csv").write_bytes("text,sp\u00e9cial\nhello,1\n".encode("latin-1"))
    run_feedback(workspace)
    said = "3 files are ingested, 1 quarantined (play.csv: wrong_encoding), 0 left alone"
    assert said in str(sensor_tick(workspace).skip_reason)
    assert said in skipped(schedule_tick(workspace))


def test_of_many_quarantined_files_some_are_named(workspace: Workspace) -> None:
    workspace.settings.inbox.mkdir()
    for number in range(7):
        (workspace.settings.inbox / f"{number}.csv").write_text(f"id,message\n{number},hello\n")
    run_feedback(workspace)
    said = str(sensor_tick(workspace).skip_reason)
    assert "0 files are ingested, 7 quarantined (0.csv: missing_text_column, " in said
    assert said.count(".csv") == 5
    assert ", and 2 more), 0 left alone" in said
