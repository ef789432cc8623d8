"""A bidirectional GRU over words with max pooling: what a small network without pre-training can do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from emotion_assets.dataset.splits import read_split
from emotion_assets.models.kind import Scorer, TrainingRun
from emotion_assets.models.kinds.bigru import BiGru, BiGruNetwork
from emotion_assets.models.networks import accuracy_of, describe_training, require_finite, score_side_by_side
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training import distributed
from emotion_assets.training.loss import label_weights, summed_cross_entropy
from emotion_assets.training.runtime import Runtime, choose_runtime, set_seed
from emotion_assets.training.trainer import Trainer, TrainingTask

PAD, UNKNOWN = 0, 1
RowsLoss = Callable[[torch.Tensor, list[int]], tuple[torch.Tensor, float]]
"""Log-probabilities ``[rows, labels]`` and which training rows these are -> what ``trainer.LossFunction`` gives."""
_WORD = regex.compile(r"\p{L}+(?:['’]\p{L}+)*|\p{N}+|[^\s\p{L}\p{N}]")


def words(text: str) -> list[str]:
    """Lower-cased words, numbers and single signs, in order."""
    return [word.lower() for word in _WORD.findall(text)]


class Vocabulary:
    """Words and their ids; 0 is padding and 1 stands for every word that is not in it."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: i for i, word in enumerate(words, 2)}

    @classmethod
    def learn(cls, texts: Sequence[str], size: int, at_least: int = 2) -> Vocabulary:
        """The most frequent words, of those that occur ``at_least`` so often (rarer ones teach the unknown word)."""
        counts = Counter(word for text in texts for word in words(text))
        frequent = [w for w, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= at_least]
        return cls(frequent[: size - 2])

    def encode(self, text: str, max_length: int) -> list[int]:
        return [self._ids.get(word, UNKNOWN) for word in words(text)[:max_length]] or [UNKNOWN]

    def __len__(self) -> int:
        return len(self.words) + 2


class BiGruClassifier(nn.Module):
    """Embedding, one bidirectional GRU layer, max over the words, a linear layer."""

    def __init__(self, vocabulary: int, settings: BiGruNetwork, labels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, settings.embedding_size, padding_idx=PAD)
        self.gru = nn.GRU(settings.embedding_size, settings.hidden_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(2 * settings.hidden_size, labels)

    def log_probabilities(self, rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
        """Log-probability of each label, ``[rows, labels]``, from word ids."""
        lengths = torch.tensor([len(row) for row in rows])
        padded = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
        embedded = self.dropout(self.embedding(padded))
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = self.gru(packed)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, padding_value=float("-inf"))
        return torch.log_softmax(self.head(self.dropout(hidden.amax(1))), dim=-1)


def save_bigru(
    kind: str,
    model: BiGruClassifier,
    vocabulary: Vocabulary,
    settings: BiGruNetwork,
    labels: Sequence[str],
    folder: Path,
) -> None:
    """Save the network of a model of that kind; of its settings those of the network are kept."""
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary.words, ensure_ascii=False), encoding="utf-8")
    of_network = settings.model_dump(mode="json", include=set(BiGruNetwork.model_fields))
    content = {"kind": kind, "labels": list(labels), "settings": of_network}
    (folder / "model.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_bigru(folder: Path) -> tuple[BiGruClassifier, Vocabulary, BiGruNetwork]:
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    settings = BiGruNetwork.model_validate(content["settings"])
    vocabulary = Vocabulary(json.loads((folder / "vocabulary.json").read_text(encoding="utf-8")))
    model = BiGruClassifier(len(vocabulary), settings, len(content["labels"]))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), vocabulary, settings


