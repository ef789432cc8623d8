"""The evaluation page: whole in one file, safe with any text, honest about what cannot be compared, fit for a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from emotion_assets.dataset.balance import balance_report
from emotion_assets.dataset.splits import read_split, read_splits
from emotion_assets.defs.evaluation import evaluation_metadata
from emotion_assets.evaluation import published
from emotion_assets.evaluation import rows as figures
from emotion_assets.reports import evaluation_page as page_module
from emotion_assets.reports.evaluation_page import write_evaluation_page
from emotion_assets.storage.keys import BALANCE, RAW_DATASET
from emotion_assets_tests.worlds.evaluated import World, world

__all__ = ["world"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Collects addresses and text; a tag that is closed out of order fails."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "data", "action") and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.add(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def write(world: World) -> str:
    w = world.workspace
    return write_evaluation_page(w.settings, w.store, w.warehouse).read_text(encoding="utf-8")


def outline(html: str) -> Outline:
    found = Outline()
    found.feed(html)
    assert found.open == []
    return found


def store_report(world: World) -> None:
    w = world.workspace
    dataset = w.store.current(RAW_DATASET)
    report = balance_report(read_splits(dataset), w.settings.labels, w.settings.seed)
    with w.store.writing("balance_reports") as draft:
        draft.file("report.json").write_text(report.model_dump_json(), encoding="utf-8")
        w.store.point(BALANCE, "balance_reports", draft.finish({"dataset": dataset.digest}))


@pytest.fixture
def evaluated(world: World) -> World:
    world.store_model("tfidf_svm")
    world.store_model("bert_base", rows=300, parameters=110_000_000)
    world.store_model("bigru", rows=600, parameters=2_000_000)
    store_report(world)
    world.evaluate()
    world.choose()
    return world


def test_the_page_is_one_well_formed_file_that_asks_the_network_for_nothing(evaluated: World) -> None:
    html = write(evaluated)
    found = outline(html)
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= found.ids
    assert not found.tags & {"script", "iframe", "img"}
    assert not re.search(r"https?://|@import|url\(", html)


def test_the_page_shows_every_part_that_a_decision_needs(evaluated: World) -> None:
    html = write(evaluated)
    wanted = {"leaderboard", "differences", "cost", "classes", "calibration", "mistakes", "data", "paper", "champion"}
    assert wanted <= outline(html).ids
    assert html.count('class="mark') > 3 * 3 and html.count("<svg") == 3 + 3 + 1
    for name in ("tfidf_svm", "bert_base", "bigru"):
        assert name in html
    assert "is the first champion" in html
    assert "they say nothing of how well a model does on real messages" in html


def test_on_other_rows_no_published_accuracy_is_shown_and_the_page_says_why(evaluated: World) -> None:
    html = write(evaluated)
    fingerprint = evaluated.workspace.store.current(RAW_DATASET).info["fingerprints"]["test"]
    assert "The published accuracies are not shown" in html and fingerprint[:12] in html and "9ff8b50f4921" in html
    assert "of the five only 0.9125 is one" in html and "1.2 points either way" in html
    assert "90.63%" not in html


def test_on_the_official_rows_every_published_accuracy_is_a_row_whatever_the_profile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = world.workspace.store.current(RAW_DATASET).info["fingerprints"]["test"]
    for module in (figures, page_module, published):
        monkeypatch.setattr(module, "OFFICIAL_TEST_FINGERPRINT", official)
    world.store_model("bert_base")
    world.evaluate()
    html = write(world)
    assert all(f"{value}%" in html for value in ("92.62", "91.89", "91.25", "90.86", "90.63"))
    assert html.count("(published)") == 2 * 5  # in the chart and in the table
    assert "stand among the rows" in html and "are not shown" not in html
    leaderboard = evaluation_metadata(world.workspace)["leaderboard"].md_str
    assert leaderboard.count(" (published) |") == 5


def test_texts_with_markup_in_them_are_shown_as_text(world: World) -> None:
    test = read_split(world.workspace.store.current(RAW_DATASET), "test")
    test["text"] = test["text"] + " <script>alert('x')</script> & <b>"
    world.store_dataset({"test": test})
    world.store_model("tfidf_svm", rows=300)
    world.evaluate()
    html = write(world)
    assert "<script>" not in html and "&lt;script&gt;" in html
    outline(html)


def test_one_model_without_champion_or_dataset_report_makes_a_page_too(world: World) -> None:
    world.store_model("tfidf_svm")
    world.evaluate()
    html = write(world)
    outline(html)
    assert "materialise class_balance_report" in html and "materialise champion_model" in html
    assert "bigru is not evaluated" in html


def test_earlier_versions_and_models_of_other_rows_are_on_the_page_but_not_ranked(evaluated: World) -> None:
    old = evaluated.workspace.store.current(["baseline_models", "bert_base"]).version
    evaluated.store_model("bert_base", rows=900)
    evaluated.evaluate()
    html = write(evaluated)
    assert "Earlier evaluations on test: 1" in html and old in html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser_the_page_fits_its_width(evaluated: World, tmp_path: Path, width: int) -> None:
    """In a frame of that width, since the browser's own window does not get as narrow as a phone."""
    probe = tmp_path / "probe.html"
    measure = "parent.document.title = 'wide ' + document.documentElement.scrollWidth + ' of ' + innerWidth"
    html = write(evaluated).replace("<details", "<details open") + f"<script>{measure}</script>"
    frame = f'<title></title><iframe srcdoc="{escape(html)}" style="width:{width}px;height:900px;border:0"></iframe>'
    probe.write_text(frame, encoding="utf-8")
    assert CHROMIUM is not None
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    done = subprocess.run(
        [
            CHROMIUM,
            *quiet.split(),
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'user'}",
            "--window-size=1300,1000",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = re.search(r"<title>wide (\d+) of (\d+)</title>", done.stdout)
    assert found is not None and int(found[1]) <= int(found[2]) == width
