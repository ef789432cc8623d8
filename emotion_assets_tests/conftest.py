"""Shared by all tests: small datasets, profiles that train in seconds, and a home with a trained champion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from emotion_assets.storage.workspace import Workspace
    from emotion_assets_tests.worlds.postgres import Cluster

# A shell starts what is in the background deaf to Ctrl-C; Dagster then makes a process deaf to SIGTERM too.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for variable in ("EMOTION_DATASET", "EMOTION_HOME"):
    os.environ.pop(variable, None)
os.environ["EMOTION_PROFILE"] = "embedded"  # needs nothing that is not here

PROJECT = Path(__file__).parent.parent
REAL_DATASET = PROJECT.parent / "shared" / "data" / "emotion"
CASES = PROJECT.parent / "shared" / "cases"
REAL_CHECKPOINT = PROJECT.parent / "shared" / "models" / "all-MiniLM-L6-v2"

needs_real_dataset = pytest.mark.skipif(not REAL_DATASET.is_dir(), reason=f"the real dataset is not at {REAL_DATASET}")
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"the reported cases are not at {CASES}")
needs_real_checkpoint = pytest.mark.skipif(
    not REAL_CHECKPOINT.is_dir(), reason=f"the real checkpoint is not at {REAL_CHECKPOINT}"
)

# One model of each kind, each trained in a second or two.
TINY_PROFILE = Path(__file__).parent / "profiles" / "tiny.yaml"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        action="store_true",
        help="keep the history of every Dagster instance in a private Postgres cluster, not in memory and SQLite",
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes by its argument: gzip and workbooks hold the time, so two workers would find other tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def postgres(request: pytest.FixtureRequest) -> Iterator[Cluster | None]:
    """With ``--postgres``, the cluster that every instance of the tests keeps its history in."""
    if not request.config.getoption("--postgres"):
        yield None
        return
    from emotion_assets_tests.worlds.postgres import keep_instances_in, running_cluster, why_not

    if reason := why_not():
        pytest.exit(f"--postgres: {reason}", returncode=2)
    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster())
        stack.enter_context(keep_instances_in(cluster))
        yield cluster


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write splits of (text, label) pairs as JSON Lines into a folder and return it."""

    def write(splits: Mapping[str, list[tuple[str, str]]], name: str = "dataset") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for split, rows in splits.items():
            lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        return folder

    return write


@dataclass(frozen=True)
class Terminal:
    """Runs the commands a user runs, in a home of its own."""

    home: Path
    environment: Mapping[str, str]
    storage: Mapping[str, Any] | None = None
    """The key ``storage`` of the instance's dagster.yaml, if its history is kept elsewhere than in SQLite."""

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    def run(self, *command: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """A module with arguments, as ``python -m`` runs it; ``stdin`` is piped into it."""
        self.dagster_home.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / "dagster.yaml", self.dagster_home)
        if self.storage:
            with (self.dagster_home / "dagster.yaml").open("a", encoding="utf-8") as file:
                yaml.safe_dump({"storage": dict(self.storage)}, file)
        here = {
            "EMOTION_HOME": str(self.home),
            "DAGSTER_HOME": str(self.dagster_home),
            **self.environment,
        }
        return subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            input=stdin,
            cwd=PROJECT,
            env=os.environ | here | environment,
            timeout=500,
            check=False,
        )

    def materialise(self, selection: str = "*", **environment: str) -> subprocess.CompletedProcess[str]:
        """What ``make demo`` runs."""
        command = ["dagster_dg_cli.cli", "launch", "--assets", selection]
        return self.run(*command, "--config-json", '{"loggers": {"console": {}}}', **environment)

    def emotion_assets(
        self, *arguments: str, stdin: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run("emotion_assets.cli", *arguments, stdin=stdin, **environment)


@pytest.fixture
def terminal(tmp_path: Path, postgres: Cluster | None) -> Terminal:
    return Terminal(tmp_path, {"EMOTION_PROFILE": str(TINY_PROFILE)}, postgres and postgres.make_storage())


@pytest.fixture(scope="session")
def demo(
    tmp_path_factory: pytest.TempPathFactory, postgres: Cluster | None
) -> tuple[Terminal, subprocess.CompletedProcess[str]]:
    """The whole graph, materialised once for all tests that only look at what came of it."""
    storage = postgres and postgres.make_storage()
    terminal = Terminal(tmp_path_factory.mktemp("demo"), {"EMOTION_PROFILE": str(TINY_PROFILE)}, storage)
    (terminal.home / "inbox").mkdir()
    for file in (PROJECT / "data" / "sample" / "feedback").iterdir():
        shutil.copy2(file, terminal.home / "inbox")
    return terminal, terminal.materialise()


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from emotion_assets_tests.worlds import feedback as world

    home = tmp_path_factory.mktemp("trained") / "home"
    world.make_workspace(home)
    return home


@pytest.fixture
def make_home(trained_home: Path, tmp_path: Path) -> Callable[..., Workspace]:
    """A fresh home with a champion; keyword arguments override feedback settings."""
    from emotion_assets.storage.workspace import Workspace
    from emotion_assets_tests.worlds import feedback as world

    def make(name: str = "home", **feedback: Any) -> Workspace:
        home = tmp_path / name
        shutil.copytree(trained_home, home)
        return Workspace(world.settings(home, **feedback))

    return make


@pytest.fixture
def workspace(make_home: Callable[..., Workspace]) -> Workspace:
    return make_home()
