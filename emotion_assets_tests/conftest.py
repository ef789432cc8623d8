"""Shared by all tests: small datasets written to a temporary folder, and profiles that train in seconds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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

# Every kind of model, small enough to train in a second or two.
TINY: dict[str, Any] = {
    "tokenizers": {"llama": {"max_length": 32}, "bert": {"max_length": 32}, "roberta": {"max_length": 32}},
    "bases": {
        f"{name}_mini": {"source": {"build": build, "pretrain": {"epochs": 1, "min_steps": 0, "batch_size": 64}}}
        for name, build in {
            "llama": {"hidden_size": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "intermediate_size": 32},
            "bert_base": {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32},
            "bert_large": {"hidden_size": 24, "layers": 2, "heads": 2, "intermediate_size": 48},
            "roberta_base": {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32},
            "roberta_large": {"hidden_size": 24, "layers": 2, "heads": 2, "intermediate_size": 48},
        }.items()
    },
    "models": {
        name: {"training": {"epochs": 1, "min_steps": 0}}
        for name in ("llama3_lora_model", "bert_base", "bert_large", "roberta_base", "roberta_large", "bigru")
    },
    "feedback": {"settle_seconds": 0},
}


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
