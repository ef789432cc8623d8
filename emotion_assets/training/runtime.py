"""Where and how numbers are computed: device, number format, random seed, peak memory."""

from __future__ import annotations

import gc
import os
import random
import resource
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emotion_assets.settings.cores import count_cores
from emotion_assets.settings.errors import SettingsError

DEVICE = "EMOTION_DEVICE"


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
    def sum_dtype(self) -> torch.dtype:
        """The format that losses are summed in: fp64, which Apple's GPU does not have."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether small gradients would vanish unless the loss is scaled up: in fp16."""
        return self.dtype == torch.float16


def choose_device() -> torch.device:
    """What ``EMOTION_DEVICE`` names: ``cpu``, ``cuda``, ``mps`` (Apple's GPU), or ``auto``: a CUDA GPU, else the CPU.

    Raises:
        SettingsError: it names none of these, or one that torch does not find here.
    """
    name = os.environ.get(DEVICE) or "auto"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if name not in there:
        raise SettingsError(f"{DEVICE}={name}: no such device; use auto, {', '.join(there)}")
    if not there[name]:
        raise SettingsError(f"{DEVICE}={name}: torch finds none here; take it out, or install a torch that has it")
    return torch.device(name)


def choose_runtime(precision: str = "auto") -> Runtime:
    """The device of ``choose_device`` with a number format.

    Args:
        precision: ``fp32``, ``bf16``, ``fp16``, or ``auto``: fp32 on the CPU and on Apple's GPU, on a CUDA GPU bf16
            where the chip has it and fp16 where not. fp16 on the CPU becomes fp32.

    Raises:
        SettingsError: see ``choose_device``.
    """
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    device = choose_device()
    if device.type == "cpu":
        if precision == "fp16":
            return Runtime(device, torch.float32, "no GPU: fp32 in place of fp16")
        return Runtime(device, formats.get(precision, torch.float32), "no GPU")
    if device.type == "mps":
        why = f"{precision} asked for" if precision != "auto" else "Apple's GPU; half precision where a profile asks"
        return Runtime(device, formats.get(precision, torch.float32), why)
    if precision != "auto":
        return Runtime(device, formats[precision], f"{precision} asked for")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Runtime(device, torch.bfloat16, "the GPU has bf16")
    return Runtime(device, torch.float16, "the GPU has no bf16")


def choose_processes() -> int:
    """The number of processes that train one model best: one on a GPU; on a CPU with two cores or more two, each with
    half of the cores, since many operations of a step are too small for a second thread."""
    return 2 if choose_device().type == "cpu" and count_cores() > 1 else 1


def set_seed(seed: int) -> None:
    """Seed the random numbers of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def peak_memory_mb() -> float:
    """The most memory used so far, in MB: of the GPU if there is one, else of this process. Apple's GPU tells what it
    holds now."""
    device = choose_device().type
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if device == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def free_memory() -> None:
    """Give back what models that nobody refers to any more still hold, of a GPU to other processes too."""
    gc.collect()  # modules refer to each other
    if choose_device().type == "cuda":
        torch.cuda.empty_cache()


def describe_gpu() -> str | None:
    """Name and memory of the GPU that torch would use, or None."""
    device = choose_device().type
    if device == "mps":
        return f"Apple's, {torch.mps.recommended_max_memory() / 2**30:.0f} GiB of memory; not measured on one yet"
    if device == "cpu":
        return None
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB of memory"


def torch_can_use_a_gpu() -> bool:
    """Whether this torch was built for CUDA or ROCm, without looking for a GPU."""
    return bool(torch.version.cuda or torch.version.hip)


def has_apple_gpu() -> bool:
    """Whether torch finds Apple's GPU, in use or not."""
    return torch.backends.mps.is_available()


def describe_dtype(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions that multiply bf16 matrices (AMX or AVX-512 BF16)."""
    supported = (torch.cpu._is_amx_tile_supported, torch.cpu._is_avx512_bf16_supported)
    return any(check() for check in supported)
