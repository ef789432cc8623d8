"""README's commands word for word in a clone: each one works, and what it ran stands where ``make ui`` shows it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from emotion_assets_tests.conftest import PROJECT, TINY_PROFILE
from emotion_assets_tests.worlds.clone import fresh_shell, link_interpreter

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
UI = "make ui"
NOT_CLONED = shutil.ignore_patterns(".git", ".venv", ".env", ".*_cache", "__pycache__", "*.egg-info", "build")

pytestmark = pytest.mark.timeout(1800)


@dataclass(frozen=True)
class Clone:
    folder: Path
    said: str

    @property
    def dagster_home(self) -> Path:
        return self.folder / "data" / "dagster"


def environment(folder: Path) -> dict[str, str]:
    return fresh_shell() | {"EMOTION_PROFILE": str(folder / "small.yaml"), "PYTHONPATH": str(folder)}


def write_what_the_commands_read(folder: Path) -> None:
    """Its profile's encoder has a pooling that plain transformers knows, so that it can be exported."""
    profile = TINY_PROFILE.read_text(encoding="utf-8").replace("bert_tiny, pooling: max", "bert_tiny, pooling: mean")
    (folder / "small.yaml").write_text(profile, encoding="utf-8")
    rows = ["I can't thank you enough", "This is the third broken kettle", "I am scared of the bill"]
    feedback = "text,email\n" + "".join(f"{text},ann@example.org\n" for text in rows)
    for name in ("export.csv", "feedback.csv", "data/inbox/ann.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(feedback)
    (folder / "comments.txt").write_text("\n".join(rows) + "\n")
    for file in (folder / "data" / "sample" / "feedback").iterdir():
        shutil.copy2(file, folder / "data" / "inbox")
    dataset = folder / "path" / "to" / "folder"
    dataset.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        shutil.copy2(folder / "data" / "sample" / f"{split}.jsonl", dataset)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which a person has pasted every block of README into one shell, ``make ui`` apart."""
    folder = tmp_path_factory.mktemp("clone") / "emotion_assets"
    shutil.copytree(PROJECT, folder, ignore=NOT_CLONED)
    for path in (folder / "data").iterdir():
        if path.name != "sample":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    link_interpreter(folder)
    write_what_the_commands_read(folder)
    lines = [line for block in BLOCKS for line in block.splitlines() if not line.startswith(UI)]
    # The small profile has no minilm.
    script = "set -ex\n" + "\n".join(lines).replace("--model minilm", "--model bert_base")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Clone(folder, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def runs(clone: Clone) -> list[dg.DagsterRun]:
    with dg.DagsterInstance.from_config(str(clone.dagster_home)) as instance:
        return list(instance.get_runs())


def test_every_command_reaches_the_instance_in_the_home(clone: Clone, runs: list[dg.DagsterRun]) -> None:
    starts = re.findall(r"^(?:.*make demo|dg launch|dagster asset materialize)", "\n".join(BLOCKS), re.MULTILINE)
    assert len(runs) == len(starts) > 4
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert {run.job_name for run in runs} == {"__ASSET_JOB", "feedback_job", "sweep"}
    assert not list(clone.folder.glob(".tmp_dagster_home_*"))


def test_the_pin_of_the_readme_is_known_to_the_instance(clone: Clone, runs: list[dg.DagsterRun]) -> None:
    (pinned,) = [run for run in runs if "champion_model" in run.run_config.get("ops", {})]
    with dg.DagsterInstance.from_config(str(clone.dagster_home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("champion_model"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.run_id == pinned.run_id
    assert event.asset_materialization.metadata["champion"].value == "tfidf_svm"


def test_no_warning_is_shown_but_dagster_s_advice_against_its_older_command(clone: Clone) -> None:
    warnings = [line for line in clone.said.splitlines() if "Warning" in line]
    assert all("`asset_materialize_command` is superseded" in line for line in warnings), warnings


@pytest.fixture(scope="module")
def ui(clone: Clone) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    process = subprocess.Popen(
        ["bash", "-c", f"exec {UI}"],
        cwd=clone.folder,
        env=environment(clone.folder) | {"EMOTION_REPORTS_URL": "http://127.0.0.1:3087"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    addresses = {}
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.fullmatch(r"(.*): (http://127.0.0.1:\d+)\n", line):
                addresses[found[1]] = found[2]
            else:
                assert line == "Ctrl-C ends both.\n"
                break
        yield process, addresses
    finally:
        with suppress(ProcessLookupError):  # the last test has ended it
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def test_make_ui_says_the_addresses_and_shows_the_runs_of_the_commands(
    ui: tuple[subprocess.Popen[str], dict[str, str]], runs: list[dg.DagsterRun]
) -> None:
    _, addresses = ui
    query = json.dumps({"query": "{ runsOrError { ... on Runs { results { runId } } } }"}).encode()
    request = urllib.request.Request(
        f"{addresses['The asset graph']}/graphql", query, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        shown = {run["runId"] for run in json.load(answer)["data"]["runsOrError"]["results"]}
    assert {run.run_id for run in runs} <= shown


def test_make_ui_serves_the_page_that_the_asset_links(
    ui: tuple[subprocess.Popen[str], dict[str, str]], clone: Clone
) -> None:
    _, addresses = ui
    with urllib.request.urlopen(f"{addresses['The pages']}/evaluation.html", timeout=60) as answer:
        assert b"tfidf_svm" in answer.read()


def test_make_ui_is_quiet_and_ends_with_an_interrupt(ui: tuple[subprocess.Popen[str], dict[str, str]]) -> None:
    process, _ = ui
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert "Warning" not in said
    assert "Traceback" not in said
    assert process.returncode is not None
