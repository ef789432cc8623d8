"""The make-believe GPU: its library is compiled once, and one process with it answers the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from emotion_assets_tests.fake_cuda.gpu import FakeGpu, compile_library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if torch.version.cuda is not None:
        pytest.skip("the make-believe GPU needs a CPU build of torch; this one is for CUDA")
    return compile_library(tmp_path_factory.mktemp("fake_cuda"))


@pytest.fixture(scope="module")
def gpu(library: Path) -> Iterator[FakeGpu]:
    process = FakeGpu(library)
    yield process
    process.close()
