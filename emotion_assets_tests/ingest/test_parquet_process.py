"""A Parquet file is read beside this process: neither a crash nor a killed worker reaches the one who reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.ingest.inbox import Unavailable
from emotion_assets.ingest.parquet_process import _check_end
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Quarantine
from emotion_assets.settings.schema import PROJECT_DIR, FeedbackSettings


def _large(path: Path) -> Path:
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(300_000)]}), path)
    return path


def _children(process: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == process:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the worker in /proc")
def test_a_worker_killed_from_outside_says_nothing_about_the_file(tmp_path: Path) -> None:
    rows = read_feedback(_large(tmp_path / "a.parquet"), FeedbackSettings())
    next(rows)
    workers = [
        worker for helper in _children(os.getpid()) for watcher in _children(helper) for worker in _children(watcher)
    ]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    with pytest.raises(Unavailable, match="ended from outside"):
        list(rows)
    assert len(list(read_feedback(tmp_path / "a.parquet", FeedbackSettings()))) == 300_000


@pytest.mark.parametrize("crash", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
def test_a_worker_that_crashes_on_a_file_quarantines_it(crash: signal.Signals) -> None:
    with pytest.raises(Quarantine, match=f"crashes on it .{crash.name}."):
        _check_end(-crash)


def test_two_files_are_read_side_by_side_and_one_may_be_left_early(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _large(tmp_path / f"{name}.parquet")
    first = read_feedback(tmp_path / "a.parquet", FeedbackSettings())
    second = read_feedback(tmp_path / "b.parquet", FeedbackSettings())
    assert next(first) == next(second)
    del first
    assert sum(1 for _ in second) == 299_999


def test_reading_ends_with_the_process_that_reads(tmp_path: Path) -> None:
    """The helper goes when its owner is killed; nothing is left behind to hold the file."""
    path = _large(tmp_path / "a.parquet")
    script = (
        "import sys, pathlib, os, json\n"
        "from emotion_assets.ingest import parquet_process as p\n"
        "from emotion_assets.ingest.readers import read_feedback\n"
        "from emotion_assets.settings.schema import FeedbackSettings\n"
        "next(read_feedback(pathlib.Path(sys.argv[1]), FeedbackSettings()))\n"
        "print(json.dumps(p._helper.process.pid), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_DIR, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    helper = Path(f"/proc/{json.loads(done.stdout)}/stat")
    for _ in range(100):
        if not helper.exists() or helper.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        signal.sigtimedwait([], 0.1)
    raise AssertionError("the helper is still there")
