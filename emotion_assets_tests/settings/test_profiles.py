"""The profiles that need more than this machine has say so at once; a profile of one's own tunes a real checkpoint."""

from __future__ import annotations

import itertools
from pathlib import Path

import dagster as dg
import pytest

from emotion_assets.defs.dataset import dataset_assets
from emotion_assets.defs.evaluation import evaluation_assets
from emotion_assets.defs.models import model_assets
from emotion_assets.models.registry import load_scorer
from emotion_assets.profiles.reader import load_settings
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import REAL_CHECKPOINT, Terminal, needs_real_checkpoint

OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_without_the_hub_the_dataset_stops_the_run_with_one_line(terminal: Terminal, profile: str) -> None:
    done = terminal.materialise("raw_emotion_dataset", EMOTION_PROFILE=profile, **OFFLINE)
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if "FAILED" in line]
    assert "dataset dair-ai/emotion: not in the local cache, and HF_HUB_OFFLINE forbids the Hub" in line
    assert "set EMOTION_DATASET to sample or to a folder with split files" in line
    assert "Traceback" not in done.stdout + done.stderr


def test_without_a_gpu_the_gated_llama_is_refused_before_any_download_with_licence_and_token(
    terminal: Terminal,
) -> None:
    done = terminal.materialise(
        'key:"base_models/llama3_8b"', EMOTION_PROFILE="paper", EMOTION_DATASET="sample", **OFFLINE
    )
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if "FAILED" in line]
    assert "bases.llama3_8b: needs a CUDA GPU with 22 GB, and torch finds none here" in line
    assert "accept its licence on the page of meta-llama/Meta-Llama-3-8B-Instruct on the Hub, then set HF_TOKEN" in line
    assert "Traceback" not in done.stdout + done.stderr


def test_what_this_machine_cannot_train_leaves_the_rest_usable(terminal: Terminal) -> None:
    environment = {"EMOTION_PROFILE": "paper", "EMOTION_DATASET": "sample", **OFFLINE}
    cheap = 'raw_emotion_dataset,key:"baseline_models/tfidf_svm",key:"predictions/tfidf_svm"'
    done = terminal.materialise(cheap, **environment)
    assert done.returncode == 0, done.stdout[-2000:]
    done = terminal.materialise("class_balance_report,evaluation_table,champion_model", **environment)
    assert done.returncode == 0, done.stdout[-2000:]
    printed = terminal.emotion_assets("leaderboard", **environment)
    assert "tfidf_svm" in printed.stdout


@needs_real_checkpoint
def test_a_profile_on_a_real_checkpoint_folder_tunes_it_and_scores_with_it(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2, five optimiser steps: enough to see that its weights are used and change."""
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        f"""
description: a real encoder
dataset: {{source: sample}}
labels: [joy, sadness, anger, fear, love, surprise]
tokenizers: {{bert: {{max_length: 48, source: {{folder: {REAL_CHECKPOINT}}}}}}}
bases: {{minilm: {{tokenizer: bert, source: {{folder: {REAL_CHECKPOINT}}}}}}}
models:
  minilm: {{method: full, base: minilm, pooling: mean, training: {{epochs: 1, batch_size: 32, learning_rate: 3.0e-4}}}}
""",
        encoding="utf-8",
    )
    settings = load_settings(str(profile), environ={"EMOTION_HOME": str(tmp_path / "home")})
    workspace = Workspace(settings)
    predictions = itertools.islice(evaluation_assets(settings), 1)
    assets = [*dataset_assets(settings), *model_assets(settings), *predictions]
    selection = dg.AssetSelection.all() - dg.AssetSelection.assets("class_balance_report")
    result = dg.materialize(assets, resources={"workspace": workspace}, selection=selection)
    assert result.success
    model = workspace.store.current(["baseline_models", "minilm"])
    assert model.info["total_parameters"] > 22_000_000
    assert model.info["validation_accuracy"] > 0.5
    scorer = load_scorer(model, workspace.store)
    (furious,) = scorer.score(["I am absolutely furious about this"])
    assert settings.labels[int(furious.argmax())] == "anger"
