"""The engine on a Ray cluster: an actor for each GPU, or for each core, with the model loaded once in each.

Texts go out and answers come back as Arrow (IPC); this process keeps the order and is the only one that stores. A part
whose actor is lost is sent to another one. The stream of blocks has no known end and must not be held in memory, so
actors are fed one part at a time as they finish; a Ray Dataset would want all blocks at once, or a new set of actors,
each loading the model, for every section of the stream.

Every node reads the model from the store under the same path: a home on a file system that all nodes see.

Where no address is given, a cluster on this machine lasts as long as the scoring does. It listens on loopback alone,
asks for a token, and leaves nothing behind, neither logs nor texts that were spilled to disk.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from emotion_assets.scoring.engines.engine import Engine, score_block
from emotion_assets.scoring.engines.parts import TRIES, join_parts, limit_threads
from emotion_assets.settings.cores import count_cores
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.scoring import RaySettings, ScoringSettings
from emotion_assets.storage.failpoints import failpoint

if TYPE_CHECKING:
    from emotion_assets.scoring.calibration import Calibration, Champion

LOOPBACK = "127.0.0.1"
CORES_OF_AN_ACTOR = 1
UNDER_WAY = 2  # parts of each actor: the one that it scores, and the next
REACH_SECONDS = 5.0
STALLED_SECONDS = 5.0  # without an answer, after which actors without a place are looked for
OBJECT_STORE_BYTES = 512 * 2**20  # of a cluster made here; what does not fit goes to its folder on disk
USE_LOCAL = "or set scoring.engine: local"
TOKEN = "check that RAY_AUTH_TOKEN holds the cluster's token, and that it is Ray's port"


class RayEngine(Engine):
    """Actors of a Ray cluster, each with the model."""

    def __init__(self, settings: ScoringSettings) -> None:
        self._workers, self._settings = settings.workers, settings.ray

    def answers(
        self, calibration: Calibration, blocks: Iterable[pa.RecordBatch]
    ) -> Generator[pa.RecordBatch, None, None]:
        ray = _import_ray()
        with _connected(ray, self._settings, self._workers):
            pool = _Pool(ray, calibration, self._workers)
            with closing(join_parts(blocks, pool.map)) as answered:
                yield from answered


class Worker:
    """What an actor does. The model is loaded with the first part, where an error finds its way back."""

    def __init__(self, calibration: Calibration) -> None:
        limit_threads(CORES_OF_AN_ACTOR)
        self._calibration = calibration
        self._champion: Champion | None = None

    def score(self, part: bytes) -> bytes:
        if self._champion is None:
            self._champion = self._calibration.load()
        failpoint("scoring.worker")
        return pack(score_block(self._champion, unpack(part)))


def pack(batch: pa.RecordBatch) -> bytes:
    """A batch as an Arrow stream, with the rows of a slice alone."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def unpack(content: bytes) -> pa.RecordBatch:
    """The opposite of ``pack``."""
    return pa.ipc.open_stream(content).read_next_batch()


@dataclass(eq=False)
class _Actor:
    handle: Any
    under_way: int = 0
    began: bool = False
    """Whether it has answered; one that has not may still wait for a place in the cluster."""


@dataclass(eq=False)
class _Task:
    """A part that waits for its answers, and how often its actor was lost."""

    part: bytes
    lost: int = 0
    answers: pa.RecordBatch | None = None


