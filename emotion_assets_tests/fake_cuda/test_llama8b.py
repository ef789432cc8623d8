"""The memory and the kernels of a step of the exact Llama-3-8B configuration, from tensors without values."""

from __future__ import annotations

import pytest

from emotion_assets_tests.fake_cuda.gpu import FakeGpu
from emotion_assets_tests.fake_cuda.llama8b import lengths_of_the_dataset

DATASET = lengths_of_the_dataset(20)
GIB = 2**30
CASES = [  # objective, tokens of each row, peak in GiB, kernels at most; 6,583 and 6,758 kernels adapter by adapter
    ("head", DATASET, 16.2, 2400),
    ("head", [100] * 20, 24.4, 2400),
    ("instruction", DATASET, 17.1, 2550),
]


@pytest.mark.parametrize(("objective", "lengths", "peak", "kernels"), CASES, ids=["head", "long rows", "instruction"])
def test_a_step_takes_the_memory_that_the_preflight_expects_and_few_kernels(
    gpu: FakeGpu, objective: str, lengths: list[int], peak: float, kernels: int
) -> None:
    step = gpu("step_of_8b", lengths=lengths, objective=objective)
    assert step["peak"] / GIB == pytest.approx(peak, abs=0.2)
    assert step["expected"] == pytest.approx(step["peak"], rel=0.1)
    assert sum(step["kernels"].values()) <= kernels
