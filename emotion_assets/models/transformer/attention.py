"""Attention over packed rows, with several backends: flash-attn, hub kernels, torch's varlen_attn, SDPA, eager.

Rows are packed, and a ``Layout`` says which tokens attend to which. ``packed_attention`` follows it and is registered
in transformers under ``ATTENTION_NAME``, so no code of a model is changed.

To add a backend: for a kernel that takes rows of unequal length, a line in ``VARLEN_KERNELS`` and a function that loads
it; for one that takes padded rows, a line in ``PADDED_BACKENDS`` and the function itself. Then its name in the values
of ``attention`` in ``models.kinds.transformer``.

Belongs here: the backends, which of them runs and why. Does not belong here: the layout (``layout``).
https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from emotion_assets.models.transformer.layout import Layout, Level
from emotion_assets.settings.errors import UserError
from emotion_assets.training.runtime import Runtime

ATTENTION_NAME = "packed_rows"
HUB_KERNEL, HUB_KERNEL_VERSION = "kernels-community/flash-attn2", 4  # the version that transformers loads too
SHORT_ROW = 128  # keys: up to here plain products beat torch's attention on a CPU in half precision
TOLERANCE = 3e-2  # relative difference allowed between a half-precision kernel and eager attention in fp32

VarlenAttention = Callable[..., torch.Tensor]
"""``(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, dropout) -> out``, as ``flash_attn_varlen_func`` has it.

``q``, ``k``, ``v`` and ``out`` are ``[tokens, heads, width]``; ``cu_q`` and ``cu_k`` ``[segments + 1]`` are where
segments begin and end. A causal mask is aligned to the end: the last query of a segment sees its last key."""


@dataclass(frozen=True)
class Backend:
    """Which attention runs, and why that one.

    Attributes:
        name: a value of ``attention`` in a profile.
        varlen: the kernel, for a backend that takes rows of unequal length.
        supports_dropout: whether the kernel can drop attention weights. Where it cannot, SDPA takes its place in the
            layers that do (those of BERT and its kind, while training).
    """

    name: str
    why: str
    varlen: VarlenAttention | None = None
    supports_dropout: bool = True

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"

    def reads_padded(self, dropout: float) -> bool:
        """Whether padded blocks are read where attention weights are dropped with this probability."""
        return self.varlen is None or (dropout > 0 and not self.supports_dropout)


SDPA = Backend("sdpa", "torch's scaled_dot_product_attention")
EAGER = Backend("eager", "plain matrix products")


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
    """The attention that transformers calls: ``[1, heads, T, width]`` in, ``[1, T, heads, width]`` out.

    The parameters are those of transformers' attention interface; ``layout`` and ``backend`` are passed through a
    model's forward pass.

    Raises:
        UserError: the base limits its attention in a way that the rows' length exceeds, or caps its scores.
    """
    if softcap is not None or (sliding_window is not None and sliding_window < layout.longest):
        raise UserError("this base caps or windows its attention below max_length; lower the tokenizer's max_length")
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    if backend.varlen is not None and not backend.reads_padded(dropout):
        q, k = q.to(v.dtype), k.to(v.dtype)  # rotary embedding gives fp32 under autocast where the base is held in fp32
        if layout.keys is not None:
            k, v = k.index_select(0, layout.keys), v.index_select(0, layout.keys)
        bounds = (layout.cu_queries, layout.cu_keys, layout.longest_query, layout.longest)
        return backend.varlen(q, k, v, *bounds, layout.causal, scale, dropout)[None], None
    attend = PADDED_BACKENDS.get(backend.name, attend_sdpa)
    parts = [attend(q, k, v, level, scale, dropout) for level in layout.levels]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def _pad(x: torch.Tensor, indices: torch.Tensor, rows: int) -> torch.Tensor:
    """Tokens ``[T, heads, width]`` as padded rows ``[R, heads, L, width]``."""
    return x.index_select(0, indices).view(rows, -1, *x.shape[1:]).transpose(1, 2)


def attend_sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, level: Level, scale: float, dropout: float
) -> torch.Tensor:
    """Torch's scaled_dot_product_attention over one level, ``[tokens, heads, width]`` in and out.

    Scoring on a CPU takes rows of one length as they stand, see ``_attend_runs``. Short rows in half precision on a CPU
    go through ``_ShortRows``: there the backward pass of torch's costs many times what the products cost. On a GPU the
    keys and values of a group are repeated: with a mask, torch's fused kernel takes no grouped queries, and its other
    one writes all weights out.
    """
    if q.device.type != "cpu" and q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    alike_on_cpu = q.device.type == "cpu" and k.dtype == v.dtype == q.dtype
    half_on_cpu = alike_on_cpu and q.dtype != torch.float32
    if alike_on_cpu and not torch.is_grad_enabled():  # scoring: no sum depends on the other rows of a batch
        if level.runs and not dropout:
            return _attend_runs(q, k, v, level, scale)
        level = level.steady if half_on_cpu else level
    queries = _pad(q, level.query, level.rows)
    keys, values = _pad(k, level.key, level.rows), _pad(v, level.key, level.rows)
    if half_on_cpu and not dropout and level.mask.shape[-1] <= SHORT_ROW:
        out: torch.Tensor = _ShortRows.apply(queries, keys, values, level.bias, scale)  # type: ignore[no-untyped-call]
    else:
        out = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=level.mask,
            dropout_p=dropout,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    return out.transpose(1, 2).flatten(0, 1).index_select(0, level.unpad)


def _attend_runs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, level: Level, scale: float) -> torch.Tensor:
    """Attention of rows that attend to their own tokens alone, ``[tokens, heads, width]`` in and out.

    Rows of one length that stand behind each other are a block already: nothing is gathered, padded or masked.
    """
    out, start = q.new_empty((sum(rows * length for rows, length in level.runs), *q.shape[1:])), 0
    for (rows, length), bias in zip(level.runs, level.run_biases, strict=True):
        queries, keys, values, target = (
            x[start : start + rows * length].view(rows, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v, out)
        )
        if q.dtype != torch.float32 and length <= SHORT_ROW:
            target.copy_(_ShortRows.apply(queries, keys, values, bias, scale))  # type: ignore[no-untyped-call]
        else:
            attended = scaled_dot_product_attention(
                queries,
                keys,
                values,
                is_causal=level.causal,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            target.copy_(attended)
        start += rows * length
    return out


class _ShortRows(torch.autograd.Function):
    """Attention of padded rows as batched matrix products; the query heads of a group share one with their key head.

    ``q`` ``[R, H, Lq, W]``, ``k`` and ``v`` ``[R, G, Lk, W]``, ``bias`` ``[R, 1, Lq, Lk]`` or what expands to it, fp32,
    added to the scores. The softmax is computed in fp32. The gradient of the scores is ``P * (dP - sum(dP * P))``, as
    in FlashAttention (Dao et al. 2022).
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, bias: torch.Tensor, scale: float) -> torch.Tensor:
        rows, heads, length, width = q.shape
        groups, keys = k.shape[1], k.shape[2]
        flat_q = q.reshape(rows * groups, -1, width)
        flat_k, flat_v = k.reshape(rows * groups, keys, width), v.reshape(rows * groups, keys, width)
        products = torch.bmm(flat_q, flat_k.transpose(1, 2)).view(rows, heads, length, keys)
        weights = torch.softmax(torch.add(bias, products, alpha=scale), -1).to(q.dtype)  # one pass, and in fp32
        weights = weights.view(rows * groups, -1, keys)
        ctx.save_for_backward(flat_q, flat_k, flat_v, weights)
        ctx.scale, ctx.shapes = scale, (q.shape, k.shape)
        return torch.bmm(weights, flat_v).view(q.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad = grads[0].reshape(q.shape)
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, v.transpose(1, 2)).float()
        p = weights.float()
        grad_scores = torch._softmax_backward_data(grad_weights, p, -1, torch.float32).mul_(ctx.scale).to(q.dtype)
        of_q, of_k = ctx.shapes
        return (
            torch.bmm(grad_scores, k).view(of_q),
            torch.bmm(grad_scores.transpose(1, 2), q).view(of_k),
            grad_v.view(of_k),
            None,
            None,
        )


