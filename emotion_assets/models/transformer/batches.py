"""Token ids of several rows packed into one sequence without padding.

Belongs here: the packed sequence, where each row is in it, pooling of a row. Does not belong here: which tokens attend
to which (``layout``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from emotion_assets.models.transformer.layout import Layout
from emotion_assets.training.transfer import to_device

SHORTEST_PREFIX = 4  # tokens; a shorter common prefix is not worth a segment of its own
BUCKET = 64  # tokens; the number of a batch's tokens where few different shapes are wanted is a multiple of it
SHORTEST_BOUND = 128  # tokens; what a kernel is told of the longest row in a bucket is a power of two from here on


@dataclass(frozen=True)
class Batch:
    """Rows packed for a backbone: the prefix that all rows share (once), in a bucket its filler, the rest of each row,
    then the branches.

    Attributes:
        inputs: ``input_ids`` and ``position_ids`` ``[1, T]``, positions counted from each row's first token, and no
            attention mask.
        layout: which tokens attend to which; it keeps the rows apart.
        prefix: the number of tokens of the shared prefix.
        starts: for each row the index in the sequence of its first token after the prefix.
        lengths: for each row the number of its tokens after the prefix.
        branch_starts: for each branch the index in the sequence of its first token.
        extents: ``[2, B]``, the first tokens (as ``starts``) and the lengths on the device.
        extra: what a caller has added for use on the device.
    """

    inputs: dict[str, Any]
    layout: Layout
    prefix: int
    starts: list[int]
    lengths: list[int]
    branch_starts: list[int]
    extents: torch.Tensor
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def pooled_token(self, pooling: str) -> torch.Tensor | None:
        """The index ``[B]`` of the one token of each row that ``first`` or ``last`` pooling reads, else None."""
        starts, lengths = self.extents
        return {"first": starts, "last": starts + lengths - 1}.get(pooling)

    def pool(self, hidden: torch.Tensor, pooling: str) -> torch.Tensor:
        """One vector per row, ``[B, H]``, from the hidden states ``[1, T, H]`` of rows without a shared prefix."""
        token = self.pooled_token(pooling)
        if token is not None:
            return hidden.squeeze(0).index_select(0, token)
        lengths = self.extents[1]
        rows = torch.nn.utils.rnn.pad_sequence(list(hidden.squeeze(0).split(self.lengths)), batch_first=True)
        is_token = (torch.arange(rows.shape[1], device=hidden.device) < lengths[:, None]).unsqueeze(-1)
        if pooling == "max":
            return rows.masked_fill(~is_token, float("-inf")).amax(1)
        return (rows * is_token).sum(1) / lengths[:, None]


def make_batch(
    rows: Sequence[Sequence[int]],
    device: torch.device,
    causal: bool,
    first_position: int = 0,
    prefix: int = 0,
    branches: Sequence[tuple[int, Sequence[int]]] = (),
    padded: bool = True,
) -> Batch:
    """Pack rows into one sequence on ``device``: ``pack_rows``, sent in one transfer."""
    return to_device(pack_rows(rows, causal, first_position, prefix, branches, padded), device)


def pack_rows(
    rows: Sequence[Sequence[int]],
    causal: bool,
    first_position: int = 0,
    prefix: int = 0,
    branches: Sequence[tuple[int, Sequence[int]]] = (),
    padded: bool = True,
    bucket: int = 0,
) -> Batch:
    """Pack rows into one sequence, on the host.

    Args:
        rows: token ids; every row is longer than ``prefix``.
        first_position: the position id of a row's first token (RoBERTa counts from ``pad_token_id + 1``).
        prefix: how many tokens at the beginning are the same in all rows; they are put in once.
        branches: pairs of a row's index and tokens that follow that row. No other segment attends to a branch.
        padded: whether an attention backend will read padded blocks of the layout.
        bucket: make the number of tokens a multiple of this, so that few different shapes come up. The 1 to ``bucket``
            tokens of filler are a segment of their own, which no other one attends to. 0: without filler.
    """
    segments: list[Sequence[int]] = [rows[0][:prefix]] if prefix else []
    parents = [-1] * len(segments)
    positions = [torch.arange(first_position, first_position + prefix)] if prefix else []
    if bucket:
        needed = prefix + sum(len(row) - prefix for row in rows) + sum(len(tokens) for _, tokens in branches)
        missing = bucket - needed % bucket
        segments.append([rows[0][0]] * missing)
        parents.append(-1)
        positions.append(torch.full((missing,), first_position))
    first = len(segments)
    end = first + len(rows)
    for row in rows:
        segments.append(row[prefix:])
        parents.append(0 if prefix else -1)
        positions.append(torch.arange(first_position + prefix, first_position + len(row)))
    for owner, tokens in branches:
        segments.append(tokens)
        parents.append(owner + first)
        begin = first_position + len(rows[owner])
        positions.append(torch.arange(begin, begin + len(tokens)))
    lengths = [len(segment) for segment in segments]
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    layout = Layout.of(lengths, parents, causal, torch.device("cpu"), padded)
    if bucket:
        layout = replace(layout, longest=_bound(layout.longest), longest_query=_bound(layout.longest_query))
    ids = torch.tensor([token for segment in segments for token in segment])
    return Batch(
        inputs={"input_ids": ids[None], "position_ids": torch.cat(positions)[None], "attention_mask": None},
        layout=layout,
        prefix=prefix,
        starts=starts[first:end],
        lengths=lengths[first:end],
        branch_starts=starts[end:-1],
        extents=torch.tensor([starts[first:end], lengths[first:end]]),
    )


def _bound(longest: int) -> int:
    """The smallest power of two from ``SHORTEST_BOUND`` on that is not below ``longest``."""
    return max(SHORTEST_BOUND, 1 << (longest - 1).bit_length())


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """The length of the longest prefix that all rows share, the whole of no row; 0 if too short to be worth sharing."""
    if len(rows) < 2:
        return 0
    low, high = min(map(list, rows)), max(map(list, rows))  # a prefix of the first and last in order is one of all
    limit = min(len(row) for row in rows) - 1
    shared = next((i for i in range(min(limit, len(low), len(high))) if low[i] != high[i]), limit)
    return shared if shared >= SHORTEST_PREFIX else 0


def batch_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row indices in batches of similar length, shortest first; for inference, where the order does not matter."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + size] for start in range(0, len(order), size)]
