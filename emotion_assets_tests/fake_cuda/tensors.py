"""Tensors that say ``cuda:0`` and hold CPU memory: they compute what a GPU would, and refuse and count what it would.

They refuse to be mixed with tensors of the CPU. A copy to the host that does not block has no values until an event or
a synchronisation was waited for. Counted are kernels (operations but for views) and transfers: those that make the host
wait for the device, those from memory that is not pinned, and those that run beside it.
"""

from __future__ import annotations

import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from emotion_assets_tests.fake_cuda import graphs, kernels

DEVICE = torch.device("cuda", 0)
NO_KERNEL = frozenset(  # operations that launch nothing: views and allocations
    [
        "view",
        "_unsafe_view",
        "t",
        "transpose",
        "expand",
        "unsqueeze",
        "squeeze",
        "slice",
        "select",
        "detach",
        "alias",
        "permute",
        "as_strided",
        "split",
        "reshape",
        "empty",
        "empty_like",
        "new_empty",
        "empty_strided",
        "new_empty_strided",
        "unbind",
        "split_with_sizes",
        "lift_fresh",
        "is_pinned",
        "_local_scalar_dense",
    ]
)


@dataclass
class Activity:
    """What the device was asked for: kernels by name, and whether torch was set to use deterministic ones; transfers by
    ``kind at file:line``."""

    kernels: Counter[str] = field(default_factory=Counter)
    blocking: Counter[str] = field(default_factory=Counter)
    asynchronous: Counter[str] = field(default_factory=Counter)


_counting: list[Activity] = []
_pinned: set[int] = set()  # storages of host memory that is pinned
_pending: list[tuple[torch.Tensor, torch.Tensor]] = []  # host memory, and the values that are under way to it


@contextmanager
def counting() -> Iterator[Activity]:
    """Count what is asked of the device inside the block."""
    activity = Activity()
    _counting.append(activity)
    try:
        yield activity
    finally:
        _counting.remove(activity)


def synchronize(kind: str = "synchronize") -> None:
    """The host waits for the device: what was under way to the host arrives."""
    _note("blocking", kind)
    finish_transfers()


def finish_transfers() -> None:
    """What was under way to the host arrives."""
    while _pending:
        host, values = _pending.pop(0)
        host.copy_(values)


def count_kernel(name: str) -> None:
    for activity in _counting:
        activity.kernels[name] += 1


def _note(attribute: str, kind: str) -> None:
    if graphs.recording is not None:
        raise RuntimeError(graphs.REFUSED)
    for activity in _counting:
        getattr(activity, attribute)[f"{kind} at {_caller()}"] += 1


def _caller() -> str:
    """File and line of the project's code that is running."""
    for frame in reversed(traceback.extract_stack()):
        _, found, path = frame.filename.rpartition("/emotion_assets/")
        if found:
            return f"{path}:{frame.lineno}"
    return "?"


class FakeCudaTensor(torch.Tensor):
    """A tensor on the device; ``raw`` is the CPU tensor with its values."""

    raw: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> FakeCudaTensor:
        tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.size(), raw.stride(), raw.storage_offset(), dtype=raw.dtype, layout=raw.layout, device=DEVICE
        )
        tensor.raw = raw.detach()
        return tensor  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FakeCudaTensor({self.raw})"

    def tolist(self) -> Any:
        synchronize("tolist")
        return self.raw.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            _note("blocking", "index from a list")
            return self.index_select(0, FakeCudaTensor(torch.tensor(index)))
        return super().__getitem__(index)

    def untyped_storage(self) -> Any:
        return self.raw.untyped_storage()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def __deepcopy__(self, memo: Any) -> FakeCudaTensor:
        return FakeCudaTensor(self.raw.clone())

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


class OnDevice(TorchDispatchMode):
    """While it is entered, what is asked to be made on the device is made there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _raw(x: Any) -> Any:
    return x.raw if isinstance(x, FakeCudaTensor) else x


def _wrap(x: Any) -> Any:
    return FakeCudaTensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, FakeCudaTensor) else x


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, wherever its tensors are."""
    name = func.overloadpacket.__name__
    if torch.is_inference_mode_enabled() and func._can_decompose():  # elsewhere autograd has taken it apart before
        with OnDevice():
            return func.decompose(*args, **kwargs)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    here = [x for x in tensors if isinstance(x, FakeCudaTensor)]
    if special := _TRANSFERS.get(name):
        return special(func, args, kwargs)
    if kwargs.get("pin_memory"):
        return _pin(func(*args, **kwargs | {"pin_memory": False}))
    device = kwargs.get("device")
    if is_device(device):
        kwargs = kwargs | {"device": torch.device("cpu")}
    elif not here:
        return func(*args, **kwargs)
    _refuse_mixing(func, name, tensors, here)
    if name in ("nonzero", "masked_select", "_unique2"):
        synchronize(name)
    if name not in NO_KERNEL:
        in_order = " in a fixed order" if torch.are_deterministic_algorithms_enabled() else ""
        count_kernel(name + in_order)
    raw_args, raw_kwargs = tree_map(_raw, args), tree_map(_raw, kwargs)
    with torch.no_grad():
        full = f"{func.namespace}.{name}"
        compute = kernels.EMULATED.get(f"{full}.{func._overloadname}") or kernels.EMULATED.get(full) or func
        out = _execute(func, compute, raw_args, raw_kwargs)
    if func._schema.is_mutable:
        return _what_was_changed(func, args, kwargs, out)
    return tree_map(_wrap, out)


