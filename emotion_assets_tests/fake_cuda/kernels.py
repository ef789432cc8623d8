"""What CUDA kernels compute that have no CPU form: attention over packed rows, and over padded rows with a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


def _segments(cu_q: torch.Tensor, cu_k: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    q, k = cu_q.tolist(), cu_k.tolist()
    return ((slice(q[i], q[i + 1]), slice(k[i], k[i + 1])) for i in range(len(q) - 1))


def _weights(q: torch.Tensor, k: torch.Tensor, scale: float, causal: bool) -> torch.Tensor:
    """Softmax of ``q k'``, ``[heads, queries, keys]`` in fp32; a causal mask is aligned to the last key."""
    scores = q @ k.transpose(1, 2) * scale
    if causal:
        ahead = torch.ones(scores.shape[1:], dtype=torch.bool).triu(scores.shape[2] - scores.shape[1] + 1)
        scores = scores.masked_fill(ahead, float("-inf"))
    return scores.softmax(-1)


def _heads(x: torch.Tensor, group: int = 1) -> torch.Tensor:
    """``[tokens, heads, width]`` as ``[heads * group, tokens, width]`` in fp32."""
    return x.float().transpose(0, 1).repeat_interleave(group, 0)


def varlen(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, causal: bool, *rest: Any) -> Any:
    """``torch_attn::_varlen_attn``: output, log-sum-exp (not computed), state of the random numbers (unused)."""
    scale, group = rest[0], q.shape[1] // k.shape[1]
    assert q.dtype in (torch.float16, torch.bfloat16) and q.dtype == k.dtype == v.dtype, (
        "the kernel needs half precision"
    )
    out = torch.zeros_like(q)
    for at_q, at_k in _segments(cu_q, cu_k):
        assert at_q.stop - at_q.start <= max_q and at_k.stop - at_k.start <= max_k
        weights = _weights(_heads(q[at_q]), _heads(k[at_k], group), scale, causal)
        out[at_q] = (weights @ _heads(v[at_k], group)).transpose(0, 1).to(q.dtype)
    return out, torch.zeros(q.shape[1], q.shape[0]), torch.zeros(2, dtype=torch.uint64)


def varlen_backward(
    grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, cu_q: Any, cu_k: Any, *rest: Any
) -> tuple[torch.Tensor, ...]:
    """``torch_attn::_varlen_attn_backward``: the gradients of ``q``, ``k`` and ``v``."""
    causal, scale = rest[2], rest[4]
    group, grads = q.shape[1] // k.shape[1], tuple(torch.zeros_like(x) for x in (q, k, v))

    def of_group(x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, group, *x.shape[1:]).sum(1).transpose(0, 1)

    for at_q, at_k in _segments(cu_q, cu_k):
        queries, keys, values = _heads(q[at_q]), _heads(k[at_k], group), _heads(v[at_k], group)
        of_out, weights = _heads(grad[at_q]), _weights(queries, keys, scale, causal)
        of_weights = of_out @ values.transpose(1, 2)
        of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
        grads[0][at_q] = (of_scores @ keys).transpose(0, 1).to(q.dtype)
        grads[1][at_k] = of_group(of_scores.transpose(1, 2) @ queries).to(k.dtype)
        grads[2][at_k] = of_group(weights.transpose(1, 2) @ of_out).to(v.dtype)
    return grads


def _dropped(weights: torch.Tensor, share: float, seed: torch.Tensor) -> torch.Tensor:
    """Which weights stay, scaled up; the same for the same seed."""
    generator = torch.Generator().manual_seed(int(seed))
    return (torch.rand(weights.shape, generator=generator) >= share).to(weights.dtype) / (1 - share)


def _padded_weights(q: Any, k: Any, bias: Any, scale: float | None) -> torch.Tensor:
    scores = q.float() @ k.float().transpose(2, 3) * (scale or q.shape[-1] ** -0.5)
    return (scores if bias is None else scores + bias.float()).softmax(-1)


