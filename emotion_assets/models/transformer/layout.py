"""Which tokens of a packed sequence attend to which, in the two forms that attention backends take.

Rows are packed: a backbone sees one sequence of tokens ``[1, T]`` without padding. The sequence is made of segments (a
row of text; a prompt that all rows begin with; an answer after a row), and the tokens of a segment attend to those of
its parent segment too, if it has one.

Does not belong here: token ids (``batches``), attention itself (``attention``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from torch.nn.functional import pad

from emotion_assets.training.transfer import to_device

STEADY_KEYS = 32  # with multiples of it, a CPU's half-precision products do not depend on how many keys are padding


@dataclass(frozen=True)
class Level:
    """The segments of one depth as a padded block, for backends that take rows of equal length.

    A segment without a parent has depth 0. ``R`` segments give ``R`` rows; ``Lq`` and ``Lk`` are the numbers of queries
    and keys of the longest.

    Attributes:
        rows: ``R``.
        query: ``[R * Lq]``, the index in the packed sequence of each query; a repeated index is padding.
        key: ``[R * Lk]``, the same of each key.
        unpad: ``[tokens]``, the index in the block of each query that is not padding.
        mask: ``[R, 1, Lq, Lk]``, true where a query attends to a key.
        causal: whether a token attends to earlier ones alone.
        runs: for segments that stand behind each other and attend to their own tokens alone: how many segments, and of
            which length, follow each other in the packed sequence. Each run is a block without padding. None otherwise.
    """

    rows: int
    query: torch.Tensor
    key: torch.Tensor
    unpad: torch.Tensor
    mask: torch.Tensor
    causal: bool
    runs: tuple[tuple[int, int], ...] = ()

    @cached_property
    def bias(self) -> torch.Tensor:
        """``mask`` as numbers to add to scores, fp32: 0 where it is true, minus infinity elsewhere."""
        return torch.zeros(self.mask.shape, device=self.mask.device).masked_fill_(~self.mask, float("-inf"))

    @cached_property
    def run_biases(self) -> tuple[torch.Tensor, ...]:
        """The same for each of the ``runs``, ``[L, L]``, or ``[1, 1]`` where every token attends to every one."""
        sizes = [length if self.causal else 1 for _, length in self.runs]
        return tuple(torch.full((size, size), float("-inf")).triu_(1) for size in sizes)

    @cached_property
    def steady(self) -> Level:
        """The same with a multiple of ``STEADY_KEYS`` keys, more of them padding."""
        missing = -self.mask.shape[-1] % STEADY_KEYS
        key = self.key.view(self.rows, -1)
        key = torch.cat([key, key[:, -1:].expand(-1, missing)], 1).flatten()
        return replace(self, key=key, mask=pad(self.mask, (0, missing), value=False))


@dataclass(frozen=True)
class Layout:
    """Which tokens of a packed sequence attend to which.

    Attributes:
        causal: whether a token attends to earlier ones alone.
        longest: keys of the longest segment, its parents' included, or more.
        levels: padded blocks, the segments without a parent first (for backends that take rows of equal length); none
            where they were not asked for.
        keys: indices in the packed sequence of all segments' keys; None where they are the sequence itself.
        cu_queries: ``[segments + 1]``, where each segment's queries begin and end.
        cu_keys: ``[segments + 1]``, where each segment's keys begin and end in ``keys``.
        longest_query: queries of the longest segment, or more.
    """

    causal: bool
    longest: int
    levels: tuple[Level, ...]
    keys: torch.Tensor | None
    cu_queries: torch.Tensor
    cu_keys: torch.Tensor
    longest_query: int

    @classmethod
    def of(
        cls, lengths: Sequence[int], parents: Sequence[int], causal: bool, device: torch.device, padded: bool = True
    ) -> Layout:
        """The layout of segments in the order of the packed sequence, in which depth never decreases.

        Args:
            lengths: tokens of each segment.
            parents: for each segment the index of an earlier one, or -1.
            padded: whether a backend will read the padded blocks.
        """
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        keys_of: list[np.ndarray] = []  # per segment: the indices of its parents' tokens, then of its own
        depths: list[int] = []
        for i, parent in enumerate(parents):
            own = np.arange(starts[i], starts[i + 1])
            keys_of.append(own if parent < 0 else np.concatenate([keys_of[parent], own]))
            depths.append(0 if parent < 0 else depths[parent] + 1)
        key_lengths = [len(keys) for keys in keys_of]
        layout = cls(
            causal=causal,
            longest=max(key_lengths),
            levels=tuple(
                _make_level([i for i, d in enumerate(depths) if d == depth], lengths, keys_of, causal)
                for depth in (range(max(depths) + 1) if padded else ())
            ),
            keys=None if max(depths) == 0 else torch.from_numpy(np.concatenate(keys_of)),
            cu_queries=torch.from_numpy(starts.astype(np.int32)),
            cu_keys=torch.from_numpy(np.cumsum([0, *key_lengths]).astype(np.int32)),
            longest_query=max(lengths),
        )
        return to_device(layout, device)


def _make_level(segments: list[int], lengths: Sequence[int], keys_of: list[np.ndarray], causal: bool) -> Level:
    queries = np.array([lengths[i] for i in segments])[:, None]
    keys = np.array([len(keys_of[i]) for i in segments])[:, None]
    at_query, at_key = np.arange(queries.max())[None], np.arange(keys.max())[None]
    starts = np.array([keys_of[i][-lengths[i]] for i in segments])[:, None]
    inside = at_query < queries
    own = [lengths[i] for i in segments if len(keys_of[i]) == lengths[i]]
    runs = tuple((len(list(run)), length) for length, run in groupby(own)) if len(own) == len(segments) else ()
    key = np.stack([np.pad(keys_of[i], (0, at_key.size - len(keys_of[i])), mode="edge") for i in segments])
    last_seen = (keys - queries + at_query)[:, :, None] if causal else (keys - 1)[:, :, None]
    mask = np.broadcast_to(at_key[:, None, :] <= last_seen, (len(segments), at_query.size, at_key.size))
    return Level(
        rows=len(segments),
        query=torch.from_numpy((starts + np.minimum(at_query, queries - 1)).ravel()),
        key=torch.from_numpy(key.ravel()),
        unpad=torch.from_numpy(np.flatnonzero(inside.ravel())),
        mask=torch.from_numpy(np.array(mask))[:, None],
        causal=causal,
        runs=runs,
    )
