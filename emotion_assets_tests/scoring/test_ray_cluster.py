"""The cluster that the Ray engine makes and leaves, and those that it cannot reach."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from emotion_assets.scoring.calibration import Calibration, calibrate
from emotion_assets.scoring.engines.engine import make_block
from emotion_assets.scoring.engines.ray import RayEngine, _import_ray
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.scoring import RaySettings, ScoringSettings
from emotion_assets.storage.workspace import Workspace

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: install emotion_assets[ray]"
    ),
    pytest.mark.timeout(120),
]

ONE = [make_block(["so happy"])]


@pytest.fixture
def calibration(workspace: Workspace) -> Calibration:
    return calibrate(workspace.settings, workspace.store)


def engine(address: str | None = None) -> RayEngine:
    return RayEngine(ScoringSettings(engine="ray", workers=1, ray=RaySettings(address=address)))


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses that these processes listen on."""
    found = set()
    for process in processes:
        try:
            open_ports = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            found |= {c.laddr.ip.removeprefix("::ffff:") for c in open_ports}  # as IPv6 has an address of IPv4
        except psutil.Error:
            continue
    return found


def test_a_cluster_made_here_is_of_this_machine_alone_and_leaves_nothing(
    calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    on_sigterm = signal.getsignal(signal.SIGTERM)
    before = psutil.Process().children(recursive=True)  # helpers of earlier tests stay
    answers = engine().answers(calibration, ONE)
    next(answers)
    processes = [process for process in psutil.Process().children(recursive=True) if process not in before]
    assert processes
    logs = next(a for p in processes for a in p.cmdline() if a.startswith("--log_dir="))
    folder = Path(logs.removeprefix("--log_dir=")).parents[1]
    assert folder.parent == Path(tempfile.gettempdir())
    assert folder.exists()
    assert listening([psutil.Process(), *processes]) == {"127.0.0.1"}
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    answers.close()
    psutil.wait_procs(processes, timeout=30)
    assert [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert signal.getsignal(signal.SIGTERM) == on_sigterm
    assert not folder.exists()
    assert not (tmp_path / ".ray").exists()


def test_texts_that_kill_every_actor_end_with_one_line(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTION_FAILPOINT", "scoring.worker")
    with pytest.raises(UserError, match="the Ray actor was lost 3 times on the same texts"):
        list(engine().answers(calibration, ONE))
    assert not _import_ray().is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:{free}", "ray://127.0.0.1:{free}", "nowhere.invalid:6379", "nonsense"])
def test_a_cluster_that_cannot_be_reached_is_one_line_at_once(calibration: Calibration, address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    address = address.format(free=free)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^scoring\.ray\.address: \S+: cannot be reached \(.*\); give the HOST:PORT"):
        list(engine(address).answers(calibration, ONE))
    assert time.monotonic() - started < 60
    assert not _import_ray().is_initialized()
