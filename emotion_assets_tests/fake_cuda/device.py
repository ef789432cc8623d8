"""Makes this process believe that it has one CUDA GPU: what the project and its libraries ask of ``torch.cuda``.

Only for a process of its own that was started with the library of ``device.cpp`` in LD_PRELOAD: nothing is undone.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._device import _device_constructors

from emotion_assets_tests.fake_cuda import graphs, kernels, tensors
from emotion_assets_tests.fake_cuda.tensors import FakeCudaTensor, OnDevice, is_device, synchronize

GIB = 2**30


class Properties:
    name = "a make-believe GPU"
    total_memory = 80 * GIB
    major, minor = 9, 0
    multi_processor_count = 132


class Event:
    """A mark in the device's work. To wait for it is to wait for the work before it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def wait(self, *_: Any) -> None:
        pass

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        tensors.finish_transfers()


def install() -> None:
    """Believe in the GPU from here on."""
    cuda: Any = torch.cuda
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "_lazy_init": None,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "get_device_name": Properties.name,
        "get_device_properties": Properties,
        "get_device_capability": (9, 0),
        "is_bf16_supported": True,
        "mem_get_info": (60 * GIB, 80 * GIB),
        "max_memory_allocated": 123 * 2**20,
        "memory_allocated": 0,
        "memory_reserved": 0,
        "reset_peak_memory_stats": None,
        "empty_cache": None,
        "manual_seed": None,
        "manual_seed_all": None,
        "is_current_stream_capturing": False,
    }
    for name, answer in answers.items():
        setattr(cuda, name, lambda *_, answer=answer, **__: answer)
    cuda.synchronize = lambda *_: synchronize()
    graphs.install(cuda)
    cuda.Event = Event
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _device_constructors()  # remembers torch.tensor as it is, for `with torch.device(...)`
    make = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
        if not is_device(device):
            return make(data, device=device, **options)
        tensors._note("blocking", "torch.tensor")
        return FakeCudaTensor(make(data, **options))

    torch.tensor = tensor  # type: ignore[assignment]
    torch.as_tensor = _as_tensor(torch.as_tensor, tensor)  # type: ignore[assignment]
    use_fused_kernels()
    OnDevice().__enter__()


def use_fused_kernels() -> None:
    """Where torch looks at the class of a tensor, or computes in parts on the CPU: as it is on CUDA."""
    clip_grad: Any = torch.nn.utils.clip_grad
    clip_grad._has_foreach_support = lambda tensors, device: True
    plain = torch.nn.functional.rms_norm

    def rms_norm(x: Any, shape: Any, weight: Any = None, eps: Any = None) -> Any:
        return (kernels.fused_rms_norm if x.device.type == "cuda" else plain)(x, shape, weight, eps)

    torch.nn.functional.rms_norm = rms_norm


def _as_tensor(original: Any, tensor: Any) -> Any:
    def as_tensor(data: Any, *, device: Any = None, **options: Any) -> Any:
        if isinstance(data, torch.Tensor):
            return data.to(device=device, **options) if device or options else data
        return tensor(data, device=device, **options) if is_device(device) else original(data, device=device, **options)

    return as_tensor


@contextmanager
def without_gpu() -> Iterator[None]:
    """As if there were no GPU, for the reference on the CPU."""
    cuda: Any = torch.cuda
    believed, cuda.is_available = cuda.is_available, lambda: False
    try:
        yield
    finally:
        cuda.is_available = believed


def flash_attn_varlen_func(
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, dropout_p: float = 0.0,
    softmax_scale: float | None = None, causal: bool = False, deterministic: bool = False,
) -> torch.Tensor:  # fmt: skip
    """The function of that name in flash-attn and in the hub's kernel."""
    from torch.nn.attention.varlen import varlen_attn

    assert dropout_p == 0.0, "the make-believe kernel has no dropout"
    assert deterministic, "the gradient would differ from run to run"
    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, scale=softmax_scale, window_size=window, enable_gqa=True)
    assert isinstance(out, torch.Tensor)
    return out


def import_module(name: str) -> Any:
    """As importlib's, where the packages with attention kernels are installed."""
    if name == "flash_attn":
        return types.SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    if name == "kernels":
        return types.SimpleNamespace(get_kernel=lambda repository, version: import_module("flash_attn"))
    return importlib.import_module(name)
