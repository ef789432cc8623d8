"""A training in several processes, from the graph."""

from __future__ import annotations

import os
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
    return profile_with("2", tmp_path)


def profile_with(devices: str, folder: Path) -> Path:
    """The tiny profile, whose Llama trains adapters alone."""
    profile = folder / f"{devices}.yaml"
    text = TINY_PROFILE.read_text(encoding="utf-8").replace(", train_embeddings: true", "")
    profile.write_text(f"{text}\ndevices: {devices}\n", encoding="utf-8")
    return profile


@pytest.mark.parametrize(("key", "launchpad", "processes"), ASKED)
def test_the_launchpad_goes_before_the_profile(
    two: Path, monkeypatch: pytest.MonkeyPatch, key: str, launchpad: int | None, processes: int
) -> None:
    assert devices_asked(two, monkeypatch, key, launchpad) == [processes]


@pytest.mark.parametrize(
    ("key", "devices"), [("llama3_lora_model", "auto"), ("baseline_models/bert_base", 1), ("base_models/llama_tiny", 1)]
)
def test_auto_leaves_what_trains_all_its_weights_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, devices: int | str
) -> None:
    assert devices_asked(profile_with("auto", tmp_path), monkeypatch, key, None) == [devices]


def devices_asked(profile: Path, monkeypatch: pytest.MonkeyPatch, key: str, launchpad: int | None) -> list[int | str]:
    """``devices`` of the training that the asset asks for."""
    asked: list[int | str] = []

    def train(*arguments: Any) -> None:
        asked.append(arguments[-1].devices)
        raise dg.Failure("seen enough", allow_retries=False)

    monkeypatch.setattr(models, "train_or_recall", train)
    settings = load_settings(str(profile), environ={})
    asset = next(a for a in models.model_assets(settings) if a.key.to_user_string() == key)
    folder = StoredFolder(profile.parent, "digest")
    workspace = SimpleNamespace(settings=settings, store=SimpleNamespace(current=lambda *_, **__: folder))
    config = {"ops": {key.replace("/", "__"): {"config": {"devices": launchpad}}}} if launchpad else {}
    dg.materialize([asset], resources={"workspace": workspace}, run_config=config, raise_on_error=False)
    return asked


LLAMA = ["raw_emotion_dataset", "tokenised_splits/llama", "base_models/llama_tiny", "llama3_lora_model"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="on one core auto is one process")
@pytest.mark.parametrize("devices", ["2", "auto"])
def test_devices_in_a_profile_is_the_number_of_processes(terminal: Terminal, devices: str, tmp_path: Path) -> None:
    selection = " or ".join(f'key:"{key}"' for key in LLAMA)
    done = terminal.materialise(selection, EMOTION_PROFILE=str(profile_with(devices, tmp_path)), EMOTION_DEVICE="cpu")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    spoken = [line for line in done.stdout.splitlines() if "llama3_lora_model: step" in line and "(100%)" in line]
    assert len(spoken) == 1, "each process speaks"
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("llama3_lora_model"))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.metadata["processes"].value == 2
