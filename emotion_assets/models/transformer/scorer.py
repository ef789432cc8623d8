"""Score texts with a fine-tuned transformer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
from emotion_assets.training.runtime import choose_runtime


class TransformerScorer(Scorer):
    """Scores texts, or prompts made of them, by their tokens."""

    def __init__(self, model: StoredFolder, store: Store) -> None:
        config = model.read_json("model.json")
        self._runtime = choose_runtime(config.get("precision", "auto"))
        base = None if config["method"] == "full" else store.open("base_models", config["base_digest"])
        self._model = load_classifier(model, base, self._runtime)
        self._tokenizer = load_tokenizer(model.file(TOKENIZER_FOLDER))
        self.labels = self._model.config.labels

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        config = self._model.config
        if config.objective == "instruction":
            return encode_prompts_marking(self._tokenizer, config.instruction, texts, config.max_length)
        return encode_marking(self._tokenizer, texts, config.max_length)

    def predict(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        return score_in_batches(self._model, rows, self._runtime, len(self.labels))
