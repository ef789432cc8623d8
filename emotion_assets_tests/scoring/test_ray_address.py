"""A Ray cluster that an operator started, reached by its address: scored on, and left running."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from emotion_assets.scoring.calibration import Calibration, calibrate
from emotion_assets.scoring.engines.engine import decode_scores, make_block
from emotion_assets.scoring.engines.local import LocalEngine
from emotion_assets.scoring.engines.ray import RayEngine, _import_ray
from emotion_assets.settings.scoring import RaySettings, ScoringSettings
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import PROJECT
from emotion_assets_tests.worlds import feedback as world

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: install emotion_assets[ray]"
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more loopback addresses than one"),
    pytest.mark.timeout(240),
]

HEAD, SECOND = "127.0.0.2", "127.0.0.3"  # of 127.0.0.1 Ray makes the machine's address on the network
START_SECONDS = 60


@dataclass
class Node:
    """A node of the cluster: ``ray start --block`` and the processes that it started."""

    process: subprocess.Popen[bytes]
    log: Path
    seen: list[psutil.Process] = field(default_factory=list)

    def processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            self.seen += [one for one in (own, *own.children(recursive=True)) if one not in self.seen]
        return [one for one in self.seen if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def actors(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                found += [process] if "ray::Worker" in " ".join(process.cmdline()) else []
        return found

    def kill(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait(timeout=30)


@dataclass
class Cluster:
    address: str
    client_address: str
    head: Node
    add_node: Callable[[], Node]


def free_port() -> int:
    with socket.create_server((HEAD, 0)) as server:
        return int(server.getsockname()[1])


def start_node(stack: ExitStack, log: Path, *arguments: str) -> Node:
    """Start a node, and wait until it says that it runs."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += ["--num-cpus=2", "--num-gpus=0", f"--object-store-memory={100 * 2**20}", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    node = Node(process, log)
    stack.callback(node.kill)
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    node.processes()
    return node


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A head node on loopback with token authentication, in a folder of its own; whatever happens it is ended."""
    _import_ray()  # sets the mode of authentication
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once in a process
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)))
        port, client = free_port(), free_port()
        address = f"{HEAD}:{port}"
        head = start_node(
            stack,
            folder / "head.log",
            *("--head", f"--node-ip-address={HEAD}", f"--port={port}", f"--ray-client-server-port={client}"),
            *("--include-dashboard=false", f"--temp-dir={folder}"),
        )

        def add_node() -> Node:
            return start_node(stack, folder / "second.log", f"--address={address}", f"--node-ip-address={SECOND}")

        yield Cluster(address, f"ray://{HEAD}:{client}", head, add_node)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def calibration(workspace: Workspace) -> Calibration:
    return calibrate(workspace.settings, workspace.store)


def engine(address: str, workers: int = 2) -> RayEngine:
    return RayEngine(ScoringSettings(engine="ray", workers=workers, ray=RaySettings(address=address)))


def texts(n: int) -> list[str]:
    given = world.sample_texts()
    return [f"{given[i % len(given)]} {i}" for i in range(n)]


def score(
    engine: RayEngine | LocalEngine, calibration: Calibration, given: list[str], meanwhile: Callable[[int], None]
) -> np.ndarray:
    """The probabilities of texts; ``meanwhile`` is called after each block with its number."""
    found = []
    blocks = (make_block(given[start : start + 500]) for start in range(0, len(given), 500))
    for number, block in enumerate(engine.answers(calibration, blocks)):
        found.append(decode_scores(block).probabilities)
        meanwhile(number)
    return np.concatenate(found)


def nothing(number: int) -> None:
    pass


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


def test_scores_by_address_are_those_of_one_process_though_an_actor_is_killed(
    cluster: Cluster, calibration: Calibration
) -> None:
    given, killed = texts(6000), []

    def kill(number: int) -> None:
        if number == 3:
            killed.append(cluster.head.actors()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    expected = score(LocalEngine(ScoringSettings()), calibration, given, nothing)
    assert_same(score(engine(cluster.address), calibration, given, kill), expected)
    assert killed
    assert not _import_ray().is_initialized()
    assert cluster.head.process.poll() is None  # we only disconnect: the next scoring finds it
    assert_same(score(engine(cluster.address), calibration, given[:1000], nothing), expected[:1000])


def test_scores_through_the_client_are_those_of_one_process(cluster: Cluster, calibration: Calibration) -> None:
    given = texts(2000)
    expected = score(LocalEngine(ScoringSettings()), calibration, given, nothing)
    assert_same(score(engine(cluster.client_address), calibration, given, nothing), expected)
    assert not _import_ray().is_initialized()
    assert cluster.head.process.poll() is None


def test_more_workers_than_the_cluster_has_room_for_do_not_wait_for_ever(
    cluster: Cluster, calibration: Calibration
) -> None:
    given, most = texts(3000), []
    expected = score(LocalEngine(ScoringSettings()), calibration, given, nothing)
    found = score(engine(cluster.address, 8), calibration, given, lambda _: most.append(len(cluster.head.actors())))
    assert_same(found, expected)
    assert max(most) == 2


WRONG = """
import sys
from pathlib import Path
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.engines.engine import make_block
from emotion_assets.scoring.engines.ray import RayEngine
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.scoring import RaySettings, ScoringSettings
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world

workspace = Workspace(world.settings(Path(sys.argv[1])))
engine = RayEngine(ScoringSettings(engine="ray", workers=1, ray=RaySettings(address=sys.argv[2])))
try:
    list(engine.answers(calibrate(workspace.settings, workspace.store), [make_block(["so happy"])]))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("client", [False, True])
def test_a_wrong_token_is_one_line_within_seconds(cluster: Cluster, workspace: Workspace, client: bool) -> None:
    address = cluster.client_address if client else cluster.address
    environment = {"PYTHONPATH": str(PROJECT), "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WRONG, str(workspace.settings.home), address],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"scoring.ray: {address}: "), line
    assert "check that RAY_AUTH_TOKEN holds the cluster's token" in line, line
    assert seconds < 40
    assert cluster.head.process.poll() is None


def test_a_node_that_is_killed_costs_no_row(cluster: Cluster, calibration: Calibration) -> None:
    second, given, spread = cluster.add_node(), texts(12_000), []

    def kill(number: int) -> None:
        if number == 6:
            spread.extend([len(cluster.head.actors()), len(second.actors())])
            second.kill()

    expected = score(LocalEngine(ScoringSettings()), calibration, given, nothing)
    assert_same(score(engine(cluster.address, 4), calibration, given, kill), expected)
    assert spread == [2, 2]
    assert cluster.head.process.poll() is None
