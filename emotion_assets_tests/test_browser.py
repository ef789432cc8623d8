"""What a person does in the UI, in a real browser: materialise a part, drop a file, wait for its scores, open the page.

It takes the pictures of README and ``docs/`` on the way: ``EMOTION_PICTURES=docs`` keeps them there.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emotion_assets_tests.conftest import PROJECT, Terminal

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
REPORTS_URL = "http://127.0.0.1:3089"
PATIENCE_SECONDS = 240  # for what takes a minute on an idle machine
TEXT = "I can't thank you enough, the new kettle is wonderful"

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian's package chromium)"),
]


@dataclass(frozen=True)
class Ui:
    """A running ``make ui`` on a home in which the whole graph was materialised once."""

    home: Path
    address: str
    said: Path

    def ask(self, query: str) -> Any:
        request = urllib.request.Request(
            f"{self.address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        found = self.ask(
            "{ runsOrError { ... on Runs { results { runId status jobName assetSelection { path } } } } }"
        )["runsOrError"]["results"]
        return list(found)

    def runs_of(self, job: str) -> list[dict[str, Any]]:
        """Newest first."""
        return [run for run in self.runs() if run["jobName"] == job]


def wait_for(what: str, done: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(2)
    raise AssertionError(f"{what} did not come in {PATIENCE_SECONDS} s")


@pytest.fixture(scope="module")
def ui(
    demo: tuple[Terminal, subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ui]:
    terminal, done = demo
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = tmp_path_factory.mktemp("ui")
    home, said = folder / "home", folder / "said.txt"
    shutil.copytree(terminal.home, home, symlinks=True)
    moved = Terminal(home, {**terminal.environment, "EMOTION_REPORTS_URL": REPORTS_URL}, terminal.storage)
    again = moved.materialise("key:evaluation_table")  # whose links follow the address
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    environment = {"EMOTION_HOME": str(home), "DAGSTER_HOME": str(moved.dagster_home)}
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "emotion_assets.cli.ui"],
            cwd=PROJECT,
            env=os.environ | moved.environment | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        found = wait_for("the address", lambda: re.search(r"The asset graph: (\S+)\n", said.read_text()))
        yield Ui(home, found[1], said)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(120)


@pytest.fixture(scope="module")
def page(ui: Ui) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1600, "height": 1000})
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        yield context.new_page()
        browser.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("EMOTION_PICTURES")
    return PROJECT / kept if kept else tmp_path_factory.mktemp("pictures")


def open_asset(page: Any, ui: Ui, key: str, tab: str = "overview") -> None:
    page.goto(f"{ui.address}/assets/{key}?view={tab}")
    page.get_by_role("button", name="Materialize").first.wait_for()


def take(page: Any, picture: Path) -> None:
    page.mouse.move(0, 0)
    page.wait_for_timeout(3000)  # the graph slides into its place
    page.screenshot(path=picture)
    assert picture.stat().st_size > 30_000


def test_a_part_is_materialised_from_its_page(ui: Ui, page: Any) -> None:
    before = {run["runId"] for run in ui.runs()}
    open_asset(page, ui, "class_balance_report")
    page.get_by_role("button", name="Materialize").first.click()

    def ended() -> dict[str, Any] | None:
        new = [run for run in ui.runs() if run["runId"] not in before and run["jobName"] == "__ASSET_JOB"]
        return next((run for run in new if run["status"] in ("SUCCESS", "FAILURE")), None)

    run = wait_for("the end of the run", ended)
    assert run["status"] == "SUCCESS"
    assert [key["path"] for key in run["assetSelection"]] == [["class_balance_report"]]


def test_a_file_in_the_inbox_is_scored_by_itself(ui: Ui, page: Any) -> None:
    (ui.home / "inbox" / "kettle.csv").write_text(f'id,text\nk1,"{TEXT}"\n')
    scores = ui.home / "reports" / "exports" / "current" / "scores.csv"

    def scored() -> dict[str, str] | None:
        with scores.open(newline="", encoding="utf-8-sig") as rows:
            return next((row for row in csv.DictReader(rows) if row.get("text") == TEXT), None)

    row = wait_for("the score", scored)
    assert row["emotion"]
    # the scores are there before their run ends, and the file may have been read by a run that began before it came
    wait_for("the success of every run", lambda: {run["status"] for run in ui.runs_of("feedback_job")} == {"SUCCESS"})


@pytest.mark.parametrize(("key", "name"), [("feedback_report", "feedback"), ("evaluation_table", "evaluation")])
def test_the_page_opens_from_its_asset(ui: Ui, page: Any, pictures: Path, key: str, name: str) -> None:
    open_asset(page, ui, key)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=f"{REPORTS_URL}/{name}.html").first.click()
    report = opened.value
    report.wait_for_load_state()
    assert report.url == f"{REPORTS_URL}/{name}.html"
    assert report.locator("h1").inner_text()
    if key == "feedback_report":
        take(report, pictures / "feedback_page.png")
    report.close()


def test_tables_and_plots_are_seen_in_their_place(ui: Ui, page: Any, pictures: Path) -> None:
    open_asset(page, ui, "evaluation_table")
    page.get_by_role("cell", name="tfidf_svm").first.wait_for()
    plot = page.locator(f'img[src^="{REPORTS_URL}/plots/"]').first
    plot.scroll_into_view_if_needed()
    assert plot.evaluate("image => image.complete && image.naturalWidth") > 100
    assert page.get_by_text("[Show Markdown]").count() == 0
    page.get_by_role("cell", name="tfidf_svm").first.scroll_into_view_if_needed()
    take(page, pictures / "evaluation_table.png")


def test_the_graph_shows_every_asset(ui: Ui, page: Any, pictures: Path) -> None:
    page.set_viewport_size({"width": 1600, "height": 1250})  # in less, the ends of the graph are cut off
    page.goto(f"{ui.address}/asset-groups")
    page.get_by_text("evaluation").first.wait_for()
    page.get_by_role("button", name="Hide navigation").click()
    page.wait_for_timeout(2000)
    page.keyboard.press("Alt+e")  # opens all groups, which the address remembers
    page.wait_for_url("**expanded=**")
    page.reload()  # fits what is open into the window
    for name in ("raw_emoti…_dataset", "bert_tiny", "evaluation_table", "champion_model", "feedback_report"):
        page.get_by_text(name).first.wait_for()
    assert page.get_by_text("bert_base").count() >= 2
    take(page, pictures / "asset_graph.png")


def test_the_ui_is_quiet_meanwhile(ui: Ui) -> None:
    lines = ui.said.read_text().splitlines()
    assert [line for line in lines if "Warning" in line or "Traceback" in line] == []
