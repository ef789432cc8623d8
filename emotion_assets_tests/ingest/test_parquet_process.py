"""A Parquet file is read beside this process: neither a crash nor a killed worker reaches the one who reads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.forms import parquet_process
from emotion_assets.forms.problems import Quarantine
from emotion_assets.ingest.inbox import Unavailable
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.sources import DEFAULT, make_source
from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets.settings.schema import PROJECT_DIR


def _large(path: Path) -> Path:
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(300_000)]}), path)
    return path


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the worker in /proc")
def test_a_worker_killed_from_outside_says_nothing_about_the_file(tmp_path: Path) -> None:
    rows = read_feedback(_large(tmp_path / "a.parquet"), FeedbackSettings())
    next(rows)
    (worker,) = [child for child in multiprocessing.active_children() if child.name == "file reader"]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="ended from outside"):
        list(rows)
    assert len(list(read_feedback(tmp_path / "a.parquet", FeedbackSettings()))) == 300_000


def crash(stream, reading, columns):
    """A reader that ends its process, as pyarrow does on a damaged file."""
    os.kill(os.getpid(), signal.SIGABRT)
    yield


def test_a_worker_that_crashes_on_a_file_quarantines_it_and_the_next_file_is_read(tmp_path: Path) -> None:
    path = _large(tmp_path / "a.parquet")
    with path.open("rb") as stream, pytest.raises(Quarantine, match=r"crashes on it .SIGABRT."):
        list(
            parquet_process.read_apart(
                crash, stream, FeedbackSettings(), make_source(FeedbackSettings(), DEFAULT).columns
            )
        )
    assert len(list(read_feedback(path, FeedbackSettings()))) == 300_000


def test_a_page_that_unpacks_to_more_than_the_memory_quarantines_its_file(tmp_path: Path) -> None:
    """The footer may say what it likes: the process that unpacks has no more memory than its limit."""
    path = tmp_path / "a.parquet"
    table = pa.table({"text": pa.array(["\0" * 1_500_000_000], pa.large_string())})
    pq.write_table(table, path, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 1_000_000
    settings = FeedbackSettings(max_unpacked_bytes=1 << 40)
    with pytest.raises(Quarantine, match="too_large_uncompressed"):
        list(read_feedback(path, settings))


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
        "import sys, pathlib, os, multiprocessing\n"
        "from emotion_assets.ingest.readers import read_feedback\n"
        "from emotion_assets.settings.schema import FeedbackSettings\n"
        "if __name__ == '__main__':\n"
        "    rows = read_feedback(pathlib.Path(sys.argv[1]), FeedbackSettings())\n"
        "    next(rows)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_DIR, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    helper = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(100):
        if not helper.exists() or helper.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        signal.sigtimedwait([], 0.1)
    raise AssertionError("the helper is still there")
