"""Where and how numbers are computed: device, number format, random seed, peak memory."""

from __future__ import annotations

import random
import resource
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Runtime:
    """Where tensors live and in which number format matrix products are computed; ``why`` says why these."""

    device: torch.device
    dtype: torch.dtype
    why: str

    def autocast(self) -> Any:
        """The context manager of mixed precision for a forward pass; it changes nothing in fp32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether small gradients would vanish unless the loss is scaled up: in fp16."""
        return self.dtype == torch.float16


def choose_runtime(precision: str = "auto") -> Runtime:
    """The GPU if there is one, else the CPU.

    Args:
        precision: ``fp32``, ``bf16``, ``fp16``, or ``auto``: fp32 on the CPU, on a GPU bf16 where the chip has it and
            fp16 where not. fp16 on the CPU becomes fp32.
    """
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if not torch.cuda.is_available():
        if precision == "fp16":
            return Runtime(torch.device("cpu"), torch.float32, "no GPU: fp32 in place of fp16")
        return Runtime(torch.device("cpu"), formats.get(precision, torch.float32), "no GPU")
    device = torch.device("cuda")
    if precision != "auto":
        return Runtime(device, formats[precision], f"{precision} asked for")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Runtime(device, torch.bfloat16, "the GPU has bf16")
    return Runtime(device, torch.float16, "the GPU has no bf16")


def set_seed(seed: int) -> None:
    """Seed the random numbers of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def peak_memory_mb() -> float:
    """The most memory used so far, in MB: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def describe_gpu() -> str | None:
    """Name and memory of the GPU that torch would use, or None."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB of memory"


def describe_dtype(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions that multiply bf16 matrices (AMX or AVX-512 BF16)."""
    supported = (torch.cpu._is_amx_tile_supported, torch.cpu._is_avx512_bf16_supported)
    return any(check() for check in supported)
