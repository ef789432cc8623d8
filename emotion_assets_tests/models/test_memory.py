"""The memory estimate against what autograd keeps, and the refusal before a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_assets.models.bases import resolve_checkpoint
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer import memory
from emotion_assets.models.transformer.memory import Sizes, check_memory, estimate_memory, rows_per_forward
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import BaseSettings, HubSource, Training
from emotion_assets.training.runtime import Runtime
from emotion_assets_tests.worlds.tiny import CPU, base_folder, classifier_of, config_of, rows_of

LLAMA3_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
FIVE = Training(batch_size=5, gradient_accumulation=4)
LORA = TransformerModel(method="lora", base="b", objective="instruction", training=FIVE)


def test_the_parameters_of_llama_3_8b_are_counted_without_holding_them() -> None:
    sizes = Sizes.of(LLAMA3_8B)
    assert sizes.parameters == 8_030_261_248
    assert 8 * sizes.linear_sides == 20_971_520  # what PEFT reports for rank 8 on all linear layers


def test_sizes_are_those_of_the_loaded_model(tmp_path: Path) -> None:
    classifier = classifier_of(base_folder(tmp_path / "base"), "instruction")
    sizes = Sizes.of(config_of("llama").to_dict() | {"architectures": ["LlamaForCausalLM"]})
    trained = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
    assert trained == 8 * sizes.linear_sides
    assert sum(p.numel() for p in classifier.parameters()) == sizes.parameters + trained


@pytest.mark.parametrize(("model_type", "method"), [("llama", "lora"), ("bert", "full")])
def test_activations_are_estimated_within_a_third(tmp_path: Path, model_type: str, method: str) -> None:
    """Of pooling that reads all tokens: else the last of so few layers takes less, see ``last_layer``."""
    classifier = classifier_of(base_folder(tmp_path / "base", model_type), pooling="max", method=method)
    rows = rows_of(40)
    held: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in classifier.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.is_floating_point():
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept_alive: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept_alive.append(t), keep(t))[1], lambda t: t):
        classifier.loss(rows, torch.zeros(len(rows), dtype=torch.int64), 0.0)
    measured = sum(held.values())
    expected = Sizes.of(config_of(model_type).to_dict()).activation_bytes(4) * sum(map(len, rows))
    assert expected == pytest.approx(measured, rel=0.34)


def test_a_base_too_large_for_this_machine_is_refused_before_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[bool] = []
    config = tmp_path / "hub"
    config.mkdir()
    (config / "config.json").write_text(json.dumps(LLAMA3_8B), encoding="utf-8")

    def download(repo: str, revision: str, weights: bool = True) -> Path:
        downloads.append(weights)
        return config

    monkeypatch.setattr("emotion_assets.models.sources.hub_problem", lambda *a, **k: None)
    monkeypatch.setattr("emotion_assets.models.sources.download_checkpoint", download)
    monkeypatch.setattr(memory, "total_memory", lambda runtime: 12 * 2**30)
    base = BaseSettings(tokenizer="t", source=HubSource(hub="some/llama", revision="0" * 40))
    with pytest.raises(DataError, match=r"models\.big: needs about 3\d\.\d GiB .*12\.0 GiB of memory; use a"):
        resolve_checkpoint(base, "llama", tmp_path / "target", {"big": LORA})
    assert downloads == [False]


def test_four_bits_need_less_and_full_tuning_more() -> None:
    sizes = Sizes.of(LLAMA3_8B)

    def total(**changes: Any) -> float:
        return estimate_memory(sizes, LORA.model_copy(update=changes), CPU, [60] * 5).total

    assert total(quantization="nf4") < 0.4 * total() < 0.4 * total(method="full")


def test_rows_of_512_tokens_are_split_until_they_fit_a_card_of_24_gb() -> None:
    """Five at once do not fit, two do, so that the split after the first attempt's half trains them."""
    gpu = Runtime(torch.device("cuda"), torch.bfloat16, "test")
    sizes, card = Sizes.of(LLAMA3_8B), 24e9
    five, two = (estimate_memory(sizes, LORA, gpu, [512] * rows).total for rows in (5, 2))
    assert two < card < five


def test_the_smallest_of_several_models_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda runtime: 40 * 2**30)
    full = TransformerModel(method="full", base="b", training=FIVE)
    check_memory(LLAMA3_8B, {"whole": full, "adapters": LORA}, CPU)
    with pytest.raises(DataError, match=r"models\.whole"):
        check_memory(LLAMA3_8B, {"whole": full}, CPU)


def test_a_step_is_merged_only_where_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes.of(LLAMA3_8B)
    lengths = [60] * 100
    need = 20 * 60 * sizes.activation_bytes(4)
    monkeypatch.setattr(memory, "free_memory", lambda runtime: 3 * need)
    assert rows_per_forward(sizes, LORA, CPU, lengths) == 20
    monkeypatch.setattr(memory, "free_memory", lambda runtime: 1.5 * need)
    assert rows_per_forward(sizes, LORA, CPU, lengths) == 5


def test_a_row_that_passes_twice_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes.of(LLAMA3_8B)
    twice = TransformerModel(method="lora", base="b", embedding_dropout=0.1, consistency=1.0, training=FIVE)
    once = twice.model_copy(update={"consistency": 0.0})
    need = estimate_memory(sizes, once, CPU, [60] * 20).activations
    assert estimate_memory(sizes, twice, CPU, [60] * 20).activations == 2 * need
    monkeypatch.setattr(memory, "free_memory", lambda runtime: 3 * need)
    assert rows_per_forward(sizes, once, CPU, [60] * 100) == 20
    assert rows_per_forward(sizes, twice, CPU, [60] * 100) == 5
