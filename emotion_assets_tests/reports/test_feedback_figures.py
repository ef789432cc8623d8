"""The report's figures: drift that is seen when it is there and not when it is not, changes with their interval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from emotion_assets.reports.drift import Drift, compare_counts, compare_values, share_difference
from emotion_assets.reports.feedback_figures import changes, make_report, unseen_share
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import drop_csv


def test_psi_of_equal_shares_is_zero_and_of_moved_ones_is_the_textbook_sum() -> None:
    psi, divergence, _ = compare_counts([100_000, 300_000], [1_000_000, 3_000_000])
    assert psi == pytest.approx(0, abs=1e-9)
    assert divergence == pytest.approx(0, abs=1e-9)
    psi, divergence, _ = compare_counts([500_000, 500_000], [250_000, 750_000])
    assert psi == pytest.approx(0.25 * np.log(2) + (-0.25) * np.log(2 / 3), rel=1e-4)
    assert 0 < divergence < 1


def test_the_chance_level_of_psi_is_crossed_by_about_five_in_a_hundred_samples_without_drift() -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(size=2000)
    crossed = [psi > chance for psi, _, chance in (compare_values(rng.normal(size=500), reference) for _ in range(600))]
    assert 0.02 < np.mean(crossed) < 0.09


def test_drift_is_called_none_some_strong_or_too_few_rows() -> None:
    def verdict(psi: float | None, chance: float | None = 0.01) -> str:
        return Drift("x", "train", 1, psi, 0.0, chance, "", "").verdict

    assert [verdict(0.05), verdict(0.15), verdict(0.3), verdict(None)] == [
        "none seen",
        "some",
        "strong",
        "too few rows",
    ]
    assert verdict(0.2, chance=0.24) == "none seen"  # no more than chance explains


@pytest.mark.parametrize(("now", "before"), [((30, 100), (20, 100)), ((0, 40), (3, 50)), ((9, 10), (1, 300))])
def test_the_interval_of_a_difference_is_newcombes(now: tuple[int, int], before: tuple[int, int]) -> None:
    difference, low, high = share_difference(*now, *before, 0.95)
    expected = confint_proportions_2indep(*now, *before, method="newcomb", compare="diff", alpha=0.05)
    assert difference == pytest.approx(now[0] / now[1] - before[0] / before[1])
    assert (low, high) == pytest.approx(expected, abs=2e-3)


def test_a_large_change_is_clear_and_a_small_one_is_not() -> None:
    rows = {
        row["emotion"]: row for row in changes({"joy": 300, "anger": 700}, {"joy": 600, "anger": 400}, ["joy", "anger"])
    }
    assert rows["joy"]["is_clear"]
    assert rows["joy"]["difference"] == pytest.approx(-0.3)
    assert not any(row["is_clear"] for row in changes({"joy": 5, "anger": 5}, {"joy": 6, "anger": 4}, ["joy", "anger"]))
    assert changes({}, {"joy": 1}, ["joy"]) == []


def test_unseen_words_are_a_share_of_the_words() -> None:
    assert unseen_share("The cat, the DOG and blorp", {"the", "cat", "dog", "and"}) == pytest.approx(1 / 6)
    assert unseen_share("!!!", set()) == 0


def test_the_last_week_is_counted_back_from_the_newest_row_and_not_from_the_clock(workspace: Workspace) -> None:
    days = ["2020-03-01", *["2020-03-05"] * 3, *["2020-03-16"] * 5]
    rows = [
        {"id": str(i), "text": f"text {i}", "created_at": day, "shop": "a" if i % 2 else "b"}
        for i, day in enumerate(days)
    ]
    drop_csv(workspace, "a.csv", rows)
    world.run_feedback(workspace)
    report = make_report(workspace.settings, workspace.store, workspace.warehouse)
    assert report.last_week["end"] == datetime(2020, 3, 16, tzinfo=UTC)
    assert {(row["n_now"], row["n_before"]) for row in report.changes} == {(5, 3)}
    assert (report.unit, sum(period["n"] for period in report.periods)) == ("day", 9)
    (attribute,) = report.attributes
    assert (attribute["name"], [value["n"] for value in attribute["values"]]) == ("shop", [5, 4])
    assert {drift.verdict for drift in report.drift} == {"too few rows"}


def test_a_date_in_the_future_moves_no_week_and_loses_no_row(workspace: Workspace) -> None:
    days = [*["2020-03-05"] * 3, *["2020-03-16"] * 5, "2206-01-01", "0001-01-01"]
    drop_csv(workspace, "a.csv", [{"id": str(i), "text": f"text {i}", "created_at": d} for i, d in enumerate(days)])
    world.run_feedback(workspace)
    report = make_report(workspace.settings, workspace.store, workspace.warehouse)
    assert report.last_week["end"] == datetime(2020, 3, 16, tzinfo=UTC)
    assert {(row["n_now"], row["n_before"]) for row in report.changes} == {(5, 3)}
    assert (report.unit, report.overview["first"]) == ("day", datetime(2020, 3, 5, tzinfo=UTC))
    assert sum(period["n"] for period in report.periods) == report.overview["rows"] == 10


def test_among_rows_of_today_a_date_in_the_future_counts_when_it_was_received(workspace: Workspace) -> None:
    today = datetime.now(UTC)
    days = [*[today - timedelta(days=9)] * 3, *[today - timedelta(days=2)] * 5, datetime(2206, 1, 1, tzinfo=UTC)]
    rows = [{"text": f"text {i}", "created_at": day.isoformat()} for i, day in enumerate(days)]
    drop_csv(workspace, "a.csv", rows)
    world.run_feedback(workspace)
    report = make_report(workspace.settings, workspace.store, workspace.warehouse)
    assert (report.unit, report.last_week["n"], report.overview["rows"]) == ("day", 5, 9)
    assert report.drift[0].n == 9
    assert max(period["period"] for period in report.periods) <= datetime.now(UTC).date()


@pytest.mark.parametrize("day", ["0001-01-01", "1900-01-01T00:00:00Z", "1970-01-01", "9999-12-31T23:59:59Z"])
def test_rows_that_all_have_an_empty_date_count_when_they_were_received(workspace: Workspace, day: str) -> None:
    drop_csv(workspace, "a.csv", [{"id": str(i), "text": f"text {i}", "created_at": day} for i in range(4)])
    world.run_feedback(workspace)  # the page and the exports
    report = make_report(workspace.settings, workspace.store, workspace.warehouse)
    assert (report.unit, report.last_week["n"], report.overview["rows"]) == ("day", 4, 4)
    assert abs(datetime.now(UTC) - report.last_week["end"]) < timedelta(hours=1)


def test_foreign_texts_drift_and_the_models_own_kind_of_text_does_not(make_home) -> None:
    own, foreign = make_home("own"), make_home("foreign")
    texts = world.sample_texts()
    drop_csv(own, "a.csv", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    drop_csv(foreign, "a.csv", [{"id": str(i), "text": f"zxq{i} wvu rst pqo nml"} for i, _ in enumerate(texts)])
    verdicts = {}
    for workspace in (own, foreign):
        world.run_feedback(workspace)
        report = make_report(workspace.settings, workspace.store, workspace.warehouse)
        verdicts[workspace.settings.home.name] = {drift.what: drift.verdict for drift in report.drift}
    assert verdicts["own"]["length"] == verdicts["own"]["predicted emotions"] == "none seen"
    assert verdicts["foreign"]["unseen words"] == verdicts["foreign"]["length"] == "strong"


def test_a_report_without_any_row_is_made(workspace: Workspace) -> None:
    report = make_report(workspace.settings, workspace.store, workspace.warehouse)
    assert (report.periods, report.changes, report.typical, report.surprising) == ([], [], [], [])
