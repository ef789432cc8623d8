"""Several processes training one model (``torchrun``): each takes its shard of every step's rows.

Every function here does nothing in a training of one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from emotion_assets.settings.errors import UserError

T = TypeVar("T")


def join() -> None:
    """Join the process group that ``torchrun`` describes in the environment: NCCL on GPUs, gloo on CPUs.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            wanted, there = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
            if wanted > there:
                raise UserError(f"devices: {wanted} asked for, torch sees {there} GPUs; lower devices")
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


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_joined() else 1


def is_first() -> bool:
    """Whether this is the process that reports, saves and writes resume state."""
    return rank() == 0


def speaks() -> bool:
    """Whether this is the process that reports, known before it has joined the others."""
    return int(os.environ.get("RANK", "0")) == 0


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's part of the items; the parts of all processes together are all items, each once."""
    return items[rank() :: size()]


def shard_by_size(items: Sequence[T], sizes: Sequence[int]) -> Sequence[T]:
    """As ``shard``, with about the same sum of sizes for each process.

    Args:
        sizes: of each item.
    """
    return divide_by_size(items, sizes, size())[rank()]


def divide_by_size(items: Sequence[T], sizes: Sequence[int], parts: int) -> list[Sequence[T]]:
    """The items in parts with about the same sum of sizes: the largest item first, each to the part that has the least
    so far. One part has them as they stand."""
    if parts == 1:
        return [items]
    loads = [0] * parts
    divided: list[list[T]] = [[] for _ in range(parts)]
    for item, extent in sorted(zip(items, sizes, strict=True), key=lambda pair: -pair[1]):
        least = loads.index(min(loads))
        loads[least] += extent
        divided[least].append(item)
    return [*divided]


def all_reduce(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor, in place, by its sum over the processes. Tensors of one number format go as one."""
    if not is_joined():
        return
    for dtype in {tensor.dtype: None for tensor in tensors}:
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in alike])
        torch._foreach_copy_(alike, [part.view_as(tensor) for part, tensor in zip(sums, alike, strict=True)])


def broadcast(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor, in place, by the first process's."""
    if is_joined():
        for tensor in tensors:
            dist.broadcast(tensor, 0)