def train_bigru(settings: BiGru, run: TrainingRun) -> dict[str, Any]:
    """Train on the words of the training rows and save into ``run.target``; returns what was measured."""
    train = read_split(run.inputs["dataset"], "train")
    runtime = choose_runtime("fp32")
    labels = np.array([run.labels.index(label) for label in train["label"]])
    targets = torch.from_numpy(labels).to(runtime.device)
    weights = label_weights(settings.training, labels, len(run.labels))
    on_device = None if weights is None else torch.from_numpy(weights).to(runtime.device)
    smoothing = settings.training.label_smoothing

    def loss_of(scores: torch.Tensor, chosen: list[int]) -> tuple[torch.Tensor, float]:
        loss = summed_cross_entropy(scores, targets[chosen], smoothing, on_device)
        return loss, len(chosen) if weights is None else float(weights[labels[chosen]].sum())

    texts = train["text"].tolist()
    known = KnownWords(Vocabulary.learn(texts, settings.vocab_size))
    return fit_bigru("bigru", settings, run, texts, known, loss_of, runtime)


@dataclass(frozen=True)
class KnownWords:
    """The words that a network begins with.

    Attributes:
        vocabulary: those of the training rows, whatever other texts there are.
        vectors: where they begin, ``[words, embedding_size]``; None for random vectors.
        hidden: share of all words that teaches the unknown word in their place while training.
    """

    vocabulary: Vocabulary
    vectors: torch.Tensor | None = None
    hidden: float = 0.0


def hide_words(rows: Sequence[Sequence[int]], share: float) -> list[list[int]]:
    """The rows with about this share of their words, drawn by torch's generator, as the unknown word."""
    drawn = iter(torch.rand(sum(map(len, rows))).tolist())
    return [[UNKNOWN if next(drawn) < share else word for word in row] for row in rows]


def fit_bigru(
    kind: str,
    settings: BiGruNetwork,
    run: TrainingRun,
    texts: Sequence[str],
    known: KnownWords,
    loss: RowsLoss,
    runtime: Runtime,
) -> dict[str, Any]:
    """Train a network on ``texts``, the training rows first, and save it as a model of that kind; returns what was
    measured."""
    validation = read_split(run.inputs["dataset"], "validation")
    vocabulary = known.vocabulary
    rows = [vocabulary.encode(text, settings.max_length) for text in texts]
    validation_rows = [vocabulary.encode(text, settings.max_length) for text in validation["text"]]
    validation_targets = np.array([run.labels.index(label) for label in validation["label"]])
    set_seed(run.seed)
    model = BiGruClassifier(len(vocabulary), settings, len(run.labels)).to(runtime.device)
    if known.vectors is not None:
        with torch.no_grad():
            model.embedding.weight[UNKNOWN + 1 :] = known.vectors

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, float]:
        picked = list(chosen)
        batch = [rows[i] for i in picked]
        if known.hidden:
            batch = hide_words(batch, known.hidden)
        return loss(model.log_probabilities(batch, runtime.device), picked)

    def evaluate() -> float:
        return accuracy_of(model, validation_rows, validation_targets, runtime)

    task = TrainingTask(run.name, model, len(rows), loss_of, evaluate)
    history = Trainer(task, settings.training, runtime, run.seed).fit(run.report, run.resume_state)
    require_finite(model, run.name)
    if distributed.is_first():
        save_bigru(kind, model, vocabulary, settings, run.labels, run.target)
    return describe_training(model, history, runtime) | {"base": "none (random weights)"}


class BiGruScorer(Scorer):
    """Scores texts by their words."""

    def __init__(self, model: StoredFolder) -> None:
        self.labels = model.read_json("model.json")["labels"]
        self._model, self._vocabulary, self._settings = load_bigru(model.path)
        self._runtime = choose_runtime("fp32")
        self._model.to(self._runtime.device)

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        limit = self._settings.max_length
        rows, truncated = [], np.zeros(len(texts), dtype=bool)
        for i, text in enumerate(texts):
            row = self._vocabulary.encode(text, limit + 1)
            truncated[i] = len(row) > limit
            rows.append(row[:limit])
        return rows, truncated

    def predict(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        return score_side_by_side(self._model, rows, self._runtime, len(self.labels))
