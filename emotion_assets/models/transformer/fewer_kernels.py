"""A frozen base in half precision with LoRA adapters, trained in fewer kernels: for a GPU.

A step on some hundred tokens is bound by the kernels that the host launches, not by what they compute. So:

- the half-precision copies of the adapters A and B are made once a step, for all layers of a kind together, with the
  scaling folded in;
- layers that read the same input (query, key and value; gate and up) are one product with their frozen weights, which
  are held as one matrix, and one with their adapters: ``[x (s A)'] B'``, in which B is block-diagonal;
- the rotary embedding (Su et al. 2021) turns queries and keys in place, in one go;
- a norm is one kernel;
- nothing needs autocast: each product's operands have the format of the base already.

The parameters, their names and the saved files stay PEFT's. ``emotion_assets_tests/models/test_fewer_kernels.py`` holds
output and gradients against ``lora``'s, ``emotion_assets_tests/fake_cuda/test_llama8b.py`` counts the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from emotion_assets.models.transformer.attention import TOLERANCE, packed_attention
from emotion_assets.models.transformer.lora import is_plain

ATTENTION_PARTS, MLP_PARTS = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def launch_fewer_kernels(model: Any) -> str:
    """Change a PEFT model, whose weights are on their device, to train in fewer kernels.

    It can be changed where all that is frozen is held in one half-precision format, where all that is trained are plain
    adapters, and where the kernels agree with plain products on a small example on this very device.

    Returns:
        Why it was left as it is; empty if it was changed.
    """
    from peft.tuners.lora.layer import LoraLayer

    adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
    adapters = {id(p) for layer in adapted for part in (layer.lora_A, layer.lora_B) for p in part.parameters()}
    kinds = {p.dtype for p in model.parameters() if id(p) not in adapters}
    others = any(p.requires_grad and id(p) not in adapters for p in model.parameters())
    if others or not all(map(is_plain, adapted)):
        return "something else than plain adapters is trained"
    if len(kinds) != 1 or torch.float32 in kinds:
        return "the base is not held in one half-precision format"
    if problem := _problem(adapted[0].base_layer.weight.device, next(iter(kinds))):
        return problem
    groups = _join_parts(model)
    joined = {id(layer) for group in groups for layer in group.layers}
    for layer in adapted:
        if id(layer) not in joined:
            layer.group = _Group([layer])
            layer.forward = MethodType(_forward_alone, layer)
            groups.append(layer.group)
    copies = _HalfCopies(groups, next(iter(kinds)))
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: copies.refresh())  # what runs first in a pass
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_norm, module)
    return ""


def _problem(device: torch.device, kind: torch.dtype) -> str:
    """Why the kernels cannot be relied on here: an error, or a wrong result for two layers with a rotary embedding."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    layers = []
    for outputs in (64, 32):
        adapters = [SimpleNamespace(weight=nn.Parameter(draw(*shape))) for shape in ((8, 64), (outputs, 8))]
        base = SimpleNamespace(weight=draw(outputs, 64).to(kind), bias=None)
        layers.append(
            SimpleNamespace(base_layer=base, lora_A={"": adapters[0]}, lora_B={"": adapters[1]}, scaling={"": 0.5})
        )
    x, angle, *factors = draw(5, 64), draw(5, 1, 8), draw(5, 64), draw(5, 32), draw(5, 32)
    cos, sine = torch.cat([angle.cos()] * 2, -1), torch.cat([-angle.sin(), angle.sin()], -1)
    try:
        group = _Group(layers)
        _HalfCopies([group], kind).refresh()
        a, b = group.adapters
        results: list[list[Any]] = []
        for exact in (True, False):
            leaf = x.clone().to(torch.float32 if exact else kind).requires_grad_()
            if exact:
                bases: Any = group.weight.float().split(group.sizes)
                parts = zip(bases, a, b, strict=True)
                first, second = (leaf @ w.t() + 0.5 * leaf @ down.t() @ up.t() for w, down, up in parts)
                heads = first.view(5, -1, 16)
                first = (heads * cos + heads.roll(8, -1) * sine).flatten(1)
            else:
                first, second = group(leaf, group.sizes, (cos.to(kind), sine.to(kind)))
            normed = _norm(SimpleNamespace(weight=torch.ones_like(second[0]), variance_epsilon=1e-6), second)
            made = [part.float() for part in (first, second, normed)]
            torch.stack([(part * factor).sum() for part, factor in zip(made, factors, strict=True)]).sum().backward()
            results.append([*made, leaf.grad, *(p.grad for p in (*a, *b))])
            for p in (*a, *b):
                p.grad = None
    except Exception as error:  # a kernel that this GPU, or this torch, does not have
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    for mine, reference in zip(results[1], results[0], strict=True):
        difference = ((mine.float() - reference).norm() / reference.norm()).item()
        if not difference < TOLERANCE:
            return f"the kernels differ from plain products by {difference:.1%} here"
    return ""


