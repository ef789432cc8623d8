"""One attention over packed rows, with several backends: flash-attn, hub kernels, torch's varlen_attn, SDPA, eager.

Padding is removed before the embeddings, so a backbone sees one line of tokens ``[1, T]``. The line is made of
segments (a row of text; a prompt that all rows begin with; an answer after a row) and each segment may have a parent
segment that its tokens see too. ``Layout`` says which tokens see which; ``packed_attention`` is registered in
transformers under ``NAME`` and obeys it, so nothing of a model's own code is changed.

Belongs here: the layout, the backends, which of them runs and why. Does not belong here: token ids (``batches``).
https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from emotion_assets.settings.errors import UserError
from emotion_assets.training.runtime import Runtime

NAME = "packed_rows"
HUB_KERNEL, HUB_KERNEL_VERSION = "kernels-community/flash-attn2", 4  # the version that transformers takes too
TOLERANCE = 3e-2  # of half-precision kernels against eager in fp32, values of order one

VarlenAttention = Callable[..., torch.Tensor]
"""``(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, dropout) -> out``, all ``[tokens, heads, width]``. Causal is
aligned to the end: the last query of a segment sees its last key."""


@dataclass(frozen=True)
class Backend:
    """Which attention runs, and why that one. ``varlen`` is set for the kernels that take rows of unequal length;
    without ``dropout`` SDPA takes over where attention weights are dropped (BERT and its kind in training)."""

    name: str
    why: str
    varlen: VarlenAttention | None = None
    dropout: bool = True

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


SDPA = Backend("sdpa", "torch's scaled_dot_product_attention")
EAGER = Backend("eager", "plain matrix products")


@dataclass(frozen=True)
class Level:
    """Segments of one depth as a padded block, for backends that want equal lengths.

    ``query`` ``[R * Lq]`` and ``key`` ``[R * Lk]`` are places in the line (a repeated place stands for padding),
    ``unpad`` ``[tokens]`` are the places of the level's own tokens in the block, ``mask`` ``[R, 1, Lq, Lk]`` is true
    where a query sees a key.
    """

    rows: int
    query: torch.Tensor
    key: torch.Tensor
    unpad: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Layout:
    """Which tokens of a packed line see which, in both forms that backends take."""

    causal: bool
    longest: int
    levels: tuple[Level, ...]
    keys: torch.Tensor | None
    cu_queries: torch.Tensor
    cu_keys: torch.Tensor
    longest_query: int

    @classmethod
    def of(cls, lengths: Sequence[int], parents: Sequence[int], causal: bool, device: torch.device) -> Layout:
        """The layout of segments in line order. ``parents[i]`` is the index of an earlier segment, or -1.

        Segments of one depth stand together, the shallow before the deep.
        """
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        chains: list[np.ndarray] = []
        depths: list[int] = []
        for i, parent in enumerate(parents):
            own = np.arange(starts[i], starts[i + 1])
            chains.append(own if parent < 0 else np.concatenate([chains[parent], own]))
            depths.append(0 if parent < 0 else depths[parent] + 1)
        levels = [
            _level([i for i, d in enumerate(depths) if d == depth], lengths, chains, causal, device)
            for depth in range(max(depths) + 1)
        ]
        key_lengths = [len(chain) for chain in chains]
        return cls(
            causal=causal,
            longest=max(key_lengths),
            levels=tuple(levels),
            keys=None if max(depths) == 0 else torch.from_numpy(np.concatenate(chains)).to(device),
            cu_queries=torch.tensor(starts, dtype=torch.int32, device=device),
            cu_keys=torch.tensor(np.cumsum([0, *key_lengths]), dtype=torch.int32, device=device),
            longest_query=max(lengths),
        )


def _level(
    segments: list[int], lengths: Sequence[int], chains: list[np.ndarray], causal: bool, device: torch.device
) -> Level:
    queries = np.array([lengths[i] for i in segments])[:, None]
    keys = np.array([len(chains[i]) for i in segments])[:, None]
    at_query, at_key = np.arange(queries.max())[None], np.arange(keys.max())[None]
    starts = np.array([chains[i][-lengths[i]] for i in segments])[:, None]
    inside = at_query < queries
    key = np.stack([np.pad(chains[i], (0, at_key.size - len(chains[i])), mode="edge") for i in segments])
    seen = (keys - queries + at_query)[:, :, None] if causal else (keys - 1)[:, :, None]
    mask = np.broadcast_to(at_key[:, None, :] <= seen, (len(segments), at_query.size, at_key.size))
    return Level(
        rows=len(segments),
        query=torch.from_numpy((starts + np.minimum(at_query, queries - 1)).ravel()).to(device),
        key=torch.from_numpy(key.ravel()).to(device),
        unpad=torch.from_numpy(np.flatnonzero(inside.ravel())).to(device),
        mask=torch.from_numpy(np.array(mask)).to(device)[:, None],
    )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    layout: Layout,
    backend: Backend = SDPA,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """The attention that transformers calls: ``[1, heads, T, width]`` in, ``[1, T, heads, width]`` out."""
    if softcap is not None or (sliding_window is not None and sliding_window < layout.longest):
        raise UserError("this base caps or windows its attention below max_length; lower the tokenizer's max_length")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    if backend.varlen is not None and (backend.dropout or not dropout):
        q, k = q.to(v.dtype), k.to(v.dtype)  # rotary embedding gives fp32 under autocast where the base is held in fp32
        if layout.keys is not None:
            k, v = k.index_select(0, layout.keys), v.index_select(0, layout.keys)
        bounds = (layout.cu_queries, layout.cu_keys, layout.longest_query, layout.longest)
        return backend.varlen(q, k, v, *bounds, layout.causal, scale, dropout)[None], None
    attend = _eager if backend.name == "eager" else _sdpa
    parts = [attend(q, k, v, level, scale, dropout) for level in layout.levels]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def _block(x: torch.Tensor, places: torch.Tensor, rows: int) -> torch.Tensor:
    """Tokens ``[T, heads, width]`` as padded rows ``[R, heads, L, width]``."""
    return x.index_select(0, places).view(rows, -1, *x.shape[1:]).transpose(1, 2)


def _sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, level: Level, scale: float, dropout: float
) -> torch.Tensor:
    out = scaled_dot_product_attention(
        _block(q, level.query, level.rows),
        _block(k, level.key, level.rows),
        _block(v, level.key, level.rows),
        attn_mask=level.mask,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2).flatten(0, 1).index_select(0, level.unpad)


def _eager(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, level: Level, scale: float, dropout: float
) -> torch.Tensor:
    group = q.shape[1] // k.shape[1]
    queries = _block(q, level.query, level.rows)
    keys = _block(k, level.key, level.rows).repeat_interleave(group, 1)
    values = _block(v, level.key, level.rows).repeat_interleave(group, 1)
    scores = (queries @ keys.transpose(2, 3)).float() * scale
    weights = torch.softmax(scores.masked_fill(~level.mask, float("-inf")), -1).to(values.dtype)
    out = torch.dropout(weights, dropout, dropout > 0) @ values
    return out.transpose(1, 2).flatten(0, 1).index_select(0, level.unpad)


def register() -> None:
    """Make the attention known to transformers under ``NAME``; it builds no mask for a name it does not know."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def choose_backend(asked: str, runtime: Runtime) -> Backend:
    """The backend to use and why.

    On a CUDA GPU in half precision these are tried, the one asked for first: flash-attn, torch's varlen_attn. A build
    of flash-attn from the ``kernels`` hub is fetched only when it is asked for. Each must agree with eager attention
    on a small example on this very device. SDPA needs nothing and comes last.
    """
    if asked in ("sdpa", "eager"):
        return Backend(asked, "asked for")
    if runtime.device.type != "cuda":
        return Backend("sdpa", "the kernels for rows of unequal length need a CUDA GPU")
    if runtime.dtype == torch.float32:
        return Backend("sdpa", "the kernels for rows of unequal length need bf16 or fp16")
    passed_over = ""
    names = [name for name in _VARLEN if name in (asked, "flash_attention_2", "varlen")]
    for name in sorted(names, key=lambda name: name != asked):
        try:
            found = _VARLEN[name]()
            _probe(found, runtime)
        except Exception as error:  # a missing wheel, a kernel for another GPU, a download that cannot be had
            passed_over += f"; not {name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        else:
            dropout = name not in _WITHOUT_DROPOUT
            where = "" if dropout else "; sdpa where attention has dropout"
            return Backend(name, f"agrees with eager on this GPU{where}{passed_over}", found, dropout)
    return Backend("sdpa", passed_over.removeprefix("; "))


