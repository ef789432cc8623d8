"""How many cores there are to use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time in each period, or ``max``, and the period (control groups, version 2)."""


def count_cores() -> int:
    """The cores that this process may run on or, if fewer, as many as its container may keep busy: a process with more
    threads than that is stopped for most of each period."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _container_limit() or cores)


def _container_limit() -> int | None:
    """What ``docker run --cpus`` or Kubernetes' ``limits.cpu`` allows, rounded up; None where nothing is limited."""
    if not CONTAINER_LIMIT.is_file():
        return None
    limit, period = CONTAINER_LIMIT.read_text(encoding="ascii").split()
    return None if limit == "max" else math.ceil(int(limit) / int(period))
