"""Shared by all tests: small datasets written to a temporary folder, and profiles that train in seconds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for variable in ("EMOTION_PROFILE", "EMOTION_DATASET", "EMOTION_HOME"):
    os.environ.pop(variable, None)

PROJECT = Path(__file__).parent.parent
REAL_DATASET = PROJECT.parent / "shared" / "data" / "emotion"
REAL_CHECKPOINT = PROJECT.parent / "shared" / "models" / "all-MiniLM-L6-v2"

needs_real_dataset = pytest.mark.skipif(not REAL_DATASET.is_dir(), reason=f"the real dataset is not at {REAL_DATASET}")
needs_real_checkpoint = pytest.mark.skipif(
    not REAL_CHECKPOINT.is_dir(), reason=f"the real checkpoint is not at {REAL_CHECKPOINT}"
)

# One model of each kind, each trained in a second or two.
TINY_PROFILE = Path(__file__).parent / "profiles" / "tiny.yaml"


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write splits of (text, label) pairs as JSON Lines into a folder and return it."""

    def write(splits: Mapping[str, list[tuple[str, str]]], name: str = "dataset") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for split, rows in splits.items():
            lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        return folder

    return write
