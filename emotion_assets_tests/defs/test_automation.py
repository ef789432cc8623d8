"""What runs by itself and what does not, asked of Dagster's own evaluation of the conditions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from emotion_assets.defs.automation import schedules
from emotion_assets.defs.build import build_defs
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.errors import SettingsError

TAG = "dagster/data_version"


def made_of(dep: str, version: str) -> dict[str, str]:
    """What a materialisation notes of an input."""
    return {f"dagster/input_data_version/{dep}": version, f"dagster/input_event_pointer/{dep}": "NULL"}


class Location:
    """The graph with an instance in which assets are reported as materialised with a data version."""

    def __init__(self, instance: dg.DagsterInstance, home: Path) -> None:
        self.instance, self.home, self.cursor = instance, home, None
        self.defs = build_defs({"home": home})

    def report(self, *keys: str, version: str = "1") -> None:
        """As materialised of the present versions of its inputs by the present code."""
        graph = self.defs.resolve_asset_graph()
        for key in keys:
            node = graph.get(dg.AssetKey(key.split("/")))
            tags = {TAG: version, "dagster/code_version": str(node.code_version)}
            for dep in node.parent_keys:
                tags |= made_of(dep.to_user_string(), self.version(dep))
            self.instance.report_runless_asset_event(dg.AssetMaterialization(node.key, tags=tags))

    def version(self, key: dg.AssetKey) -> str:
        event = self.instance.get_latest_materialization_event(key)
        if event is None or event.asset_materialization is None:
            return "INITIAL"
        return (event.asset_materialization.tags or {})[TAG]

    @contextmanager
    def running(self, *keys: str, fails: bool = True) -> Iterator[None]:
        """A run of these assets that is under way in the block, and then fails or is cancelled."""
        job = self.defs.resolve_implicit_global_asset_job_def()
        selection = {dg.AssetKey(key.split("/")) for key in keys}
        run = self.instance.create_run_for_job(job, asset_selection=frozenset(selection))
        self.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", job.name), run.run_id)
        yield
        if fails:
            self.instance.report_run_failed(run)
        else:
            self.instance.report_run_canceled(run)

    def report_checks(self, asset: str, passed: bool = True) -> None:
        for check in self.defs.resolve_asset_graph().asset_check_keys:
            if check.asset_key.to_user_string() == asset:
                self.instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(check.asset_key, check.name, passed=passed, metadata={})
                )

    def requested(self) -> set[str]:
        result = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        keys = self.defs.resolve_all_asset_keys()
        return {key.to_user_string() for key in keys if result.get_num_requested(key)}

    def all_keys(self) -> list[str]:
        """Inputs first."""
        graph = self.defs.resolve_asset_graph()
        return [key.to_user_string() for key in graph.toposorted_asset_keys if key in graph.materializable_asset_keys]


@pytest.fixture
def location(tmp_path: Path) -> Iterator[Location]:
    with dg.DagsterInstance.ephemeral() as instance:
        location = Location(instance, tmp_path)
        for key in location.all_keys():
            location.report(key)
            location.report_checks(key)
        assert location.requested() == set()
        yield location


def test_nothing_runs_while_nothing_changes(location: Location) -> None:
    assert location.requested() == set()
    location.report("raw_emotion_dataset", version="1")  # materialised again, the same content
    location.report_checks("raw_emotion_dataset")
    assert location.requested() == set()


def test_a_new_dataset_starts_analysis_tokens_and_predictions_but_no_training(location: Location) -> None:
    location.report("raw_emotion_dataset", version="2")
    location.report_checks("raw_emotion_dataset")
    wanted = location.requested()
    assert {"class_balance_report", "tokenised_splits/llama", "tokenised_splits/bert", "predictions/bigru"} <= wanted
    assert not [key for key in wanted if key.startswith(("base_models/", "baseline_models/", "llama3_lora_model"))]


def test_a_dataset_that_a_blocking_check_refused_is_waited_for(location: Location) -> None:
    location.report("raw_emotion_dataset", version="2")
    location.report_checks("raw_emotion_dataset", passed=False)
    assert location.requested() == set()
    location.report("raw_emotion_dataset", version="3")
    location.report_checks("raw_emotion_dataset")
    assert "class_balance_report" in location.requested()


FOLLOWERS = {"predictions/bigru", "evaluation_table", "champion_model"}


def materialise(location: Location, *keys: str, version: str) -> None:
    for key in keys:
        location.report(key, version=version)
        location.report_checks(key)


def test_a_retrained_model_starts_its_own_predictions_evaluation_and_champion_in_one_run(location: Location) -> None:
    location.report("baseline_models/bigru", version="2")
    assert location.requested() == FOLLOWERS
    materialise(location, "predictions/bigru", "evaluation_table", version="2")
    location.report("champion_model", version="1")  # the decision changed nothing
    assert location.requested() == set()


def test_figures_that_a_blocking_check_refused_make_no_champion(location: Location) -> None:
    location.report("evaluation_table", version="2")
    location.report_checks("evaluation_table", passed=False)
    assert location.requested() == set()
    location.report_checks("evaluation_table")
    assert location.requested() == {"champion_model"}


def test_a_new_champion_leaves_nothing_stale(location: Location) -> None:
    location.report("champion_model", version="2")
    assert location.requested() == {"scored_feedback"}
    location.report("scored_feedback", version="2")
    assert location.requested() == {"feedback_report"}
    location.report("feedback_report", version="2")
    assert location.requested() == set()


@pytest.mark.parametrize("fails", [True, False], ids=["failed", "interrupted"])
def test_what_failed_or_was_interrupted_is_asked_for_once_more_and_then_rests(location: Location, fails: bool) -> None:
    location.report("baseline_models/bigru", version="2")
    assert location.requested() == FOLLOWERS
    for again in (FOLLOWERS, set(), set()):
        with location.running(*FOLLOWERS, fails=fails):
            assert location.requested() == set()
        assert location.requested() == again
        assert location.requested() == set()
    location.report("baseline_models/bigru", version="3")  # other news, another two chances
    assert location.requested() == FOLLOWERS
    with location.running(*FOLLOWERS, fails=fails):
        assert location.requested() == set()
    assert location.requested() == FOLLOWERS


def test_a_run_that_fails_between_two_looks_is_asked_for_once_more_too(location: Location) -> None:
    location.report("baseline_models/bigru", version="2")
    assert location.requested() == FOLLOWERS
    with location.running(*FOLLOWERS):
        pass
    assert location.requested() == FOLLOWERS
    with location.running(*FOLLOWERS):
        pass
    assert location.requested() == set()
    assert location.requested() == set()


def test_what_is_stale_after_a_restart_is_asked_for(location: Location) -> None:
    """While nobody looked an input got news, or all that was known of earlier looks is gone."""
    location.report("baseline_models/bigru", version="2")
    location.cursor = None
    assert location.requested() == FOLLOWERS


def test_an_input_that_gets_news_while_a_run_reads_it_is_not_lost(location: Location) -> None:
    old = location.version(dg.AssetKey(["baseline_models", "bigru"]))
    location.report("baseline_models/bigru", version="2")
    assert location.requested() == FOLLOWERS
    with location.running("predictions/bigru", fails=False):
        location.report("baseline_models/bigru", version="3")
        assert location.requested() == set()
        tags = {TAG: "2", "dagster/code_version": "2", **made_of("baseline_models/bigru", "2")}
        key = dg.AssetKey(["predictions", "bigru"])
        location.instance.report_runless_asset_event(dg.AssetMaterialization(key, tags=tags))
    assert old == "1" and "predictions/bigru" in location.requested()


@pytest.mark.parametrize("cron", ["every hour", "", "@reboot", "60 * * * *", "0 0 30 2 *", "0 0 * *", "H * * * *"])
def test_a_cron_that_dagster_refuses_is_one_line_that_names_the_key(tmp_path: Path, cron: str) -> None:
    with pytest.raises(SettingsError) as error:
        build_defs({"home": tmp_path, "feedback": {"cron": cron}})
    assert str(error.value).startswith(f"feedback.cron: {cron!r} is not a cron schedule; give minute, hour, ")


@pytest.mark.parametrize("cron", ["*/15 8-18 * * mon-fri", "@daily", "0 0 29 2 *"])
def test_a_cron_that_dagster_takes_is_the_schedule(tmp_path: Path, cron: str) -> None:
    (schedule,) = schedules(load_settings("embedded", environ={}, overrides={"feedback": {"cron": cron}}))
    assert schedule.cron_schedule == cron


def test_the_schedule_is_read_in_its_time_zone(tmp_path: Path) -> None:
    (schedule,) = schedules(
        load_settings("embedded", environ={}, overrides={"feedback": {"cron_timezone": "Asia/Kolkata"}})
    )
    assert schedule.execution_timezone == "Asia/Kolkata"
    with pytest.raises(SettingsError, match=r"feedback\.cron_timezone: not a time zone; use a name such as UTC"):
        build_defs({"home": tmp_path, "feedback": {"cron_timezone": "Mars/Olympus"}})
