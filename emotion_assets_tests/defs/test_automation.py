"""What runs by itself and what does not, asked of Dagster's own evaluation of the conditions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from emotion_assets.defs.automation import schedules
from emotion_assets.defs.build import build_defs
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.errors import SettingsError

TAG = "dagster/data_version"


class Location:
    """The graph with an instance in which assets are reported as materialised with a data version."""

    def __init__(self, instance: dg.DagsterInstance, home: Path) -> None:
        self.instance, self.home, self.cursor = instance, home, None
        self.defs = build_defs({"home": home})

    def report(self, *keys: str, version: str = "1") -> None:
        for key in keys:
            path = key.split("/")
            self.instance.report_runless_asset_event(dg.AssetMaterialization(path, tags={TAG: version}))

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
        return [key.to_user_string() for key in self.defs.resolve_all_asset_keys()]


@pytest.fixture
def location(tmp_path: Path) -> Iterator[Location]:
    with dg.DagsterInstance.ephemeral() as instance:
        location = Location(instance, tmp_path)
        for key in location.all_keys():
            location.report(key)
            location.report_checks(key)
        location.requested()
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


def test_a_retrained_model_starts_its_own_predictions_alone(location: Location) -> None:
    location.report("baseline_models/bigru", version="2")
    assert location.requested() == {"predictions/bigru"}
    location.report("predictions/bigru", version="2")
    location.report_checks("predictions/bigru")
    assert location.requested() == {"evaluation_table"}
    location.report("evaluation_table", version="2")
    location.report_checks("evaluation_table")
    assert location.requested() == {"champion_model"}
    location.report("champion_model", version="1")  # the decision changed nothing
    assert location.requested() == set()


@pytest.mark.parametrize("cron", ["every hour", "", "@reboot", "60 * * * *", "0 0 30 2 *", "0 0 * *", "H * * * *"])
def test_a_cron_that_dagster_refuses_is_one_line_that_names_the_key(tmp_path: Path, cron: str) -> None:
    with pytest.raises(SettingsError) as error:
        build_defs({"home": tmp_path, "feedback": {"cron": cron}})
    assert str(error.value).startswith(f"feedback.cron: {cron!r} is not a cron schedule; give minute, hour, ")


@pytest.mark.parametrize("cron", ["*/15 8-18 * * mon-fri", "@daily", "0 0 29 2 *"])
def test_a_cron_that_dagster_takes_is_the_schedule(tmp_path: Path, cron: str) -> None:
    (schedule,) = schedules(load_settings("embedded", environ={}, overrides={"feedback": {"cron": cron}}))
    assert schedule.cron_schedule == cron
