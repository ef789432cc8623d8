"""Classification heads: a linear layer, or the head that transformers gives a base of this kind.

Belongs here: what turns a row's pooled hidden state into scores of the labels. Does not belong here: pooling
(``batches``), and where a head is saved (``checkpoints``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn


class DenseHead(nn.Module):
    """A dense layer with an activation and dropout before the linear one: ``[rows, H]`` to ``[rows, labels]``.

    The computation of ``BertForSequenceClassification`` (dense layer pre-trained as the pooler, tanh) and of the heads
    of RoBERTa and its kin (tanh) and of ELECTRA (gelu), which drop out the input too. New weights are drawn as
    transformers draws them.
    """

    def __init__(self, config: Any, labels: int) -> None:
        super().__init__()
        width = config.hidden_size
        given = getattr(config, "classifier_dropout", None)
        dropout = config.hidden_dropout_prob if given is None else given
        self.input_dropout = nn.Dropout(0.0 if config.model_type == "bert" else dropout)
        self.dense = nn.Linear(width, width)
        self.activation: nn.Module = nn.GELU() if config.model_type == "electra" else nn.Tanh()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, labels)
        for layer in (self.dense, self.out):
            nn.init.normal_(layer.weight, std=config.initializer_range)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        dense = self.activation(self.dense(self.input_dropout(pooled)))
        return self.out(self.dropout(dense))  # type: ignore[no-any-return]


def new_head(base: Any, causal: bool, kind: str, labels: int) -> nn.Module:
    """The untrained head of a classifier over a base of this config.

    Args:
        base: the config of the base, as transformers loads it.
        kind: ``linear``, or ``transformers``: for an encoder ``DenseHead``; for a causal base a linear layer without a
            bias.
    """
    if kind == "linear":
        return nn.Linear(base.hidden_size, labels)
    if causal:
        head = nn.Linear(base.hidden_size, labels, bias=False)
        nn.init.normal_(head.weight, std=base.initializer_range)
        return head
    return DenseHead(base, labels)


def load_pooler(head: nn.Module | None, base: Path, model_type: str) -> None:
    """Begin the dense layer of a BERT's head at the pooler of its checkpoint, where that holds one.

    Without one it begins at random weights, as it does in transformers.
    """
    if not isinstance(head, DenseHead) or model_type != "bert":
        return
    with torch.no_grad():
        for file in base.glob("*.safetensors"):
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118  (a safetensors file is not a dict)
                    for part in ("weight", "bias"):
                        if name.endswith(f"pooler.dense.{part}"):
                            getattr(head.dense, part).copy_(weights.get_tensor(name))


def pooling_of(head: str, pooling: str, causal: bool) -> str:
    """How rows are pooled: the head of transformers reads a causal base's last token, an encoder's first."""
    if head == "linear":
        return pooling
    return "last" if causal else "first"


def names_in_transformers(head: Mapping[str, torch.Tensor], model_type: str) -> dict[str, torch.Tensor]:
    """The weights of a trained head by their names in transformers' model for sequence classification."""
    places = {"dense": "classifier.dense", "out": "classifier.out_proj"}
    if model_type == "bert":
        places = {"dense": "bert.pooler.dense", "out": "classifier"}
    if "out.weight" not in head:  # of a causal base
        return {f"score.{name}": weight for name, weight in head.items()}
    return {f"{places[part]}.{kind}": w for name, w in head.items() for part, _, kind in [name.partition(".")]}
