"""The Scorer: texts in, class probabilities out, whatever kind of model is behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emotion_assets.models.bigru import load_bigru, words
from emotion_assets.models.tfidf_svm import load_svm
from emotion_assets.models.transformer.batches import batch_by_length
from emotion_assets.models.transformer.checkpoints import load_classifier
from emotion_assets.models.transformer.tokens import (
    TOKENIZER_FOLDER,
    are_truncated,
    encode,
    encode_prompts,
    load_tokenizer,
)
from emotion_assets.storage.store import Store, StoredFolder
from emotion_assets.training.runtime import Runtime, choose_runtime

BATCH = 64


class Scorer(ABC):
    """A loaded model. ``labels`` is the order of the probability columns."""

    labels: list[str]

    @abstractmethod
    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities ``[texts, labels]``, float32, each row summing to one."""

    @abstractmethod
    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the model reads; they are scored on their beginning."""


def load_scorer(model: StoredFolder, store: Store) -> Scorer:
    """The scorer of a stored model.

    Raises:
        StoreError: the base checkpoint that a LoRA model needs is not in the store any more, or was altered.
    """
    kind = model.read_json("model.json")["kind"]
    if kind == "tfidf_svm":
        return _SvmScorer(model)
    return _BiGruScorer(model) if kind == "bigru" else _TransformerScorer(model, store)


class _SvmScorer(Scorer):
    def __init__(self, model: StoredFolder) -> None:
        self.labels = model.read_json("model.json")["labels"]
        self._model = load_svm(model.path)

    def score(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.probabilities(texts).astype(np.float32)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        return [False] * len(texts)


class _BiGruScorer(Scorer):
    def __init__(self, model: StoredFolder) -> None:
        self.labels = model.read_json("model.json")["labels"]
        self._model, self._vocabulary, self._settings = load_bigru(model.path)
        self._runtime = choose_runtime("fp32")
        self._model.to(self._runtime.device)

    def score(self, texts: Sequence[str]) -> np.ndarray:
        rows = [self._vocabulary.encode(text, self._settings.max_length) for text in texts]
        return _in_batches(self._model, rows, self._runtime, len(self.labels))

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        return [len(words(text)) > self._settings.max_length for text in texts]


class _TransformerScorer(Scorer):
    def __init__(self, model: StoredFolder, store: Store) -> None:
        config = model.read_json("model.json")
        self._runtime = choose_runtime(config.get("precision", "auto"))
        base = store.open("base_models", config["base_digest"]) if config["method"] == "lora" else None
        self._model = load_classifier(model, base, self._runtime)
        self._tokenizer = load_tokenizer(model.file(TOKENIZER_FOLDER))
        self.labels = self._model.config.labels

    def score(self, texts: Sequence[str]) -> np.ndarray:
        config = self._model.config
        if config.objective == "instruction":
            rows = encode_prompts(self._tokenizer, config.instruction, texts, config.max_length)
        else:
            rows = encode(self._tokenizer, texts, config.max_length)
        return _in_batches(self._model, rows, self._runtime, len(self.labels))

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        config = self._model.config
        instruction = config.instruction if config.objective == "instruction" else None
        return are_truncated(self._tokenizer, texts, config.max_length, instruction)


def _in_batches(model: Any, rows: Sequence[Sequence[int]], runtime: Runtime, labels: int) -> np.ndarray:
    probabilities = np.zeros((len(rows), labels), dtype=np.float32)
    with torch.no_grad():
        for chosen in batch_by_length([len(row) for row in rows], BATCH):
            with runtime.autocast():
                scores = model.log_probabilities([rows[i] for i in chosen], runtime.device)
            probabilities[chosen] = scores.float().exp().cpu().numpy()
    return probabilities