def _flash_attn() -> VarlenAttention:
    return _of_flash(importlib.import_module("flash_attn").flash_attn_varlen_func)


def _hub_kernel() -> VarlenAttention:
    kernel = importlib.import_module("kernels").get_kernel(HUB_KERNEL, version=HUB_KERNEL_VERSION)
    return _of_flash(kernel.flash_attn_varlen_func)


def _of_flash(function: Callable[..., Any]) -> VarlenAttention:
    def attend(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, dropout):  # type: ignore[no-untyped-def]
        return function(q, k, v, cu_q, cu_k, max_q, max_k, dropout_p=dropout, softmax_scale=scale, causal=causal)

    return attend


def _torch_varlen() -> VarlenAttention:
    function = importlib.import_module("torch.nn.attention.varlen").varlen_attn

    def attend(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, dropout):  # type: ignore[no-untyped-def]
        window = (-1, 0) if causal else (-1, -1)
        gqa = q.shape[1] != k.shape[1]
        return function(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window, enable_gqa=gqa)

    return attend


_VARLEN: dict[str, Callable[[], VarlenAttention]] = {
    "flash_attention_2": _flash_attn,
    "hub_kernel": _hub_kernel,
    "varlen": _torch_varlen,
}
_WITHOUT_DROPOUT = ("varlen",)


def _probe(varlen: VarlenAttention, runtime: Runtime) -> None:
    """Run the backend forward and backward on a shared prefix and two rows; raise unless it agrees with eager."""
    layout = Layout.of([5, 3, 9], [-1, 0, 0], True, runtime.device)
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 17, 64), (1, 2, 17, 64), (1, 2, 17, 64))
    inputs = [torch.randn(shape, generator=generator).to(runtime.device) for shape in shapes]
    results = []
    for backend, dtype in ((Backend("probed", "", varlen), runtime.dtype), (EAGER, torch.float32)):
        q, k, v = (x.to(dtype).detach().requires_grad_() for x in inputs)
        out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, layout=layout, backend=backend)
        out.square().sum().backward()
        results.append([out.float(), *(leaf.grad.float() for leaf in (q, k, v) if leaf.grad is not None)])
    for mine, reference in zip(*results, strict=True):
        difference = ((mine - reference).norm() / reference.norm()).item()
        if not difference < TOLERANCE:
            raise RuntimeError(f"differs from eager attention by {difference:.1%}")
