"""A training in several processes, from the graph."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from emotion_assets_tests.conftest import TINY_PROFILE, Terminal

LLAMA = ["raw_emotion_dataset", "tokenised_splits/llama", "base_models/llama_tiny", "llama3_lora_model"]


def test_devices_in_a_profile_is_the_number_of_processes(terminal: Terminal, tmp_path: Path) -> None:
    profile = tmp_path / "two.yaml"
    profile.write_text(TINY_PROFILE.read_text(encoding="utf-8") + "\ndevices: 2\n", encoding="utf-8")
    selection = " or ".join(f'key:"{key}"' for key in LLAMA)
    done = terminal.materialise(selection, EMOTION_PROFILE=str(profile))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("llama3_lora_model: step 1/") == 1, "each process speaks"
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("llama3_lora_model"))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.metadata["processes"].value == 2
