"""A home with a trained champion, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emotion_assets.resources import Workspace
from emotion_assets_tests.feedback import world


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("trained") / "home"
    world.make_workspace(home)
    return home


@pytest.fixture
def make_home(trained_home: Path, tmp_path: Path) -> Callable[..., Workspace]:
    """A fresh home with a champion; keyword arguments override feedback settings."""

    def make(name: str = "home", **feedback: Any) -> Workspace:
        home = tmp_path / name
        shutil.copytree(trained_home, home)
        return Workspace(world.settings(home, **feedback))

    return make


@pytest.fixture
def workspace(make_home: Callable[..., Workspace]) -> Workspace:
    return make_home()