def _join_parts(model: Any) -> list[_Group]:
    """Have the attention and feed-forward parts of a Llama read their input once; returns their groups."""
    groups, rotary = [], []
    for module in model.modules():
        name = type(module).__name__
        parts = {"LlamaAttention": ATTENTION_PARTS, "LlamaMLP": MLP_PARTS}.get(name)
        if name == "LlamaRotaryEmbedding":
            rotary.append(module)
        if parts is None:
            continue
        layers = [getattr(module, part) for part in parts]
        if not all(hasattr(layer, "lora_A") for layer in layers):
            return []  # some parts are not adapted: all stay as they are
        groups.append((module, layers))
    joined = []
    for module, layers in groups:
        module.group = _Group(layers)
        module.forward = MethodType(_attend if len(layers) == len(ATTENTION_PARTS) else _feed_forward, module)
        joined.append(module.group)
    for module in rotary if joined else []:
        module.forward = MethodType(_with_signed_sine(module.forward), module)
    return joined


class _Group:
    """Adapted linear layers that read the same input, with their frozen weights as one matrix.

    Attributes:
        sizes: outputs of each layer.
        weight: ``[sum of sizes, in]``.
        halves: A and s A ``[layers * r, in]``, B and s B ``[sum of sizes, layers * r]`` in half precision, B with a
            block for each layer; set by ``_HalfCopies``.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self.sizes = [layer.base_layer.weight.shape[0] for layer in layers]
        self.weight, self.bias = layers[0].base_layer.weight, layers[0].base_layer.bias
        self.halves: tuple[torch.Tensor, ...] = ()
        self._adapters = [(*layer.lora_A.values(), *layer.lora_B.values()) for layer in layers]
        if len(layers) > 1:
            self.weight = torch.cat([layer.base_layer.weight.detach() for layer in layers])
            for layer, part in zip(layers, self.weight.split(self.sizes), strict=True):
                layer.base_layer.weight = nn.Parameter(part, requires_grad=False)  # a view: no second copy
            biases = [layer.base_layer.bias for layer in layers]
            self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])

    @property
    def adapters(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The parameters A ``[r, in]`` and B ``[out, r]`` of each layer, in fp32."""
        return [a.weight for a, _ in self._adapters], [b.weight for _, b in self._adapters]

    @property
    def scaling(self) -> float:
        (scaling,) = {value for layer in self.layers for value in layer.scaling.values()}
        return float(scaling)

    def __call__(self, x: torch.Tensor, sizes: list[int], rotary: Any = None) -> Any:
        """The outputs for ``x`` ``[..., in]``, cut into ``sizes``; with a rotary embedding for all but the last."""
        a, b = self.adapters
        return _JointLora.apply(x, self, sizes, rotary, *a, *b)  # type: ignore[no-untyped-call]


class _HalfCopies:
    """The half-precision copies that groups compute with, made anew for each pass that may follow an optimizer step.

    Groups of the same shapes (a part of each transformer layer) are made together, so that the number of kernels does
    not depend on the number of layers.
    """

    def __init__(self, groups: Sequence[_Group], kind: torch.dtype) -> None:
        self._alike: dict[tuple[Any, ...], list[_Group]] = {}
        self._kind, self._seen, self._may_be_old = kind, [-1], True
        for group in groups:
            a, b = group.adapters
            shapes = (group.scaling, *(p.shape for p in (*a, *b)))
            self._alike.setdefault(shapes, []).append(group)

    def refresh(self) -> None:
        """Make the copies anew if the adapters may have changed since they were made.

        An optimizer step may follow each pass with gradients; a fused one leaves no trace in a tensor's version.
        """
        adapters = [p for groups in self._alike.values() for group in groups for part in group.adapters for p in part]
        seen = [p._version for p in adapters]
        if self._may_be_old or seen != self._seen:
            with torch.no_grad():
                for groups in self._alike.values():
                    self._copy(groups)
        self._seen, self._may_be_old = seen, torch.is_grad_enabled()

    def _copy(self, groups: Sequence[_Group]) -> None:
        pairs, scaling = [group.adapters for group in groups], groups[0].scaling
        a = pairs[0][0]
        rank, width = a[0].shape
        shapes = ((len(a) * rank, width), (sum(groups[0].sizes), len(a) * rank))
        halves = [
            torch.zeros((len(groups), *shape), dtype=self._kind, device=a[0].device) for shape in shapes for _ in "ab"
        ]
        top = 0
        for i, size in enumerate(groups[0].sizes):
            of_rank, of_size = slice(i * rank, (i + 1) * rank), slice(top, top + size)
            top += size
            all_a = torch.stack([each[0][i] for each in pairs])
            all_b = torch.stack([each[1][i] for each in pairs])
            halves[0][:, of_rank].copy_(all_a)
            halves[1][:, of_rank].copy_(all_a * scaling)
            halves[2][:, of_size, of_rank].copy_(all_b)
            halves[3][:, of_size, of_rank].copy_(all_b * scaling)
        for j, group in enumerate(groups):
            group.halves = tuple(half[j] for half in halves)


