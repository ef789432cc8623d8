"""Base checkpoints, resolved from the Hub or a folder. Those made here stand in ``pretraining``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer.checkpoints import check_checkpoint, read_config
from emotion_assets.models.transformer.memory import check_memory
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import (
    BaseSettings,
    FolderSource,
    HubSource,
    ModelSettings,
)
from emotion_assets.storage.hub import download_checkpoint, hub_problem
from emotion_assets.storage.store import MANIFEST
from emotion_assets.training.runtime import choose_runtime

if TYPE_CHECKING:
    pass


def resolve_checkpoint(
    base: BaseSettings, name: str, target: Path, models: Mapping[str, ModelSettings]
) -> dict[str, Any]:
    """Put the checkpoint of a Hub repository or folder into ``target`` and return what is known of it.

    Args:
        models: those that are to be trained on this base; the memory they need is looked at before a download.

    Raises:
        DataError: the Hub cannot give it, the folder is no safetensors checkpoint, or the memory is too small.
    """
    if isinstance(base.source, HubSource):
        source = base.source
        if problem := hub_problem(source.hub, source.revision, gated=source.gated, weights=True):
            raise DataError(f"bases.{name}: {source.hub}: {problem}")
        trained = {name: model for name, model in models.items() if isinstance(model, TransformerModel)}
        if trained:
            config = read_config(download_checkpoint(source.hub, source.revision, weights=False))
            check_memory(config, trained, choose_runtime())
        folder, origin = download_checkpoint(source.hub, source.revision), f"{source.hub}@{source.revision}"
    else:
        assert isinstance(base.source, FolderSource)
        folder = base.source.folder
        origin = folder.name
    check_checkpoint(folder)
    for path in sorted(folder.iterdir()):
        wanted = path.suffix in (".json", ".txt", ".model", ".safetensors") or path.name.startswith("LICENSE")
        if wanted and path.name != MANIFEST:  # a folder of a store may be a source too; each store writes its own
            _link_or_copy(path.resolve(), target / path.name)
    return {"origin": origin, **describe_checkpoint(target)}


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """Kind, number of parameters and vocabulary of a checkpoint folder."""
    from safetensors import safe_open
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    parameters = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (a safetensors file is not a dict)
                size = 1
                for width in file.get_slice(name).get_shape():
                    size *= width
                parameters += size
    return {"model_type": config.model_type, "parameters": parameters, "vocab_size": config.vocab_size}


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows it (no second copy of 16 GB), else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
