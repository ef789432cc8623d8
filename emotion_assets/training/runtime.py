"""One place for device, number format, threads and randomness."""

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
    """Where tensors live and which format matrix products use; ``why`` says how that was chosen."""

    device: torch.device
    dtype: torch.dtype
    why: str

    def autocast(self) -> Any:
        """Mixed precision for a forward pass: nothing to do in fp32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def needs_loss_scaling(self) -> bool:
        return self.dtype == torch.float16


def choose_runtime(precision: str = "auto") -> Runtime:
    """The GPU if there is one, else the CPU; ``auto`` takes bf16 where the chip has it, fp16 on older GPUs."""
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
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def peak_memory_mb() -> float:
    """Peak memory so far, in MB: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