class _Pool:
    """The actors, and which part each of them has."""

    def __init__(self, ray: Any, calibration: Calibration, workers: int | None) -> None:
        self._ray, self._calibration = ray, calibration
        self._gpus = int(ray.cluster_resources().get("GPU", 0)) > 0
        if not (room := self._room()):
            raise UserError(f"scoring.ray.address: the cluster has no cores; add a node to it, {USE_LOCAL}")
        self._start = ray.remote(
            num_cpus=CORES_OF_AN_ACTOR, num_gpus=int(self._gpus), max_restarts=0, max_task_retries=0
        )(Worker).remote
        self._actors = [_Actor(self._start(calibration)) for _ in range(min(workers or room, room))]
        self._running: dict[Any, tuple[_Task, _Actor]] = {}

    def map(self, parts: Iterable[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
        """The answers to each part, in the order of the parts; only a few parts are under way."""
        tasks: deque[_Task] = deque()
        try:
            for part in parts:
                tasks.append(_Task(pack(part)))
                self._send(tasks[-1])
                if len(tasks) >= UNDER_WAY * len(self._actors):
                    yield self._take(tasks)
            while tasks:
                yield self._take(tasks)
        finally:
            for actor in self._actors:
                self._ray.kill(actor.handle)

    def _send(self, task: _Task) -> None:
        """Give a part to the actor that has the fewest."""
        actor = min(self._actors, key=lambda one: one.under_way)
        actor.under_way += 1
        self._running[actor.handle.score.remote(task.part)] = task, actor

    def _take(self, tasks: deque[_Task]) -> pa.RecordBatch:
        """The answers to the first part, which is taken off."""
        while (answers := tasks[0].answers) is None:
            done, _ = self._ray.wait(list(self._running), timeout=STALLED_SECONDS)
            if done:
                self._finish(done[0])
            else:
                self._drop_surplus()
        tasks.popleft()
        return answers

    def _finish(self, result: Any) -> None:
        errors = self._ray.exceptions
        task, actor = self._running.pop(result)
        actor.under_way -= 1
        try:
            task.answers = unpack(self._ray.get(result))
            actor.began = True
        except errors.RayTaskError as error:  # of our own code in the actor
            raise error.cause from None
        except errors.RayError:  # the actor, its node or the answers are gone
            task.lost += 1
            if task.lost == TRIES:
                raise UserError(
                    f"scoring: the Ray actor was lost {TRIES} times on the same texts, perhaps for want of memory; "
                    "give its nodes more, or lower scoring.workers"
                ) from None
            self._replace(actor)
            self._send(task)

    def _replace(self, lost: _Actor) -> None:
        """Another actor in the place of one that is lost, the first time that it is noticed."""
        if lost in self._actors:
            self._actors[self._actors.index(lost)] = _Actor(self._start(self._calibration))

    def _drop_surplus(self) -> None:
        """Where a node is gone for good, actors that replace its own would wait for ever: the others do their parts.

        Ray takes up to half a minute to notice a lost node, so it is not known yet when they are started.
        """
        surplus = max(0, len(self._actors) - max(1, self._room()))
        for actor in [one for one in self._actors if not one.began][:surplus]:
            self._actors.remove(actor)
            self._ray.kill(actor.handle)
            for result in [one for one, (_, owner) in self._running.items() if owner is actor]:
                self._send(self._running.pop(result)[0])

    def _room(self) -> int:
        """How many actors the cluster holds now, were it ours alone."""
        resources = self._ray.cluster_resources()
        cores = int(resources.get("CPU", 0)) // CORES_OF_AN_ACTOR
        return min(cores, int(resources.get("GPU", 0))) if self._gpus else cores


def _import_ray() -> Any:
    """Ray, with token authentication on and usage statistics off unless the environment says otherwise."""
    if (
        "ray" not in sys.modules
    ):  # it reads the mode as it is imported; imported by somebody else it has its own default
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError(
            f"scoring.engine: ray is not installed; install emotion_assets with its extra [ray], {USE_LOCAL}"
        ) from None
    return ray


@contextmanager
def _connected(ray: Any, settings: RaySettings, workers: int | None) -> Iterator[None]:
    """A cluster: the one that this process is connected to already, that of the settings, or one made here.

    Raises:
        UserError: it cannot be reached, refuses the token, or cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    with _kept_signals():
        if settings.address is None:
            folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
            with folder as path, _on_loopback(ray), _shutting_down(ray):
                _set_token()
                _init(ray, "a cluster on this machine", "put that right", **_local_options(settings, workers, path))
                yield
        else:
            _require_reachable(settings.address)
            with _shutting_down(ray):
                _init(ray, settings.address, TOKEN, address=settings.address)
                yield


def _local_options(settings: RaySettings, workers: int | None, folder: str) -> dict[str, Any]:
    return {
        "address": "local",
        "num_cpus": workers or count_cores(),
        "include_dashboard": settings.dashboard_host is not None,
        "dashboard_host": settings.dashboard_host or LOOPBACK,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_node_ip_address": LOOPBACK,
        "_temp_dir": folder,
    }


def _init(ray: Any, where: str, fix: str, **options: Any) -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"scoring.ray: {where}: Ray cannot connect ({first}); {fix}, {USE_LOCAL}") from None


def _require_reachable(address: str) -> None:
    """Refuse at once what Ray would try for minutes.  Raises UserError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"scoring.ray.address: {address}: cannot be reached ({why}); give the HOST:PORT of a cluster that runs, "
            f"{USE_LOCAL}"
        ) from None


@contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:
    """Ray takes 127.0.0.1 for the machine's address on the network, and listens there, unless clusters are off: this
    switch of its own, made for other systems, keeps every part of a cluster made meanwhile on loopback."""
    constants = ray._private.ray_constants
    name, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    given = os.environ.get(name)
    os.environ[name], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]
        if given is not None:
            os.environ[name] = given


def _set_token() -> None:
    """A token of this process for the clusters that it makes, unless one is given: Ray would keep one in the user's
    home. It stays, since Ray reads it once."""
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def _shutting_down(ray: Any) -> Iterator[None]:
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Ray takes SIGTERM over, by which a run is cancelled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
