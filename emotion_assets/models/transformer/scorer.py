"""Score texts with a fine-tuned transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emotion_assets.models.kind import Scorer
from emotion_assets.models.networks import score_in_batches
from emotion_assets.models.transformer.checkpoints import load_classifier
from emotion_assets.models.transformer.tokens import (
    TOKENIZER_FOLDER,
    encode_marking,
    encode_prompts_marking,
    load_tokenizer,
)
from emotion_assets.storage.store import Store, StoredFolder
from emotion_assets.training.runtime import choose_runtime, cpu_has_bf16


def faster_formats(model: StoredFolder) -> tuple[str, ...]:
    """bf16 on a CPU that multiplies bf16 matrices. On a GPU the profile's ``precision`` decides, not a measurement.

    int8 is none: with activations quantised as they come, a row's scores depend on the rows of its batch.
    """
    on_cpu = choose_runtime().device.type == "cpu"
    return (
        ("bf16",)
        if on_cpu and cpu_has_bf16() and model.read_json("model.json").get("quantization", "none") == "none"
        else ()
    )


class TransformerScorer(Scorer):
    """Scores texts, or prompts made of them, by their tokens.

    In ``bf16`` the weights are those of fp32, adapters merged, rounded once; the head stays in fp32.
    """

    def __init__(self, model: StoredFolder, store: Store, number_format: str = "") -> None:
        config = model.read_json("model.json")
        self._runtime = choose_runtime("fp32" if number_format else config.get("precision", "auto"))
        base = None if config["method"] == "full" else store.open("base_models", config["base_digest"])
        self._model = load_classifier(model, base, self._runtime)
        if number_format == "bf16":
            self._model.backbone.to(torch.bfloat16)
        on_cpu, half = self._runtime.device.type == "cpu", self._runtime.dtype != torch.float32
        self._steady = on_cpu and (half or number_format == "bf16")
        self._tokenizer = load_tokenizer(model.file(TOKENIZER_FOLDER))
        self.labels = self._model.config.labels

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        config = self._model.config
        if config.objective == "instruction":
            return encode_prompts_marking(self._tokenizer, config.instruction, texts, config.max_length, config.system)
        return encode_marking(self._tokenizer, texts, config.max_length)

    def predict(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        return score_in_batches(self._model, rows, self._runtime, len(self.labels), self._steady)

    def word_vectors(self, words: Sequence[str]) -> np.ndarray:
        """The mean of each word's token vectors, its tokens being those inside a text, ``[words, width]`` float32."""
        rows = self._tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
        backbone: Any = self._model.backbone
        table = backbone.get_input_embeddings().weight
        with torch.inference_mode():
            means = [table[row].float().mean(0) if row else torch.zeros_like(table[0]).float() for row in rows]
            return torch.stack(means).cpu().numpy()
