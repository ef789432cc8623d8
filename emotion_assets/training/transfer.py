"""Values on their way between the host and a device, in few transfers and without the host waiting for the device.

A GPU works through what the host has queued. A copy from memory that is not pinned, or a value that is read, makes the
host wait until the queue is empty, and the GPU then waits for the host.
https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
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


class StaticCopy:
    """A value on a GPU that stays where it is: ``refill`` writes another one of the same outline over it."""

    def __init__(self, value: Any, device: torch.device) -> None:
        tensors = list(_tensors_in(value))
        self._buffer = _gather(tensors).to(device, non_blocking=True)
        self.value = _rebuilt(value, iter(_views(self._buffer, tensors)))

    def refill(self, value: Any) -> None:
        """One transfer, that the host does not wait for."""
        self._buffer.copy_(_gather(list(_tensors_in(value))), non_blocking=True)


def outline(value: Any) -> Hashable:
    """What two values have in common if they differ in the numbers in their tensors alone."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape)
    parts = _parts_of(value)
    return (type(value), tuple((key, outline(part)) for key, part in parts.items())) if parts else repr(value)


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
    return _views(_gather(tensors).to(device, non_blocking=True), tensors)


def _gather(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bytes of tensors one after the other, in pinned memory."""
    buffer = torch.empty(sum(map(_aligned_bytes, tensors)), dtype=torch.uint8, pin_memory=True)
    for view, tensor in zip(_views(buffer, tensors), tensors, strict=True):
        view.copy_(tensor)
    return buffer


def _views(buffer: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors whose bytes ``_gather`` has put into ``buffer``."""
    views, start = [], 0
    for tensor in like:
        views.append(buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        start += _aligned_bytes(tensor)
    return views


def _aligned_bytes(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


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
