"""The peers of ``benchmarks.train_gpu`` get rows of as many tokens as it has, and are named where they cannot run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks import _gpu_peers
from benchmarks.train_gpu import ANSWER, PROMPT_HEAD, PROMPT_TAIL, SCALED_DOWN

TINY = SCALED_DOWN | {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}


def test_a_row_of_a_peer_has_as_many_tokens_as_ours(tmp_path: Path) -> None:
    rows = [[7, 8, 9], [500] * 20]
    _gpu_peers.write_case(tmp_path, TINY, rows)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    for row, content in zip(rows, json.loads((tmp_path / "data" / "emotion.json").read_text()), strict=True):
        question = {"role": "user", "content": f"{content['instruction']}\n{content['input']}"}
        prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True, tokenize=False)
        tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert len(tokens) == PROMPT_HEAD + len(row) + PROMPT_TAIL
        answer = tokenizer(content["output"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        assert len(answer) == ANSWER and tokenizer.unk_token_id not in answer
    assert list((tmp_path / "base").glob("*.safetensors"))


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LLAMAFACTORY_PYTHON", raising=False)
    monkeypatch.setenv("UNSLOTH_PYTHON", sys.executable)
    _gpu_peers.run_peers(TINY, [[1]], 20, cuda=True)
    liger, unsloth = capsys.readouterr().out.splitlines()
    assert liger == "LLaMA-Factory with Liger: not run: not installed (LLAMAFACTORY_PYTHON is not set)"
    assert unsloth.startswith("LLaMA-Factory with Unsloth: not run: llamafactory unsloth not installed in the env")