class _JointLora(torch.autograd.Function):
    """``y = x W' + bias + [x (s A)'] B'`` of a group, and the rotary embedding of its first outputs."""

    @staticmethod
    def forward(ctx: Any, x: Any, group: _Group, sizes: list[int], rotary: Any, *adapters: torch.Tensor) -> Any:
        half_a, scaled_a, half_b, scaled_b = group.halves
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ scaled_a.t()
        out = nn.functional.linear(flat, group.weight, group.bias)
        out.addmm_(inner, half_b.t())
        if rotary is not None:
            _rotate_(out[:, : sum(sizes[:-1])], *rotary)
        ctx.save_for_backward(flat, inner, group.weight, half_a, scaled_b, *(rotary or ()))
        ctx.shape, ctx.sizes, ctx.parts = x.shape, sizes, group.sizes
        return tuple(part.view(*x.shape[:-1], -1) for part in out.split(sizes, 1))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        flat, inner, weight, half_a, scaled_b, *rotary = ctx.saved_tensors
        cut = [grad.reshape(flat.shape[0], -1) for grad in grads]
        grad = cut[0] if len(cut) == 1 else torch.cat(cut, 1)
        if rotary:
            cos, sine = rotary
            _rotate_(grad[:, : sum(ctx.sizes[:-1])], cos, sine, back=True)
        grad_inner = grad @ scaled_b
        rank = inner.shape[1] // len(ctx.parts)
        of_a = _product_in_fp32(grad_inner.t(), flat).split(rank)
        of_b = [
            _product_in_fp32(part.t(), inward)
            for part, inward in zip(grad.split(ctx.parts, 1), inner.split(rank, 1), strict=True)
        ]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight
            of_x.addmm_(grad_inner, half_a)
            of_x = of_x.view(ctx.shape)
        return (of_x, None, None, None, *of_a, *of_b)


def _product_in_fp32(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The product of two half-precision matrices as it was summed up, in fp32."""
    if x.device.type == "cuda":
        return torch.mm(x, y, out_dtype=torch.float32)
    return (x @ y).float()


def _rotate_(states: torch.Tensor, cos: torch.Tensor, sine: torch.Tensor, back: bool = False) -> None:
    """Turn heads ``[T, heads * width]`` in place by ``cos`` and ``sine`` ``[T, 1, width]``, or ``back``.

    The first half of ``sine`` is negative. The two halves of a head are the two coordinates.
    """
    heads = states.view(len(states), -1, cos.shape[-1])
    swapped = heads.roll(cos.shape[-1] // 2, -1)
    heads.mul_(cos).addcmul_(swapped, sine, value=-1 if back else 1)


def _with_signed_sine(original: Any) -> Any:
    """Rotary embeddings as ``_rotate_`` takes them, from transformers' ``[1, T, width]``."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sine = original(*args, **kwargs)
        sine[..., : sine.shape[-1] // 2].neg_()
        return cos.transpose(0, 1), sine.transpose(0, 1)

    return forward


def _attend(
    self: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any = None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """The forward pass of transformers' LlamaAttention over a packed sequence ``[1, T, H]``."""
    sizes = self.group.sizes
    q, k, v = (
        part.view(1, hidden_states.shape[1], -1, self.head_dim).transpose(1, 2)
        for part in self.group(hidden_states, sizes, position_embeddings)
    )
    dropout = self.attention_dropout if self.training else 0.0
    out, _ = packed_attention(self, q, k, v, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs)
    return self.o_proj(out.reshape(1, hidden_states.shape[1], -1)), None


def _feed_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward pass of transformers' LlamaMLP."""
    gate, up = self.group(x, self.group.sizes)
    return self.down_proj(self.act_fn(gate) * up)  # type: ignore[no-any-return]


def _forward_alone(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    (out,) = self.group(x, self.group.sizes)
    return out  # type: ignore[no-any-return]


def _norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Root mean square normalisation (Zhang & Sennrich 2019) as one kernel; transformers' own but for rounding."""
    return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)
