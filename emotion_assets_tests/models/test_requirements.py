"""What a base needs of this machine: asked before a download, and answered without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_assets.models.requirements import checkpoint_problems
from emotion_assets.profiles.reader import load_settings
from emotion_assets.storage.hub import hub_problem


@pytest.mark.parametrize(("quantization", "refused"), [("none", True), ("nf4", False)])
def test_four_bits_do_with_a_smaller_gpu(monkeypatch: pytest.MonkeyPatch, quantization: str, refused: bool) -> None:
    import torch

    class Small:
        total_memory, name = 12e9, "a GPU of 12 GB"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Small)
    monkeypatch.setattr("emotion_assets.models.requirements.hub_problem", lambda *a, **k: None)
    overrides = {"models": {"llama3_lora_model": {"quantization": quantization}}}
    problems = checkpoint_problems(load_settings("paper", environ={}, overrides=overrides), "llama3_8b")
    assert bool(problems) == refused


def test_a_cached_tokenizer_is_not_a_cached_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0" * 40
    snapshot = tmp_path / "models--some--llama" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_problem("some/llama", commit) is None
    problem = hub_problem("some/llama", commit, weights=True)
    assert problem is not None and problem.startswith("not in the local cache")
    (snapshot / "model.safetensors").write_bytes(b"")
    assert hub_problem("some/llama", commit, weights=True) is None
