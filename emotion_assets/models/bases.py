"""Base checkpoints, resolved from where the profile says they come from. Those made here stand in ``pretraining``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.sources import open_checkpoint
from emotion_assets.models.transformer.checkpoints import check_checkpoint, read_config
from emotion_assets.models.transformer.memory import check_memory
from emotion_assets.settings.schema import (
    BaseSettings,
    HubSource,
    ModelSettings,
    PretrainedHere,
)
from emotion_assets.storage.store import MANIFEST
from emotion_assets.training.runtime import choose_runtime

WANTED = (".json", ".txt", ".model", ".safetensors")


def resolve_checkpoint(
    base: BaseSettings, name: str, target: Path, models: Mapping[str, ModelSettings]
) -> dict[str, Any]:
    """Put the checkpoint of the base's source into ``target`` and return what is known of it.

    Args:
        models: those that are to be trained on this base; the memory they need is looked at before a download.

    Raises:
        DataError: see ``open_checkpoint`` and ``check_checkpoint``; or the memory is too small.
    """
    source = base.source
    if isinstance(source, HubSource):
        trained = {model: settings for model, settings in models.items() if isinstance(settings, TransformerModel)}
        if trained:
            with open_checkpoint(source, f"bases.{name}", weights=False) as (folder, _):
                check_memory(read_config(folder), trained, choose_runtime())
    assert not isinstance(source, PretrainedHere)
    with open_checkpoint(source, f"bases.{name}") as (folder, origin):
        check_checkpoint(folder)
        for path in sorted(folder.iterdir()):
            wanted = path.suffix in WANTED or path.name.startswith("LICENSE")
            if wanted and path.name != MANIFEST:  # a store's folder may be a source too; each store writes its own
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
