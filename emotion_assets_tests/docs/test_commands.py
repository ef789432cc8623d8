"""Every command of ``docs/`` is run, page by page from top to bottom, or a comment above it says why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from emotion_assets_tests.conftest import PROJECT, Terminal
from emotion_assets_tests.docs.pages import COMMANDS, PAGES, blocks, copy_project, run_script

pytestmark = pytest.mark.timeout(1800)
LANGUAGES = COMMANDS | {"yaml", "mermaid", "python", "sql", "json", "text"}
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(#[^)]*)?\)")
TABLES = ("feedback", "scored_feedback", "evaluation", "champion_decisions")

# What a page takes to be there: a file that its reader has.
FILES = {
    "feedback.md": {
        "reviews_2026_10.csv": "id,text,created_at,email\n"
        "4711,The parcel came broken and nobody answers,2026-10-02,jo@example.com\n"
        "4712,What a lovely surprise this was,2026-10-03,jane@example.com\n"
        "4713,I am so glad that I ordered here,2026-10-04,ann@example.com\n",
    },
}
WITH_COMMANDS = [
    page for page in PAGES if any(block.language in COMMANDS and not block.reason for block in blocks(page))
]

Run = Callable[[Path], tuple[Path, str]]


@pytest.fixture
def run_page(demo: tuple[Terminal, object], tmp_path: Path) -> Run:
    """Run all commands of a page in a copy of the project whose home has been through ``make demo``."""
    terminal, _ = demo

    def run(page: Path) -> tuple[Path, str]:
        folder = tmp_path / "clone"
        copy_project(folder, terminal.home)
        for name, content in FILES.get(page.name, {}).items():
            (folder / name).write_text(content, encoding="utf-8")
        wanted = [block for block in blocks(page) if block.language in COMMANDS and not block.reason]
        script = "\n".join(f"echo '## {page.name}, line {block.line}'\n{block.script}" for block in wanted)
        done = run_script(folder, script)
        assert done.returncode == 0, done.stdout[-6000:]
        return folder, done.stdout

    return run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        assert block.language in LANGUAGES, f"{where}: a fence of {block.language or 'no language'}; use {LANGUAGES}"
        if block.reason is not None:
            assert block.language in COMMANDS, f"{where}: is no block of commands"
            assert len(block.reason.split()) >= 3, f"{where}: {block.reason!r} is no reason"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = [link["target"] for link in LINK.finditer(page.read_text(encoding="utf-8"))]
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_the_readme_leads_to_every_page() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f"(docs/{page.name})" not in readme] == []


@pytest.mark.parametrize(
    "page", [page for page in WITH_COMMANDS if page.name != "operations.md"], ids=lambda page: page.name
)
def test_the_commands_of_a_page_do_what_it_says(run_page: Run, page: Path) -> None:
    run_page(page)


def counts(home: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of what must neither be doubled nor lost."""
    with duckdb.connect(home / "emotion.duckdb", read_only=True) as db:
        return {table: db.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall() for table in TABLES}


def test_a_home_is_backed_up_restored_and_moved_and_nothing_is_trained_again(run_page: Run) -> None:
    folder, said = run_page(PROJECT / "docs" / "operations.md")
    here = counts(folder / "data")
    assert all(here.values())
    for home in ("restored-home", "rebuilt-home", "moved-home"):
        assert counts(folder / home) == here, home
    assert "is in the store as" in said
    assert "step 1/" not in said
    digests = {
        home: json.loads((folder / home / "store" / "pointers" / "champion_model.json").read_text())["digest"]
        for home in ("data", "restored-home", "rebuilt-home", "moved-home")
    }
    assert len(set(digests.values())) == 1, digests
