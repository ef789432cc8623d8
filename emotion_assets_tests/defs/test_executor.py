"""What every run begins with: its tags, and slots for the steps that load a model; and what a waiting step says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType, EngineEventData

from emotion_assets.defs.build import build_defs
from emotion_assets.defs.executor import describe_wait, run_tags, set_model_slots
from emotion_assets.profiles.reader import load_settings


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.mark.parametrize("profile", ["embedded", "pretrained", "paper"])
def test_whatever_loads_a_model_takes_the_pool(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_PROFILE", profile)
    defs = build_defs({"home": tmp_path})
    assets = [asset for asset in defs.resolve_asset_graph().assets_defs if asset.is_executable]
    pools = {key.to_user_string(): asset.op.pool for asset in assets for key in asset.keys}
    models = {key for key in pools if key.startswith(("predictions/", "baseline_models/", "llama3_lora_model"))}
    assert models and {pools[key] for key in models | {"scored_feedback"}} == {"gpu"}
    built_here = profile == "embedded"
    assert {pools[key] for key in pools if key.startswith("base_models/")} == ({"gpu"} if built_here else {None})
    assert {pools[key] for key in ("evaluation_table", "champion_model", "feedback")} == {"warehouse"}


def test_the_slots_of_the_pool_are_the_steps_side_by_side_of_the_profile(instance: dg.DagsterInstance) -> None:
    for slots in (2, 2, 1):
        set_model_slots(instance, slots)
        assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == slots


def test_a_run_is_tagged_with_profile_dataset_and_trigger() -> None:
    settings = load_settings("embedded", environ={})

    def trigger(**tags: str) -> str:
        made = run_tags({key.replace("__", "/"): value for key, value in tags.items()}, settings)
        assert made["emotion_assets/profile"] == "embedded" and made["emotion_assets/dataset"] == "sample"
        return made["emotion_assets/trigger"]

    assert trigger() == "hand"
    assert trigger(dagster__schedule_name="feedback_schedule", emotion_assets__trigger="schedule") == "schedule"
    assert trigger(dagster__sensor_name="inbox_sensor", emotion_assets__trigger="inbox") == "inbox"
    assert trigger(dagster__sensor_name="x", emotion_assets__trigger="automation") == "automation"
    assert trigger(dagster__parent_run_id="1", emotion_assets__trigger="inbox") == "retry"


def test_a_blocked_step_says_which_run_has_the_slot(instance: dg.DagsterInstance) -> None:
    set_model_slots(instance, 1)
    claimed = instance.event_log_storage.claim_concurrency_slot("gpu", "0123456789abcdef", "baseline_models__bigru")
    assert claimed.is_claimed

    data = EngineEventData(metadata={"pool": dg.MetadataValue.pool("gpu")})
    event = DagsterEvent(DagsterEventType.ENGINE_EVENT.value, "one_step", event_specific_data=data, step_key="waits")
    said = describe_wait(instance, event)
    assert said == "waits waits for a slot of the pool gpu: baseline_models__bigru of run 01234567"
    assert describe_wait(instance, DagsterEvent(DagsterEventType.PIPELINE_SUCCESS.value, "one_step")) is None
