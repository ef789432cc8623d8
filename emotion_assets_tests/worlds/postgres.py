"""A private Postgres cluster in a temporary folder, and Dagster instances that keep their history in it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

USER = "emotion"
SETTINGS = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=300"


def find_tool(name: str) -> str | None:
    """``initdb`` or ``pg_ctl``: on the path, or where Debian keeps them, newest version first."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


def why_not() -> str | None:
    """The reason why no cluster can be started here, with the fix; None when one can be."""
    if missing := [name for name in ("initdb", "pg_ctl") if find_tool(name) is None]:
        return f"{missing[0]} is not here; `apt-get install postgresql` brings it"
    try:
        import dagster_postgres  # noqa: F401
    except ImportError:
        return "dagster-postgres is not installed; `pip install '.[deploy]'` brings it"
    return None


@dataclass(frozen=True)
class Cluster:
    """A running server; each database is empty and of its own name."""

    port: int

    def make_database(self) -> str:
        """The URL of a new, empty database."""
        import psycopg2

        name = f"dagster_{os.urandom(6).hex()}"
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user=USER, dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name}")
        finally:
            connection.close()
        return f"postgresql+psycopg2://{USER}@127.0.0.1:{self.port}/{name}"

    def make_storage(self) -> Mapping[str, Any]:
        """The key ``storage`` of a dagster.yaml, on a new database."""
        return {"postgres": {"postgres_url": self.make_database()}}

    def make_instance(self) -> dg.DagsterInstance:
        """What ``DagsterInstance.ephemeral`` gives, its history in a new database instead of in memory."""
        from dagster._core.instance import InstanceType
        from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher
        from dagster._core.run_coordinator import DefaultRunCoordinator
        from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
        from dagster._core.storage.root import TemporaryLocalArtifactStorage
        from dagster_postgres import DagsterPostgresStorage

        storage = DagsterPostgresStorage(self.make_database())
        return dg.DagsterInstance(
            instance_type=InstanceType.EPHEMERAL,
            local_artifact_storage=TemporaryLocalArtifactStorage(),
            run_storage=storage.run_storage,
            event_storage=storage.event_log_storage,
            schedule_storage=storage.schedule_storage,
            compute_log_manager=NoOpComputeLogManager(),
            run_coordinator=DefaultRunCoordinator(),
            run_launcher=SyncInMemoryRunLauncher(),
        )


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster on a free port of the loopback, stopped and deleted with the block. ``why_not`` must be None."""
    as_user = _unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        if as_user:
            os.chown(folder, pwd.getpwnam(as_user).pw_uid, -1)
        data, log, port = Path(folder) / "data", Path(folder) / "log", find_port()
        _run(as_user, find_tool("initdb"), "-D", data, "-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder} {SETTINGS}"
        _run(as_user, find_tool("pg_ctl"), "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield Cluster(port)
        finally:
            _run(as_user, find_tool("pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")


@contextmanager
def keep_instances_in(cluster: Cluster) -> Iterator[None]:
    """Within the block ``DagsterInstance.ephemeral`` and ``instance_for_test`` give instances on the cluster.

    Dagster makes the instance of ``materialize`` and ``execute_in_process`` with the former, so these are covered too.
    """
    made: list[dg.DagsterInstance] = []
    with_default = dg.instance_for_test

    def ephemeral(*args: Any, **kwargs: Any) -> dg.DagsterInstance:
        assert not args and not kwargs, "an instance on Postgres takes none of the arguments of an ephemeral one"
        made.append(cluster.make_instance())
        return made[-1]

    def instance_for_test(overrides: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        return with_default({"storage": dict(cluster.make_storage()), **(overrides or {})}, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dg.DagsterInstance, "ephemeral", staticmethod(ephemeral))
        patch.setattr(dg, "instance_for_test", instance_for_test)
        yield
        for instance in made:
            instance.dispose()


def find_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _unprivileged_user() -> str | None:
    """Postgres refuses to run as root: then the user that its package made, or nobody."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _run(user: str | None, *command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command], user=user, cwd="/", check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
