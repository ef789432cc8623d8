"""The feedback page needs nothing but itself, runs nothing that a customer wrote, and says what is known."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from emotion_assets.reports.feedback_page import write_feedback_page
from emotion_assets.review.queue import export_review, import_review
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import LABELS, drop_csv

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> thank you so much, I am happy'


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = world.make_workspace(tmp_path_factory.mktemp("page") / "home", target_accuracy=0.5)
    evil = [
        {"id": str(i), "text": EVIL, "created_at": f"2026-11-{i + 1:02d}", "<b>shop": "<i>a" if i % 2 else "b"}
        for i in range(20)
    ]
    drop_csv(workspace, "evil<.csv", [*evil, {**evil[0], "id": "<u>", "text": " "}, {**evil[0], "text": EVIL * 2}])
    world.run_feedback(workspace)
    return workspace


def page(workspace: Workspace) -> str:
    return write_feedback_page(workspace.settings, workspace.store, workspace.warehouse).read_text(encoding="utf-8")


def test_nothing_that_a_customer_wrote_is_markup(workspace: Workspace) -> None:
    text = page(workspace)
    assert "&lt;script&gt;alert" in text
    assert "&lt;b&gt;shop" in text
    assert "&lt;i&gt;a" in text
    for raw in ("<script", "<img", "<i>a", "<b>shop", "<u>"):
        assert raw not in text


def test_the_page_needs_no_other_file_and_no_network(workspace: Workspace) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", page(workspace))
    assert "@import" not in page(workspace)
    assert "url(" not in page(workspace)


def test_the_page_shows_each_of_its_parts(workspace: Workspace) -> None:
    text = page(workspace)
    for part in (
        "Over time",
        "Since last week",
        "By attribute",
        "Can it be trusted?",
        "Drift",
        "Examples",
        "Files and rejects",
    ):
        assert part in text
    assert "<svg" in text
    assert "empty_text" in text
    assert "No row has been reviewed yet" in text


def test_reviewed_rows_appear_as_live_accuracy(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    export_review(workspace.warehouse, path, LABELS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line |= {"label": line["emotion"], "reviewer": "Anna"}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    import_review(workspace.warehouse, path, LABELS)
    text = page(workspace)
    assert "all rows of the audit sample" in text
    assert "100.0%" in text
    assert "No row has been reviewed yet" not in text


def test_a_page_without_any_row_says_what_to_do(tmp_path: Path) -> None:
    workspace = world.make_workspace(tmp_path / "home")
    assert "No row is scored yet" in page(workspace)
