"""LoRA adapters: added by PEFT, with a faster forward pass.

A LoRA layer computes ``y = x W' + b + s (x A') B'`` (Hu et al. 2021). PEFT does so operation by operation; here the
adapter's part is added into the result by one matrix product, forward and backward, and only ``x`` and ``x A'`` are
kept for the backward pass. The parameters, their names and the saved files stay PEFT's.
``emotion_assets_tests/models/test_lora.py`` compares the two. What a GPU needs besides stands in ``fewer_kernels``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn

from emotion_assets.settings.schema import Lora


def add_adapters(backbone: Any, lora: Lora, causal_head: bool) -> Any:
    """The backbone wrapped by PEFT, with new adapters (B is zero, so that training starts at the base).

    Args:
        causal_head: whether the backbone has its language-model head.

    Raises:
        UserError: ``target_modules`` names no module of the base.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    from emotion_assets.settings.errors import UserError

    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM if causal_head else TaskType.FEATURE_EXTRACTION,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        target_modules=lora.target_modules,
        modules_to_save=[_embedding_module_name(backbone)] if lora.train_embeddings else None,
    )
    try:
        with peft_reads_an_old_name():
            return cast_saved_modules_to_fp32(get_peft_model(backbone, config))
    except ValueError as error:
        raise UserError(f"lora.target_modules {lora.target_modules!r}: {str(error).splitlines()[0]}") from None


@contextmanager
def peft_reads_an_old_name() -> Iterator[None]:
    """Around PEFT wrapping a model: it asks for an attribute that transformers has renamed and warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def cast_saved_modules_to_fp32(model: Any) -> Any:
    """Hold the modules that are trained whole (PEFT's ``modules_to_save``) in fp32, as PEFT itself holds adapters."""
    from peft.utils.other import ModulesToSaveWrapper

    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()
    return model


def _embedding_module_name(backbone: Any) -> str:
    """The name of the module that turns token ids into vectors, as ``modules_to_save`` takes it."""
    embeddings = backbone.get_input_embeddings()
    return next(name for name, module in backbone.named_modules() if module is embeddings).rpartition(".")[2]


def speed_up_adapters(model: nn.Module) -> int:
    """Give every plain LoRA linear layer of a PEFT model the faster forward pass; returns how many got it.

    Layers with dropout, a variant (such as DoRA), several adapters or a quantised base keep PEFT's forward pass.
    """
    from peft.tuners.lora.layer import Linear

    layers = [module for module in model.modules() if isinstance(module, Linear) and is_plain(module)]
    for layer in layers:
        layer.forward = MethodType(_fast_forward(layer.forward), layer)
    return len(layers)


def is_plain(module: Any) -> bool:
    """Whether a LoRA layer of PEFT is the formula above and nothing more."""
    (name, *others) = list(module.lora_A)
    return (
        not others
        and type(module.base_layer) is nn.Linear
        and isinstance(module.lora_dropout[name], nn.Identity)
        and name not in module.lora_variant
        and not module.lora_bias.get(name, False)
    )


def _fast_forward(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.merged or self.disable_adapters:
            return original(x, *args, **kwargs)
        (name,) = self.lora_A
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        return _LoraLinear.apply(x, base.weight, base.bias, a, b, self.scaling[name])  # type: ignore[no-any-return]

    return forward


class _LoraLinear(torch.autograd.Function):
    """``y = x W' + bias + scaling (x A') B'`` for ``x`` ``[..., in]``, frozen ``weight`` ``[out, in]``, ``a``
    ``[r, in]`` and ``b`` ``[out, r]``."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float) -> torch.Tensor:
        device = x.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):
            flat = x.reshape(-1, x.shape[-1]).to(kind)
            inner = flat @ a.to(kind).t()
            out = nn.functional.linear(flat, weight.to(kind), None if bias is None else bias.to(kind))
            out.addmm_(inner, b.to(kind).t(), alpha=scaling)
        ctx.save_for_backward(flat, inner, weight, a, b)
        ctx.scaling, ctx.shape, ctx.dtype = scaling, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        flat, inner, weight, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0]).to(flat.dtype)
        grad_inner = (grad @ b.to(flat.dtype)).mul_(ctx.scaling)
        grad_b = (grad.t() @ inner).mul_(ctx.scaling).to(b.dtype)
        grad_a = (grad_inner.t() @ flat).to(a.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight.to(flat.dtype)
            grad_x.addmm_(grad_inner, a.to(flat.dtype))
            grad_x = grad_x.view(ctx.shape).to(ctx.dtype)
        return grad_x, None, None, grad_a, grad_b, None
