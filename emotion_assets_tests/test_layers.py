"""The layers of ``docs/architecture.md``: arrows point down only, Dagster and torch stay where they belong."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emotion_assets_tests.conftest import PROJECT

PACKAGE = PROJECT / "emotion_assets"
LAYERS = (
    "settings",
    "storage",
    "forms",
    "dataset",
    "training",
    "models",
    "profiles",
    "jobs",
    "evaluation",
    "ingest",
    "scoring",
    "review",
    "reports",
    "defs",
    "cli",
    "definitions",
)
"""Lowest first: a package imports itself and those before it."""

TORCH = {"models", "training"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def layer_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def modules() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def imports(file: Path) -> Iterator[tuple[str, int, bool]]:
    """Each imported module of a file, its line, and whether it is imported as the file is loaded."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inner = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.If)
        for node in ast.walk(outer)
        if node is not outer
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) not in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            yield str(node.module), node.lineno, id(node) not in inner


def test_every_package_has_its_layer_and_says_what_belongs_in_it() -> None:
    assert {layer_of(file) for file in modules()} == set(LAYERS)
    for folder in {file.parent for file in modules()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_no_arrow_runs_back() -> None:
    backward = [
        f"{file.relative_to(PROJECT)}:{line} imports {name}"
        for file in modules()
        for name, line, _ in imports(file)
        if name.startswith("emotion_assets.") and LAYERS.index(name.split(".")[1]) > LAYERS.index(layer_of(file))
    ]
    assert backward == []


def test_dagster_is_imported_in_defs_alone() -> None:
    elsewhere = [
        f"{file.relative_to(PROJECT)}:{line}"
        for file in modules()
        for name, line, _ in imports(file)
        if name.split(".")[0] == "dagster" and layer_of(file) not in ("defs", "definitions")
    ]
    assert elsewhere == []


def test_torch_is_imported_where_models_are() -> None:
    elsewhere = [
        f"{file.relative_to(PROJECT)}:{line}"
        for file in modules()
        for name, line, _ in imports(file)
        if name.split(".")[0] in ("torch", "transformers", "peft") and layer_of(file) not in TORCH
    ]
    assert elsewhere == []


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer not in TORCH])
def test_a_package_without_models_loads_without_torch(layer: str, tmp_path: Path) -> None:
    champion = tmp_path / "store" / "pointers" / "champion_model.json"  # without one, defs.preloaded imports torch
    champion.parent.mkdir(parents=True)
    champion.touch()
    code = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module('emotion_assets.{layer}')\n"
        "for module in pkgutil.walk_packages(getattr(package, '__path__', []), package.__name__ + '.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])\n"
    )
    home = {**os.environ, "EMOTION_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False, env=home
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_files_and_functions_are_short_enough_to_be_read() -> None:
    files, functions = [], []
    for file in modules():
        text = file.read_text(encoding="utf-8")
        if text.count("\n") > LONGEST_FILE:
            files.append(str(file.relative_to(PROJECT)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION:
                functions.append(f"{file.relative_to(PROJECT)}:{node.name}")
    assert files == []
    assert functions == []


def test_the_architecture_page_names_every_package() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [layer for layer in LAYERS if f"{layer} · " not in page] == []
