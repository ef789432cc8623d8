"""A training in several processes, from the graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from emotion_assets.defs import models
from emotion_assets.profiles.reader import load_settings
from emotion_assets.storage.store import StoredFolder
from emotion_assets_tests.conftest import TINY_PROFILE, Terminal

ASKED = [  # asset, its number in the launchpad, processes
    ("llama3_lora_model", None, 2),
    ("llama3_lora_model", 3, 3),
    ("base_models/llama_tiny", None, 2),
    ("baseline_models/tfidf_svm", 3, 1),
]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A profile whose trainings take two processes."""
    profile = tmp_path / "two.yaml"
    profile.write_text(TINY_PROFILE.read_text(encoding="utf-8") + "\ndevices: 2\n", encoding="utf-8")
    return profile


@pytest.mark.parametrize(("key", "launchpad", "processes"), ASKED)
def test_the_launchpad_goes_before_the_profile(
    two: Path, monkeypatch: pytest.MonkeyPatch, key: str, launchpad: int | None, processes: int
) -> None:
    asked: list[int] = []

    def train(*arguments: Any) -> None:
        asked.append(arguments[-1].devices)
        raise dg.Failure("seen enough", allow_retries=False)

    monkeypatch.setattr(models, "train_or_recall", train)
    settings = load_settings(str(two), environ={})
    asset = next(a for a in models.model_assets(settings) if a.key.to_user_string() == key)
    folder = StoredFolder(two.parent, "digest")
    workspace = SimpleNamespace(settings=settings, store=SimpleNamespace(current=lambda *_, **__: folder))
    config = {"ops": {key.replace("/", "__"): {"config": {"devices": launchpad}}}} if launchpad else {}
    dg.materialize([asset], resources={"workspace": workspace}, run_config=config, raise_on_error=False)
    assert asked == [processes]


LLAMA = ["raw_emotion_dataset", "tokenised_splits/llama", "base_models/llama_tiny", "llama3_lora_model"]


def test_devices_in_a_profile_is_the_number_of_processes(terminal: Terminal, two: Path) -> None:
    selection = " or ".join(f'key:"{key}"' for key in LLAMA)
    done = terminal.materialise(selection, EMOTION_PROFILE=str(two))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    spoken = [line for line in done.stdout.splitlines() if "llama3_lora_model: step" in line and "(100%)" in line]
    assert len(spoken) == 1, "each process speaks"
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("llama3_lora_model"))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.metadata["processes"].value == 2
