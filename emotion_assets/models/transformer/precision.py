"""The number format that a model computes in: on a CPU the one in which a measured step is faster.

Does not belong here: what a profile's ``precision`` means on a GPU (``training.runtime``).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch

from emotion_assets.training import distributed
from emotion_assets.training.runtime import Runtime, choose_runtime, cpu_has_bf16

LARGE_BASE = 20_000_000  # parameters; below it matrix products are not what a step's time goes into
MEASURED_ROWS, REPEATS = 8, 2


def choose_measured_runtime(
    precision: str, parameters: int, load_step: Callable[[Runtime], Callable[[], None]]
) -> Runtime:
    """As ``choose_runtime``; but with ``auto`` on a CPU that multiplies bf16 matrices, a large base is measured.

    Args:
        parameters: of the base; below ``LARGE_BASE`` nothing is measured.
        load_step: loads the model in a number format and gives a function that does one step with it.
    """
    runtime = choose_runtime(precision)
    if precision != "auto" or runtime.device.type != "cpu" or parameters < LARGE_BASE or not cpu_has_bf16():
        return runtime
    formats = {"bf16": torch.bfloat16, "fp32": torch.float32}
    times = torch.tensor([_seconds(load_step(Runtime(runtime.device, dtype, ""))) for dtype in formats.values()])
    distributed.all_reduce([times])  # all processes choose by the same times
    seconds = dict(zip(formats, (times / distributed.size()).tolist(), strict=True))
    fastest = min(seconds, key=seconds.__getitem__)
    measured = ", ".join(f"{spent:.2f} s in {name}" for name, spent in seconds.items())
    return Runtime(runtime.device, formats[fastest], f"no GPU; a step of {MEASURED_ROWS} rows took {measured}")


def _seconds(step: Callable[[], None]) -> float:
    """Of the fastest of ``REPEATS`` steps, after one that is not counted."""
    step()
    times = []
    for _ in range(REPEATS):
        started = time.monotonic()
        step()
        times.append(time.monotonic() - started)
    del step
    gc.collect()  # modules refer to each other: without this the measured model would stay beside the next one
    return min(times)
