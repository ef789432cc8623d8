"""Postgres, code server, daemon and both webservers run as in the compose file, and score feedback together."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest

from emotion_assets_tests.conftest import PROJECT
from emotion_assets_tests.deploy.services import DEPLOY, Address, Deployment, running_deployment, running_process
from emotion_assets_tests.worlds.postgres import Cluster, find_port, running_cluster, why_not

REASON = why_not()
pytestmark = [pytest.mark.skipif(REASON is not None, reason=str(REASON)), pytest.mark.timeout(1200)]

CHAMPION = (
    "raw_emotion_dataset", "class_balance_report", "baseline_models/tfidf_svm", "predictions/tfidf_svm",
    "evaluation_table", "champion_model",
)  # fmt: skip
ASSETS = "{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }"
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy required } } } }"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres: Cluster | None) -> Iterator[Deployment]:
    """All services, with a champion materialised through the operators' webserver."""
    with ExitStack() as stack:
        cluster = postgres or stack.enter_context(running_cluster())
        folder = tmp_path_factory.mktemp("deployment")
        deployment = stack.enter_context(running_deployment(cluster, folder))
        launched = deployment.webserver.launch(*CHAMPION)
        assert launched["__typename"] == "LaunchRunSuccess", launched
        deployment.wait("the first run", lambda: ended(deployment, launched["run"]["runId"]), seconds=600)
        yield deployment


def ended(deployment: Deployment, run_id: str) -> str | None:
    """The status of a run that has ended."""
    (status,) = [run["status"] for run in deployment.webserver.runs() if run["runId"] == run_id]
    return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None


def materialised(address: Address) -> set[str]:
    nodes = address.query(ASSETS)["assetNodes"]
    return {"/".join(node["assetKey"]["path"]) for node in nodes if node["assetMaterializations"]}


def test_a_run_that_is_launched_in_the_browser_runs_beside_the_code_server(deployment: Deployment) -> None:
    statuses = {run["status"] for run in deployment.webserver.runs()}  # the daemon may have started runs of its own
    assert "SUCCESS" in statuses and not statuses & {"FAILURE", "CANCELED"}, deployment.logs()
    assert set(CHAMPION) <= materialised(deployment.webserver)
    assert (deployment.home / "emotion.duckdb").is_file()
    assert not list(deployment.folder.rglob("*.db")), "some of the history is in SQLite"


def test_a_file_in_the_inbox_is_scored_by_the_daemons_sensor(deployment: Deployment) -> None:
    source = PROJECT / "data" / "sample" / "feedback" / "app_reviews.jsonl"
    shutil.copy(source, deployment.home / "inbox" / "app_reviews.jsonl")
    deployment.wait("scoring", lambda: "feedback_report" in materialised(deployment.webserver), seconds=600)
    with duckdb.connect(deployment.home / "emotion.duckdb", read_only=True) as db:
        accepted, scored = db.execute(
            "SELECT (SELECT count(*) FROM feedback), (SELECT count(*) FROM scored_feedback)"
        ).fetchall()[0]
    assert accepted == scored > 0


def test_every_daemon_is_healthy(deployment: Deployment) -> None:
    statuses = deployment.webserver.query(DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
    required = {status["daemonType"] for status in statuses if status["required"]}
    assert {"SCHEDULER", "SENSOR", "QUEUED_RUN_COORDINATOR", "MONITORING"} <= required
    assert all(status["healthy"] for status in statuses if status["required"]), statuses


def test_guests_see_the_graph_and_start_nothing(deployment: Deployment) -> None:
    assert set(CHAMPION) <= materialised(deployment.guests)
    before = len(deployment.webserver.runs())
    refused = deployment.guests.launch("raw_emotion_dataset")
    assert refused["__typename"] == "UnauthorizedError", refused
    assert len(deployment.webserver.runs()) == before


def test_the_proxy_knows_operators_and_guests(deployment: Deployment, tmp_path: Path) -> None:
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not here; install caddy 2.8 or newer")
    for file, name in (("operators", "olga"), ("guests", "greg")):
        hashed = subprocess.run(
            [caddy, "hash-password", "--plaintext", f"{name}'s password"], capture_output=True, text=True, check=True
        )
        (tmp_path / file).write_text(f"{name} {hashed.stdout.strip()}\n")
    (tmp_path / "private.html").write_text("not a report")
    (deployment.home / "reports").mkdir(exist_ok=True)
    (deployment.home / "reports" / "evaluation.html").touch()
    port = find_port()
    environment = os.environ | {
        "ADDRESS": f"http://127.0.0.1:{port}", "ACCOUNTS": str(tmp_path), "REPORTS": str(deployment.home / "reports"),
        "WEBSERVER": deployment.webserver.url.removeprefix("http://"),
        "GUESTS": deployment.guests.url.removeprefix("http://").removesuffix("/guests"),
        "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path),
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    stranger, greg, olga = Address(url), Address(url, "greg:greg's password"), Address(url, "olga:olga's password")

    def answers() -> bool:
        try:
            return stranger.status("/") == 401
        except OSError:
            return False

    command = [caddy, "run", "--config", str(DEPLOY / "Caddyfile"), "--adapter", "caddyfile"]
    with (tmp_path / "caddy.log").open("wb") as log, running_process(command, environment, tmp_path, log):
        deployment.wait("the proxy", answers)
        for path, stranger_gets, greg_gets in (
            ("/server_info", 401, 401),
            ("/guests/server_info", 401, 200),
            ("/reports/evaluation.html", 401, 200),
        ):
            answered = (stranger.status(path), greg.status(path), olga.status(path))
            assert answered == (stranger_gets, greg_gets, 200), path
        assert Address(url, "olga:wrong").status("/server_info") == 401
        for path in ("/reports/../emotion.duckdb", "/reports/%2e%2e/emotion.duckdb", "/reports/..%2fprivate.html"):
            assert greg.status(path) in (401, 404), path
            assert olga.status(path) == 404 or b"<!doctype html>" in olga.get(path).lower(), path  # Dagster's own page
        assert set(CHAMPION) <= materialised(olga)
        refused = Address(url + "/guests", greg.account).launch("raw_emotion_dataset")
        assert refused["__typename"] == "UnauthorizedError"
