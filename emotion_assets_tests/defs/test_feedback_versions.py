"""The content versions of feedback and its scores: of the rows, whatever their order and time, and of nothing else."""

from __future__ import annotations

import dagster as dg

from emotion_assets.storage.warehouse.content import feedback_version, scored_version
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.defs.test_ticks import job_of
from emotion_assets_tests.worlds.feedback import drop_csv, run_feedback, train_champion

ROWS = [{"id": "1", "text": "What a lovely morning that was"}, {"id": "2", "text": "I am so angry about the bill"}]


def versions(workspace: Workspace) -> tuple[str, str]:
    with workspace.warehouse.reading() as db:
        return feedback_version(db), scored_version(db)


def test_equal_rows_in_another_order_and_at_another_time_are_equal(make_home) -> None:
    one, two = make_home("one"), make_home("two")
    drop_csv(one, "a.csv", ROWS)
    drop_csv(two, "b.csv", ROWS[::-1])
    run_feedback(one)
    run_feedback(two, now=lambda: 2_000_000_000.0)
    assert versions(one) == versions(two)


def test_a_row_more_is_another_version_and_no_news_is_the_same(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS[:1])
    run_feedback(workspace)
    before = versions(workspace)
    run_feedback(workspace)
    assert versions(workspace) == before
    drop_csv(workspace, "b.csv", ROWS)
    run_feedback(workspace)
    after = versions(workspace)
    assert after[0] != before[0] and after[1] != before[1]


def test_a_new_champion_is_another_version_of_the_scores_and_not_of_feedback(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS)
    run_feedback(workspace)
    before = versions(workspace)
    train_champion(workspace, c=0.3)
    run_feedback(workspace)
    after = versions(workspace)
    assert after[0] == before[0] and after[1] != before[1]


def test_the_assets_carry_these_versions(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", ROWS)
    result = job_of(workspace).execute_in_process()
    found = {e.asset_key.path[-1]: e.materialization.tags for e in result.get_asset_materialization_events()}
    noted = {name: (tags or {})["dagster/data_version"] for name, tags in found.items()}
    assert (noted["feedback"], noted["scored_feedback"]) == versions(workspace)
    assert dg.DataVersion(noted["feedback_report"]).value
