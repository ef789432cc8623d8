"""Values on their way between the host and a device, in few transfers and without the host waiting for the device.

A GPU works through what the host has queued. A copy from memory that is not pinned, or a value that is read, makes the
host wait until the queue is empty, and the GPU then waits for the host.
https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")
ALIGNMENT = 16  # bytes; a multiple of the size of every number


def to_device(value: T, device: torch.device) -> T:
    """A dataclass, dict or tuple with all tensors in it on ``device``; to a GPU they go in one transfer."""
    if device.type == "cpu":
        return value
    tensors = list(_tensors_in(value))
    if device.type == "cuda":
        moved = _move_together(tensors, device) if tensors else []
    else:
        moved = [tensor.to(device) for tensor in tensors]
    return _rebuilt(value, iter(moved))  # type: ignore[no-any-return]


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    for part in _parts_of(value).values():
        yield from _tensors_in(part)


def _parts_of(value: Any) -> dict[Any, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, tuple):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else {}


def _rebuilt(value: Any, moved: Iterator[torch.Tensor]) -> Any:
    """The same value with its tensors replaced, in the order of ``_tensors_in``."""
    if isinstance(value, torch.Tensor):
        return next(moved)
    parts = {key: _rebuilt(part, moved) for key, part in _parts_of(value).items()}
    if isinstance(value, tuple):
        return tuple(parts.values())
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**parts)
    return parts if isinstance(value, dict) else value


def _move_together(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    buffer = torch.empty(end, dtype=torch.uint8, pin_memory=True)
    for tensor, start in zip(tensors, starts, strict=True):
        buffer[start : start + tensor.nbytes].view(tensor.dtype).copy_(tensor.reshape(-1))
    there = buffer.to(device, non_blocking=device.type == "cuda")  # from memory that is pinned
    return [
        there[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for tensor, start in zip(tensors, starts, strict=True)
    ]


class HostCopy:
    """Numbers under way to the host; ``read`` waits for these alone, not for what was queued after them."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values, self._arrival = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrival = torch.cuda.Event()
            self._arrival.record()  # type: ignore[no-untyped-call]

    def read(self) -> list[float]:
        """The numbers, ``[n]``."""
        if self._arrival is not None:
            self._arrival.synchronize()  # type: ignore[no-untyped-call]
        return [float(value) for value in self._values.tolist()]