def attend_eager(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, level: Level, scale: float, dropout: float
) -> torch.Tensor:
    """Attention over one level as plain matrix products: the reference for every other backend."""
    group = q.shape[1] // k.shape[1]
    queries = _pad(q, level.query, level.rows)
    keys = _pad(k, level.key, level.rows).repeat_interleave(group, 1)
    values = _pad(v, level.key, level.rows).repeat_interleave(group, 1)
    scores = (queries @ keys.transpose(2, 3)).float() * scale
    weights = torch.softmax(scores.masked_fill(~level.mask, float("-inf")), -1).to(values.dtype)
    out = torch.dropout(weights, dropout, dropout > 0) @ values
    return out.transpose(1, 2).flatten(0, 1).index_select(0, level.unpad)


PADDED_BACKENDS: dict[str, Callable[..., torch.Tensor]] = {"sdpa": attend_sdpa, "eager": attend_eager}


def register_packed_attention() -> None:
    """Register the attention in transformers, which builds no mask for a name that is not its own."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, packed_attention)


def _load_flash_attn() -> VarlenAttention:
    return _adapt_flash_attn(importlib.import_module("flash_attn").flash_attn_varlen_func)


def _load_hub_kernel() -> VarlenAttention:
    kernel = importlib.import_module("kernels").get_kernel(HUB_KERNEL, version=HUB_KERNEL_VERSION)
    return _adapt_flash_attn(kernel.flash_attn_varlen_func)


def _adapt_flash_attn(function: Callable[..., Any]) -> VarlenAttention:
    """The function with its deterministic backward pass, so that a resumed training ends with the same weights."""
    fixed = {"deterministic": True} if "deterministic" in inspect.signature(function).parameters else {}

    def attend(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, dropout):  # type: ignore[no-untyped-def]
        options = {"dropout_p": dropout, "softmax_scale": scale, "causal": causal} | fixed
        return function(q, k, v, cu_q, cu_k, max_q, max_k, **options)

    return attend


def _load_torch_varlen() -> VarlenAttention:
    """Torch's own; where it takes no grouped queries (before ``enable_gqa``), keys and values are repeated."""
    function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    takes_groups = "enable_gqa" in inspect.signature(function).parameters

    def attend(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, dropout):  # type: ignore[no-untyped-def]
        options = {"scale": scale, "window_size": (-1, 0) if causal else (-1, -1)}
        if (group := q.shape[1] // k.shape[1]) > 1 and not takes_groups:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        elif group > 1:
            options["enable_gqa"] = True
        out = function(q, k, v, cu_q, cu_k, max_q, max_k, **options)
        _make_backward_deterministic(out)
        return out

    return attend


def _make_backward_deterministic(out: torch.Tensor) -> None:
    """Have the kernel that gives the gradients of ``out``'s inputs add in a fixed order.

    Torch's FlashAttention reads this from a setting of the whole process, which is on while this kernel runs.
    """
    if out.grad_fn is not None:
        _fixed_order(False)  # it stays on where memory ran out in the kernel
        out.grad_fn.register_prehook(lambda *_: _fixed_order(True))
        out.grad_fn.register_hook(lambda *_: _fixed_order(False))


def _fixed_order(on: bool) -> None:
    if torch.are_deterministic_algorithms_enabled() != on:
        settings: Any = torch.utils.deterministic
        settings.fill_uninitialized_memory = False  # the kernels that would do so cost more than the order
        torch.use_deterministic_algorithms(on)


@dataclass(frozen=True)
class VarlenKernel:
    """How to get a kernel that takes rows of unequal length.

    Attributes:
        load: imports or fetches it; any error means that this machine does not have it.
        automatic: whether it is tried without being asked for by name.
        supports_dropout: see ``Backend``.
    """

    load: Callable[[], VarlenAttention]
    automatic: bool = True
    supports_dropout: bool = True


VARLEN_KERNELS = {  # in the order in which they are tried
    "varlen": VarlenKernel(_load_torch_varlen, supports_dropout=False),  # FlashAttention-2 as torch ships it
    "flash_attention_2": VarlenKernel(_load_flash_attn),
    "hub_kernel": VarlenKernel(_load_hub_kernel, automatic=False),  # a download
}


def choose_backend(requested: str, runtime: Runtime) -> Backend:
    """The backend to use, and why that one.

    On a CUDA GPU in half precision the requested kernel is tried first, then those of ``VARLEN_KERNELS`` that need no
    request. A kernel must agree with eager attention on a small example on this very device. SDPA is always there and
    comes last.

    Args:
        requested: a value of ``attention`` in a profile; ``auto`` requests none.
    """
    if requested in PADDED_BACKENDS:
        return Backend(requested, "asked for")
    if runtime.device.type != "cuda":
        return Backend("sdpa", "the kernels for rows of unequal length need a CUDA GPU")
    if runtime.dtype == torch.float32:
        return Backend("sdpa", "the kernels for rows of unequal length need bf16 or fp16")
    passed_over = ""
    names = [name for name, kernel in VARLEN_KERNELS.items() if kernel.automatic or name == requested]
    for name in sorted(names, key=lambda name: name != requested):
        try:
            attend = VARLEN_KERNELS[name].load()
            _check_against_eager(attend, runtime)
        except Exception as error:  # not installed, built for another GPU, a failed download, a wrong result
            passed_over += f"; not {name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        else:
            supports_dropout = VARLEN_KERNELS[name].supports_dropout
            where = "" if supports_dropout else "; sdpa where attention has dropout"
            return Backend(name, f"agrees with eager on this GPU{where}{passed_over}", attend, supports_dropout)
    return Backend("sdpa", passed_over.removeprefix("; "))


def _check_against_eager(varlen: VarlenAttention, runtime: Runtime) -> None:
    """Run a kernel forward and backward on two rows behind a shared prefix.

    Raises:
        RuntimeError: its output or a gradient differs from eager attention's.
    """
    layout = Layout.of([5, 3, 9], [-1, 0, 0], True, runtime.device)
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 17, 64), (1, 2, 17, 64), (1, 2, 17, 64))
    inputs = [torch.randn(shape, generator=generator).to(runtime.device) for shape in shapes]
    results = []
    for backend, dtype in ((Backend("checked", "", varlen), runtime.dtype), (EAGER, torch.float32)):
        q, k, v = (x.to(dtype).detach().requires_grad_() for x in inputs)
        out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, layout=layout, backend=backend)
        out.square().sum().backward()
        results.append([out.float(), *(leaf.grad.float() for leaf in (q, k, v) if leaf.grad is not None)])
    for tensor, reference in zip(*results, strict=True):
        difference = ((tensor - reference).norm() / reference.norm()).item()
        if not difference < TOLERANCE:
            raise RuntimeError(f"differs from eager attention by {difference:.1%}")
