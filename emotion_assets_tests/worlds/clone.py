"""What a clone of the project and a fresh shell in it have, without an installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def link_interpreter(folder: Path) -> None:
    """A ``.venv`` whose commands are the tests' own, in place of the one that ``make`` would install."""
    environment, own = folder / ".venv", Path(sys.prefix)
    environment.mkdir()
    (environment / "bin").symlink_to(Path(sys.executable).parent)
    if (own / "pyvenv.cfg").is_file():  # by which `python` there finds its packages
        (environment / "pyvenv.cfg").symlink_to(own / "pyvenv.cfg")
        (environment / "lib").symlink_to(own / "lib")
    (environment / ".installed").touch()


def fresh_shell() -> dict[str, str]:
    """The environment without a home, and under no ``make``, as the tests themselves are in ``make test``."""
    unset = {"EMOTION_HOME", "DAGSTER_HOME", "MAKELEVEL", "MAKEFLAGS", "MFLAGS"}
    return {name: value for name, value in os.environ.items() if name not in unset}
