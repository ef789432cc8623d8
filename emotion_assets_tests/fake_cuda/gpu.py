"""The process with the make-believe GPU, as the tests see it: compiled, started, asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

SOURCE = Path(__file__).parent / "device.cpp"
PROJECT = Path(__file__).parent.parent.parent


class FakeGpu:
    """A process that believes it has a GPU; a request names a function of ``scenarios``."""

    def __init__(self, library: Path) -> None:
        environment = os.environ | {
            "LD_PRELOAD": str(library),
            "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
            "HF_DEACTIVATE_ASYNC_LOAD": "1",  # a thread of its own would not know of the make-believe device
        }
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "emotion_assets_tests.fake_cuda.worker"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def __call__(self, do: str, **arguments: Any) -> Any:
        """The result of a scenario.

        Raises:
            RuntimeError: the scenario raised; its traceback is in the message.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"do": do, "with": arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            raise RuntimeError(f"the process of the make-believe GPU ended: {self._said.read()[-3000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{answer['error']}\n{answer['traceback']}")
        return answer["result"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def compile_library(folder: Path) -> Path:
    """Compile ``device.cpp`` against this torch; skips the test where that cannot be done."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the make-believe GPU needs Linux and a C++ compiler (c++, g++ or clang++)")
    root, library = Path(torch.__file__).parent, folder / "device.so"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    libraries = [f"-L{root / 'lib'}", "-Wl,--no-as-needed", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{root / 'lib'}"]
    command = [compiler, "-shared", "-fPIC", "-std=c++20", abi, f"-I{root / 'include'}", str(SOURCE), *libraries]
    done = subprocess.run([*command, "-o", str(library)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return library
