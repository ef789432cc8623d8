"""The services of ``deploy/compose.yaml`` as processes of this machine, on a private Postgres cluster.

Each is started with the very command of the compose file; only hosts, ports and folders are this machine's.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from emotion_assets_tests.conftest import PROJECT, TINY_PROFILE
from emotion_assets_tests.worlds.postgres import Cluster, find_port

DEPLOY = PROJECT / "deploy"
MODULES = {"dagster": "dagster", "dagster-daemon": "dagster._daemon", "dagster-webserver": "dagster_webserver"}
START_SECONDS = 240

LAUNCH = """
mutation Launch($selection: [AssetKeyInput!]!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "emotion_assets", repositoryName: "__repository__", jobName: "__ASSET_JOB",
               assetSelection: $selection},
    runConfigData: {}, mode: "default"}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on UnauthorizedError { message }
    ... on PythonError { message }
  }
}
"""


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return content


def instance_yaml() -> str:
    """dagster.yaml as the image has it."""
    return "".join((PROJECT / name).read_text("utf-8") for name in ("dagster.yaml", "deploy/dagster.storage.yaml"))


@dataclass(frozen=True)
class Address:
    """A service that answers HTTP, with the account that requests are made with."""

    url: str
    account: str | None = None

    def get(self, path: str = "", data: bytes | None = None) -> bytes:
        """The body of the answer.  Raises urllib.error.HTTPError for anything but a success."""
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        if self.account:
            request.add_header("Authorization", "Basic " + base64.b64encode(self.account.encode()).decode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            body: bytes = answer.read()
            return body

    def status(self, path: str) -> int:
        try:
            self.get(path)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def query(self, query: str, **variables: Any) -> Any:
        answer = json.loads(self.get("/graphql", json.dumps({"query": query, "variables": variables}).encode()))
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch(self, *keys: str) -> Any:
        """Ask for a run that materialises the assets; the answer of the mutation."""
        return self.query(LAUNCH, selection=[{"path": key.split("/")} for key in keys])["launchRun"]

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first."""
        found = self.query("{ runsOrError { ... on Runs { results { runId jobName status } } } }")
        results: list[dict[str, Any]] = found["runsOrError"]["results"]
        return results


@dataclass(frozen=True)
class Deployment:
    folder: Path
    environment: Mapping[str, str]
    webserver: Address
    guests: Address

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text('utf-8')[-3000:]}" for log in self.folder.glob("*.log"))

    def wait(self, what: str, happened: Callable[[], object], seconds: float = START_SECONDS) -> None:
        """Return as soon as ``happened`` gives something true."""
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"{what} did not happen in {seconds:.0f} s\n{self.logs()}"
            time.sleep(0.5)


@contextmanager
def running_deployment(cluster: Cluster, folder: Path) -> Iterator[Deployment]:
    """All of Dagster's services, in the order of the compose file, ready to be used."""
    code, web, guests = find_port(), find_port(), find_port()
    home, dagster_home = folder / "home", folder / "dagster"
    (home / "inbox").mkdir(parents=True)
    dagster_home.mkdir()
    (dagster_home / "dagster.yaml").write_text(instance_yaml(), encoding="utf-8")
    (dagster_home / "workspace.yaml").write_text((DEPLOY / "workspace.yaml").read_text("utf-8"), encoding="utf-8")
    url = urlsplit(cluster.make_database())
    here = {
        "DAGSTER_HOME": dagster_home, "DAGSTER_PG_HOST": url.hostname, "DAGSTER_PG_PORT": url.port,
        "DAGSTER_PG_USERNAME": url.username, "DAGSTER_PG_PASSWORD": "any", "DAGSTER_PG_DB": url.path[1:],
        "CODE_SERVER_HOST": "127.0.0.1", "CODE_SERVER_PORT": code, "PYTHONPATH": PROJECT,
    }  # fmt: skip
    mine = {"EMOTION_HOME": home, "EMOTION_PROFILE": TINY_PROFILE}
    environment = os.environ | {name: str(value) for name, value in here.items()}
    code_environment = environment | {name: str(value) for name, value in mine.items()}
    workspace = dagster_home / "workspace.yaml"

    def command(service: str, port: int = 0) -> list[str]:
        ours = {
            "0.0.0.0": "127.0.0.1",
            "/opt/dagster/workspace.yaml": str(workspace),
            "4000": str(port),
            "3000": str(port),
        }
        program, *arguments = compose()["services"][service]["command"]
        return [sys.executable, "-m", MODULES[program], *(ours.get(argument, argument) for argument in arguments)]

    subprocess.run(command("migrate"), env=environment, cwd=folder, check=True, capture_output=True, timeout=300)
    with ExitStack() as stack:
        deployment = Deployment(
            folder, environment, Address(f"http://127.0.0.1:{web}"), Address(f"http://127.0.0.1:{guests}/guests")
        )
        started: dict[str, subprocess.Popen[bytes]] = {}

        def start(service: str, port: int, env: Mapping[str, str] = environment) -> None:
            log = stack.enter_context((folder / f"{service}.log").open("wb"))
            started[service] = stack.enter_context(running_process(command(service, port), env, folder, log))

        def answers(address: Address) -> bool:
            ended = [name for name, process in started.items() if process.poll() is not None]
            assert not ended, f"{ended} ended\n{deployment.logs()}"
            try:
                return address.status("/server_info") == 200
            except OSError:
                return False

        health = [sys.executable, "-m", "dagster", "api", "grpc-health-check", "--port", str(code)]
        start("code", code, code_environment)
        deployment.wait("code", lambda: subprocess.run(health, env=environment, capture_output=True).returncode == 0)
        start("daemon", 0)
        start("webserver", web)
        start("guests", guests)
        deployment.wait("webserver", lambda: answers(deployment.webserver))
        deployment.wait("guests", lambda: answers(deployment.guests))
        yield deployment


@contextmanager
def running_process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process and whatever it starts; all of it is ended with the block."""
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
