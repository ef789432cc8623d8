"""Token ids of several rows as one tensor: packed without padding for causal models, padded for encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Batch:
    """Rows ready for a backbone.

    Packed: ``inputs["input_ids"]`` and ``["position_ids"]`` are ``[1, T]`` with positions that start again at 0 for
    each row, and no attention mask: from that transformers keeps the rows apart, as long as no cache is used.
    Padded: ``["input_ids"]`` and ``["attention_mask"]`` are ``[B, L]``. ``lengths`` is ``[B]``, in tokens.
    """

    inputs: dict[str, Any]
    lengths: list[int]
    packed: bool

    def rows(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The hidden states of each row, ``[length, H]``."""
        if self.packed:
            return hidden[0].split(self.lengths)
        return tuple(hidden[i, :n] for i, n in enumerate(self.lengths))

    def pool(self, hidden: torch.Tensor, pooling: str) -> torch.Tensor:
        """One vector per row, ``[B, H]``, from the hidden states ``[1, T, H]`` or ``[B, L, H]``."""
        device = hidden.device
        lengths = torch.tensor(self.lengths, device=device)
        if pooling in ("first", "last"):
            if self.packed:
                ends = lengths.cumsum(0)
                return hidden[0, ends - lengths if pooling == "first" else ends - 1]
            places = torch.zeros_like(lengths) if pooling == "first" else lengths - 1
            return hidden[torch.arange(len(lengths), device=device), places]
        if self.packed:
            hidden = torch.nn.utils.rnn.pad_sequence(list(hidden[0].split(self.lengths)), batch_first=True)
        inside = (torch.arange(hidden.shape[1], device=device) < lengths[:, None]).unsqueeze(-1)
        if pooling == "max":
            return hidden.masked_fill(~inside, float("-inf")).amax(1)
        return (hidden * inside).sum(1) / lengths[:, None]


def make_batch(rows: Sequence[Sequence[int]], packed: bool, pad_id: int, device: torch.device) -> Batch:
    """Put token ids of rows together; every row has at least one token."""
    lengths = [len(row) for row in rows]
    if packed:
        ids = torch.tensor([token for row in rows for token in row], device=device)
        positions = torch.cat([torch.arange(n) for n in lengths]).to(device)
        inputs = {"input_ids": ids[None], "position_ids": positions[None], "attention_mask": None}
        return Batch(inputs, lengths, True)
    width = max(lengths)
    padded = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], device=device)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long().to(device)
    return Batch({"input_ids": padded, "attention_mask": mask}, lengths, False)


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row indices in batches of neighbours in length: for inference, where the order does not matter."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + size] for start in range(0, len(order), size)]
