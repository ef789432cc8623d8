"""The memory and the kernels of a step of the exact Llama-3-8B configuration, from tensors without values."""

from __future__ import annotations

import pytest

from emotion_assets_tests.fake_cuda.gpu import FakeGpu
from emotion_assets_tests.fake_cuda.llama8b import lengths_of_the_dataset

DATASET = lengths_of_the_dataset(20)
GIB = 2**30


@pytest.mark.parametrize("lengths", [DATASET, [100] * 20], ids=["as in the dataset", "100 tokens each"])
def test_the_preflight_expects_the_peak_within_a_tenth(gpu: FakeGpu, lengths: list[int]) -> None:
    step = gpu("step_of_8b", lengths=lengths)
    print(step["tokens"], step["weights"] / GIB, step["peak"] / GIB, step["expected"] / GIB)
    assert step["expected"] == pytest.approx(step["peak"], rel=0.1)


@pytest.mark.parametrize("objective", ["head", "instruction"])
def test_a_step_launches_less_than_half_of_the_kernels_it_did(gpu: FakeGpu, objective: str) -> None:
    fewer, before = (
        gpu("step_of_8b", lengths=DATASET, objective=objective, fewer_kernels=fewer)["kernels"]
        for fewer in (True, False)
    )
    print(objective, sum(before.values()), sum(fewer.values()), before, fewer)
    assert sum(fewer.values()) < sum(before.values()) / 2
