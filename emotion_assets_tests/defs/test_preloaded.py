"""What the steps of a run inherit from the process that they are forked from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emotion_assets.training.runtime import torch_can_use_a_gpu
from emotion_assets_tests.conftest import PROJECT

CODE = """
import emotion_assets.defs.preloaded
import json, os, sys, unittest.mock
from dagster._core.storage import sql
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from emotion_assets.defs import inherited
from emotion_assets.definitions import defs

def built():
    try:
        return "inherited" if defs() is inherited.definitions else "built"
    except Exception as error:
        return type(error).__name__

config = sql.get_alembic_config(sqlite_event_log.__file__)
with unittest.mock.patch("alembic.script.base.Script._from_path", side_effect=AssertionError):
    head = sql.ScriptDirectory.from_config(config).as_revision_number("head")
libraries = {name: name in sys.modules for name in ("torch", "transformers", "peft")}
print(json.dumps({"definitions": built(), **libraries, "head": head, "threads": len(os.listdir("/proc/self/task"))}))
"""


def preload(tmp_path: Path, profile: str) -> Any:
    environment = {**os.environ, "EMOTION_HOME": str(tmp_path), "EMOTION_PROFILE": profile}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=PROJECT, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TORCH = ("torch", "transformers", "peft")


def chosen(home: Path) -> Path:
    """The home, with a champion."""
    champion = home / "store" / "pointers" / "champion_model.json"
    champion.parent.mkdir(parents=True)
    champion.touch()
    return home


def test_a_step_inherits_the_definitions_and_the_list_of_migrations_and_no_torch(tmp_path: Path) -> None:
    found = preload(chosen(tmp_path), "embedded")
    assert found["head"]
    assert found["definitions"] == "inherited"
    assert not any(found[name] for name in TORCH)
    assert not (tmp_path / "emotion.duckdb").exists()


@pytest.mark.skipif(torch_can_use_a_gpu(), reason="torch is built for a GPU here")
def test_where_no_champion_was_chosen_yet_it_inherits_torch_too_and_no_thread_of_it(tmp_path: Path) -> None:
    found = preload(tmp_path, "embedded")
    assert all(found[name] for name in TORCH)
    assert found["threads"] == preload(chosen(tmp_path), "embedded")["threads"]


def test_where_the_definitions_cannot_be_built_the_step_says_so_itself(tmp_path: Path) -> None:
    assert preload(tmp_path, "no_such_profile")["definitions"] == "SettingsError"