def efficient(
    q: Any, k: Any, v: Any, bias: Any, lse: bool, dropout: float = 0.0, causal: bool = False, *, scale: Any = None
) -> tuple[torch.Tensor, ...]:
    """``aten::_scaled_dot_product_efficient_attention``, ``[rows, heads, tokens, width]``."""
    seed = torch.randint(2**31, ())
    weights = _padded_weights(q, k, bias, scale)
    out = (weights * _dropped(weights, dropout, seed) if dropout else weights) @ v.float()
    return out.to(q.dtype), torch.zeros(q.shape[:3]), seed, torch.zeros((), dtype=torch.int64)


def efficient_backward(
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    bias: Any,
    out: Any,
    lse: Any,
    seed: Any,
    offset: Any,
    dropout: float,
    *_: Any,
    **o: Any,
) -> tuple[Any, ...]:
    """``aten::_scaled_dot_product_efficient_attention_backward`` without a gradient of the bias."""
    scale = o.get("scale") or q.shape[-1] ** -0.5
    weights, of_out = _padded_weights(q, k, bias, scale), grad.float()
    stays = _dropped(weights, dropout, seed) if dropout else torch.ones(())
    of_weights = of_out @ v.float().transpose(2, 3) * stays
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
    of_q, of_k = of_scores @ k.float(), of_scores.transpose(2, 3) @ q.float()
    of_v = (weights * stays).transpose(2, 3) @ of_out
    return of_q.to(q.dtype), of_k.to(k.dtype), of_v.to(v.dtype), None


def mm_to(x: Any, y: Any, dtype: torch.dtype) -> torch.Tensor:
    """``aten::mm.dtype``: the product as it was summed up."""
    return (x.float() @ y.float()).to(dtype)


@torch.library.custom_op("fake_cuda::rms_norm", mutates_args=())
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``aten::_fused_rms_norm`` is on CUDA, in one kernel: the output, and the reciprocal root mean square."""
    rstd = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    return (x.float() * rstd * weight.float()).to(x.dtype), rstd


@torch.library.custom_op("fake_cuda::rms_norm_backward", mutates_args=())
def rms_norm_backward(grad: torch.Tensor, x: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of the input of ``rms_norm``; its weight is frozen."""
    normed, scaled = x.float() * rstd, grad.float() * weight.float()
    return (rstd * (scaled - normed * (normed * scaled).mean(-1, keepdim=True))).to(x.dtype)


@rms_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@rms_norm_backward.register_fake
def _(grad: torch.Tensor, x: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _norm_backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[Any, None, None]:
    x, rstd, weight = ctx.saved_tensors
    return rms_norm_backward(grad, x, rstd, weight), None, None


def _keep_for_backward(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0], output[1], inputs[1])


rms_norm.register_autograd(_norm_backward, setup_context=_keep_for_backward)


def fused_rms_norm(x: torch.Tensor, shape: Any, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``torch.nn.functional.rms_norm`` on CUDA: the CPU build of torch computes it in parts."""
    assert weight.dtype == x.dtype, "the kernel takes one format"
    return rms_norm(x, weight, eps)[0]  # type: ignore[no-any-return]


def sdpa(
    q: Any, k: Any, v: Any, attn_mask: Any, dropout_p: float = 0.0, scale: Any = None, enable_gqa: bool = False
) -> torch.Tensor:
    """``scaled_dot_product_attention`` with a mask, on CUDA: its fused kernel takes no grouped queries."""
    if q.device.type != "cuda" or (enable_gqa and q.shape[1] != k.shape[1]):
        plain = torch.nn.functional.scaled_dot_product_attention
        return plain(q, k, v, attn_mask, dropout_p, scale=scale, enable_gqa=enable_gqa)
    bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
    bias = bias.expand(*q.shape[:3], k.shape[2])
    fused = torch.ops.aten._scaled_dot_product_efficient_attention
    return fused(q, k, v, bias, True, dropout_p, False, scale=scale)[0]  # type: ignore[no-any-return]


EMULATED: dict[str, Callable[..., Any]] = {
    "torch_attn._varlen_attn": varlen,
    "torch_attn._varlen_attn_backward": varlen_backward,
    "aten.mm.dtype": mm_to,
    "aten._scaled_dot_product_efficient_attention": efficient,
    "aten._scaled_dot_product_efficient_attention_backward": efficient_backward,
}
