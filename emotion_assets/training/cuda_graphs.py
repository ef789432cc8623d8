"""Passes recorded as CUDA graphs: the host launches a forward and backward pass as one, in place of its kernels one by
one.

A graph repeats the recorded kernels on the recorded addresses. So what a pass reads is copied to where the recorded
pass read it, and gradients are added to tensors that stay. Passes have few shapes (``StaticPasses``), and each shape
gets its own graph: its first passes run eagerly, the next one eagerly, recorded and repeated. The repeated pass must
give the loss and the gradients of the eager one, random draws included; else no graph is used from there on, and
``describe`` says why. A shape that is seen rarely is never recorded.

It was never run on a GPU. The tests record and repeat on a make-believe one (``emotion_assets_tests/fake_cuda``).

Does not belong here: what a pass computes (``models``), the optimizer step (``trainer``).
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from emotion_assets.training.transfer import StaticCopy, outline, to_device

EAGER_PASSES = 3  # of a shape, before it is recorded
MOST_GRAPHS = 24  # shapes that are recorded; each graph holds memory of the GPU for its kernels' arguments
TOLERANCE = 3e-2  # relative difference allowed between a pass and its repetition: atomic sums have no fixed order

AddGradients = Callable[[Callable[[], torch.Tensor], int], torch.Tensor]
"""A function that computes a loss, and what to divide it by -> that loss without its graph of autograd, its gradients
added to those of the parameters."""


@dataclass(frozen=True)
class StaticPasses:
    """The passes of a network in two parts, the second of which can be recorded.

    Attributes:
        pack: row indices -> what goes to the device (a dataclass, dict or tuple with tensors in it), of few different
            outlines, and the number of targets, or their summed weight.
        loss_of: the loss of what was packed, summed over its targets; all of it is computed on the device.
    """

    pack: Callable[[Sequence[int]], tuple[Any, float]]
    loss_of: Callable[[Any], torch.Tensor]


@dataclass(frozen=True)
class _Recorded:
    """A graph, what it reads, and the loss that it writes."""

    graph: Any
    inputs: StaticCopy
    loss: torch.Tensor


class PassGraphs:
    """The graphs of one training. ``problem`` says why none is used; it is empty while they are."""

    def __init__(
        self,
        passes: StaticPasses | str,
        parameters: Sequence[torch.Tensor],
        add_gradients: AddGradients,
    ) -> None:
        """The graphs of passes, or of none: then ``passes`` is the problem."""
        self._device, self._parameters, self._add_gradients = parameters[0].device, list(parameters), add_gradients
        self._recorded: dict[Hashable, _Recorded] = {}
        self._seen: Counter[Hashable] = Counter()
        self._gradients: list[torch.Tensor] = []
        self._repeated = 0
        self.problem = passes if isinstance(passes, str) else ""
        if self._device.type != "cuda":
            self.problem = "no CUDA GPU"
        elif isinstance(passes, StaticPasses):
            self._passes = passes
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def describe(self) -> str:
        """How the passes ran, in one line."""
        if self.problem:
            return f"not used: {self.problem}"
        passes = self._seen.total() + self._repeated
        return f"{self._repeated} of {passes} passes repeated from graphs of {len(self._recorded)} shapes"

    def give_up(self, problem: str) -> None:
        """Use no graph from here on, and give their memory back."""
        if not self.problem:
            torch.cuda.synchronize()  # one of them may be running
            self._recorded.clear()
            self._gradients = []
            self.problem = problem

    def run(self, rows: Sequence[int], divisor: int) -> tuple[torch.Tensor, float]:
        """A pass over rows, as ``Trainer`` takes it: adds the gradients of the loss divided by ``divisor``.

        Returns the summed loss, to be read before the next pass, and the number of targets.

        Raises:
            OutOfMemoryError: the memory is too small for the graphs, or for the pass.
        """
        value, targets = self._passes.pack(rows)
        key = (divisor, outline(value))
        if (recorded := self._recorded.get(key)) is not None:
            recorded.inputs.refill(value)
            self._hold_gradients()
            recorded.graph.replay()
            self._repeated += 1
            # The optimizer's fused kernel and the graph leave no trace in the version of the parameters, from which a
            # module may tell that what it has computed of them is old.
            torch.autograd.graph.increment_version(self._parameters)
            return recorded.loss, targets
        self._seen[key] += 1
        if self._seen[key] <= EAGER_PASSES or len(self._recorded) == MOST_GRAPHS:
            value = to_device(value, self._device)
            return self._add_gradients(lambda: self._passes.loss_of(value), divisor), targets
        return self._run_and_record(key, StaticCopy(value, self._device), divisor), targets

    def _run_and_record(self, key: Hashable, inputs: StaticCopy, divisor: int) -> torch.Tensor:
        """An eager pass, whose graph is kept if its repetition gives the same. Returns the eager pass's loss."""
        gradients = self._hold_gradients()
        before = [gradient.clone() for gradient in gradients]
        drawn_before = torch.cuda.get_rng_state(self._device)
        torch._foreach_zero_(gradients)
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):  # the warm-up that recording on this stream needs
            loss = self._add_gradients(lambda: self._passes.loss_of(inputs.value), divisor).clone()
        main.wait_stream(self._stream)
        eager = [gradient.clone() for gradient in gradients]
        drawn = torch.cuda.get_rng_state(self._device)
        if _all_finite([loss, *eager]):
            try:
                recorded = self._record(inputs, divisor)
                torch.cuda.set_rng_state(drawn_before, self._device)
                torch._foreach_zero_(gradients)
                recorded.graph.replay()
                difference = _difference([recorded.loss, *gradients], [loss, *eager])
                self._recorded[key] = recorded
                if not difference <= TOLERANCE:
                    self.give_up(f"a repeated pass differs from the eager one by {difference:.1%}")
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # an operation that cannot be recorded, or a torch that cannot record
                self.give_up(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            torch.cuda.set_rng_state(drawn, self._device)
        torch._foreach_copy_(gradients, eager)
        torch._foreach_add_(gradients, before)
        return loss

    def _hold_gradients(self) -> list[torch.Tensor]:
        """Have the parameters hold their gradients in the tensors that graphs add to. Returns these."""
        self._gradients = self._gradients or [torch.zeros_like(p) for p in self._parameters]
        if self._parameters[0].grad is not self._gradients[0]:
            torch._foreach_zero_(self._gradients)
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                if parameter.grad is not None:
                    gradient.add_(parameter.grad)
                parameter.grad = gradient
        return self._gradients

    def _record(self, inputs: StaticCopy, divisor: int) -> _Recorded:
        """The kernels of a pass, none of which runs now. All graphs take turns in one pool of memory."""
        graph = torch.cuda.CUDAGraph()
        # The outer block is for a recording that fails: it leaves the stream that the inner one has set.
        with torch.cuda.stream(self._stream), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            loss = self._add_gradients(lambda: self._passes.loss_of(inputs.value), divisor)
        return _Recorded(graph, inputs, loss)


def _all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all().item())


def _difference(tensors: Sequence[torch.Tensor], references: Sequence[torch.Tensor]) -> float:
    """The largest relative difference of a tensor; NaN where one is not a number."""
    shares = [
        (x.float() - y.float()).norm() / y.float().norm().clamp(min=torch.finfo(torch.float32).tiny)
        for x, y in zip(tensors, references, strict=True)
    ]
    return float(torch.stack(shares).max().item())
