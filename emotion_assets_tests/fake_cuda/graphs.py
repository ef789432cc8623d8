"""CUDA graphs of the make-believe GPU: what ``torch.cuda.graph`` records, ``replay`` repeats on the same memory.

As on a GPU, nothing is computed while it is recorded: tensors that were there before keep their values, those that are
new hold none until the graph has run. What a GPU refuses to record (the host waits, a transfer from or to it) is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

REFUSED = "CUDA error: operation not permitted when stream is capturing"


class CUDAGraph:
    """The recorded operations, in their order."""

    def __init__(self) -> None:
        self.operations: list[Callable[[], None]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by storage: memory and its values
        self._new: list[torch.Tensor] = []
        self._seen: set[int] = set()

    def replay(self) -> None:
        from emotion_assets_tests.fake_cuda import tensors

        tensors.count_kernel("graph launch")
        with torch.no_grad():
            for operation in self.operations:
                operation()

    def execute(self, func: Any, compute: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record an operation on the memory that is behind the device's tensors."""
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if func._schema.is_mutable:
            self._keep_written(func, args, kwargs)
            self.operations.append(lambda: compute(*args, **kwargs))
            return compute(*args, **kwargs)
        out = compute(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        of_inputs = {_storage(x) for x in inputs}
        if any(_storage(x) not in of_inputs for x in made):  # else they are views
            self._new += made
            self._seen.update(map(_storage, made))
            self.operations.append(lambda: _overwrite(made, compute(*args, **kwargs)))
        return out

    def _keep_written(self, func: Any, args: Any, kwargs: Any) -> None:
        """Remember what an operation in place is about to write over."""
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            written = args[i] if i < len(args) else kwargs.get(argument.name)
            for tensor in tree_leaves(written):
                if _storage(tensor) not in self._seen:
                    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                    self._before[_storage(tensor)] = (whole, whole.clone())
                    self._seen.add(_storage(tensor))

    def forget_values(self) -> None:
        """At the end of the recording it is as if nothing had been computed."""
        for tensor in self._new:
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
        for memory, values in self._before.values():
            memory.copy_(values)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _overwrite(made: list[torch.Tensor], again: Any) -> None:
    for old, new in zip(made, (x for x in tree_leaves(again) if isinstance(x, torch.Tensor)), strict=True):
        old.copy_(new)


recording: CUDAGraph | None = None


@contextmanager
def graph(recorded: CUDAGraph, pool: Any = None, stream: Any = None) -> Iterator[None]:
    """``torch.cuda.graph``; the memory is not shared between graphs."""
    global recording
    assert recording is None and stream is Stream.current, "recorded on another stream than the one that is set"
    drawn, recording = torch.get_rng_state(), recorded
    try:
        yield
    finally:
        recording = None
        torch.set_rng_state(drawn)
        recorded.forget_values()


class Stream:
    """All work is in one order anyway; only which stream is set is kept."""

    current: Stream | None = None

    def wait_stream(self, other: Stream) -> None:
        pass


Stream.current = Stream()


@contextmanager
def stream(chosen: Stream) -> Iterator[None]:
    before, Stream.current = Stream.current, chosen
    try:
        yield
    finally:
        Stream.current = before


def install(cuda: Any) -> None:
    """Put them in the place of torch's."""
    cuda.CUDAGraph, cuda.graph, cuda.Stream, cuda.stream = CUDAGraph, graph, Stream, stream
    cuda.current_stream = lambda *_: Stream.current
    cuda.graph_pool_handle = lambda: (0, 1)
    cuda.get_rng_state = lambda *_: torch.get_rng_state()  # what is drawn on the device is drawn on the CPU
    cuda.set_rng_state = lambda state, *_: torch.set_rng_state(state)
