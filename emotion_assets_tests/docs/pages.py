"""The pages of ``docs/``: their blocks of commands, and a copy of the project in which these are run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emotion_assets_tests.conftest import PROJECT, TINY_PROFILE
from emotion_assets_tests.worlds.clone import fresh_shell, link_interpreter

PAGES = sorted((PROJECT / "docs").glob("*.md"))
COMMANDS = {"sh", "bash", "console"}
NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>.+) -->$")
FENCE = re.compile(r"^```(?P<language>\w*)$")
LEFT_OUT = (".git", ".venv", ".env", "*_cache", "__pycache__", "*.egg-info", "build", "docs", "emotion_assets_tests")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``reason`` is what the comment above it says of why it is not run."""

    line: int
    language: str
    text: str
    reason: str | None

    @property
    def script(self) -> str:
        if self.language != "console":
            return self.text
        return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ "))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opened = FENCE.match(lines[number])
        if opened is None:
            number += 1
            continue
        end = lines.index("```", number + 1)
        said = NOT_RUN.match(lines[number - 1]) if number else None
        text = "\n".join(lines[number + 1 : end])
        yield Block(number + 1, opened["language"], text, said["reason"] if said else None)
        number = end + 1


def copy_project(folder: Path, home: Path) -> None:
    """What a clone has, ``data/`` a copy of ``home``, and a ``.venv`` that runs this interpreter.

    The profiles that need a model hub, a package index or minutes are replaced by the tests' tiny one.
    """
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT, "data"))
    shutil.copytree(PROJECT / "data" / "sample", folder / "data" / "sample")
    shutil.copytree(home, folder / "data", symlinks=True, dirs_exist_ok=True)
    for name in ("pretrained", "embedded"):
        shutil.copy(TINY_PROFILE, folder / "emotion_assets" / "profiles" / f"{name}.yaml")
    link_interpreter(folder)


def run_script(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a copy of the project as a person would in a clone after ``make demo``, in a new shell that has
    read ``.env``; its first failing command is the last."""
    mine = {"EMOTION_PROFILE": "embedded", "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"make --silent instance\nsource .env\n{script}"],
        cwd=folder, env=fresh_shell() | mine, check=False, text=True, timeout=1500,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