def _execute(func: Any, compute: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Compute on the memory behind the tensors, and record it where a graph is being recorded."""
    if graphs.recording is not None:
        return graphs.recording.execute(func, compute, args, kwargs)
    return compute(*args, **kwargs)


def _what_was_changed(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
    """What an operation in place returns: the tensors that it was given."""
    if out is None:
        return None
    if "out" in kwargs:
        return kwargs["out"]
    return args[0]


def _refuse_mixing(func: Any, name: str, tensors: list[torch.Tensor], here: list[FakeCudaTensor]) -> None:
    """As torch does: a tensor of the host can take part as a single number, or as an index."""
    if not here or not (there := [x for x in tensors if not isinstance(x, FakeCudaTensor) and x.dim() > 0]):
        return
    if name in ("index", "index_put_", "index_put", "_index_put_impl_"):
        _note("blocking", "index from the host")
        return
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        f"({func} of {list(there[0].shape)} at {_caller()})"
    )


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    storage = tensor.untyped_storage()
    _pinned.add(storage._cdata)
    weakref.finalize(storage, _pinned.discard, storage._cdata)
    return tensor


def _is_pinned(tensor: torch.Tensor) -> bool:
    return not isinstance(tensor, FakeCudaTensor) and tensor.untyped_storage()._cdata in _pinned


def _to_device(tensor: torch.Tensor, non_blocking: bool) -> None:
    """Note a transfer to the device."""
    if non_blocking and _is_pinned(tensor):
        _note("asynchronous", "to the device")
    else:
        _note("blocking", "to the device" if not non_blocking else "to the device, not pinned")


def _to_copy(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    (tensor,) = args
    device, non_blocking = kwargs.get("device"), kwargs.get("non_blocking", False)
    fake = isinstance(tensor, FakeCudaTensor)
    there = kwargs | {"device": torch.device("cpu"), "pin_memory": None, "non_blocking": False}
    out = _execute(func, func, (_raw(tensor),), there)
    if fake and device is not None and not is_device(device):
        if non_blocking:
            return _send_to_host(out, torch.empty_like(out))
        synchronize("to the host")
        return out
    if not fake and is_device(device):
        _to_device(tensor, non_blocking)
        return FakeCudaTensor(out)
    if fake:
        count_kernel("_to_copy")
        return FakeCudaTensor(out)
    return out


def _copy_(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    target, source, *rest = args
    non_blocking = rest[0] if rest else kwargs.get("non_blocking", False)
    fake_target, fake_source = isinstance(target, FakeCudaTensor), isinstance(source, FakeCudaTensor)
    if fake_source and not fake_target:
        if non_blocking and _is_pinned(target):
            _send_to_host(source.raw.clone(), target)
            return target
        synchronize("to the host")
    elif fake_target and isinstance(source, torch.Tensor) and not fake_source and source.dim() > 0:
        _to_device(source, non_blocking)
    elif fake_target:
        count_kernel("copy_")
    _execute(func, func, (_raw(target), _raw(source)), {})
    return target


def _send_to_host(values: torch.Tensor, host: torch.Tensor) -> torch.Tensor:
    """A copy to the host that does not block: until the transfer is waited for, the host reads garbage."""
    _note("asynchronous", "to the host")
    host.fill_(float("nan") if host.is_floating_point() else -(2**7) if host.dtype != torch.bool else False)
    _pending.append((host, values))
    return host


def _read_one(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if isinstance(args[0], FakeCudaTensor):
        synchronize("item")
    return func(_raw(args[0]))


def _pin_memory(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    if isinstance(args[0], FakeCudaTensor):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return _pin(args[0].clone())


_TRANSFERS: dict[str, Callable[..., Any]] = {
    "_to_copy": _to_copy,
    "copy_": _copy_,
    "_local_scalar_dense": _read_one,
    "_pin_memory": _pin_memory,
    "is_pinned": lambda func, args, kwargs: _is_pinned(args[0]),
}
