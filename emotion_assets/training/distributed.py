"""Several processes training one model (``torchrun``): each takes its shard of every step's rows.

Every function here does nothing in a training of one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def join() -> None:
    """Join the process group that ``torchrun`` describes in the environment: NCCL on GPUs, gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def leave() -> None:
    """Leave the process group; call it before the process ends."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_joined() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if is_joined() else 0


def is_first() -> bool:
    """Whether this is the process that reports, saves and writes resume state."""
    return rank() == 0


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's part of the items; the parts of all processes together are all items, each once."""
    return items[dist.get_rank() :: dist.get_world_size()] if is_joined() else items


def all_reduce(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor, in place, by its sum over the processes."""
    if is_joined():
        for tensor in tensors:
            dist.all_reduce(tensor)


def broadcast(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor, in place, by the first process's."""
    if is_joined():
        for tensor in tensors:
            dist.broadcast(tensor, 0)
