"""The kinds of models there are: every module of ``kinds/`` that defines one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from typing import Any

from emotion_assets.models import kinds
from emotion_assets.models.kind import Kind, Scorer
from emotion_assets.settings.schema import ModelSettings
from emotion_assets.storage.store import Store, StoredFolder


@cache
def all_kinds() -> dict[str, Kind[Any]]:
    """Every kind by its name."""
    modules = [
        importlib.import_module(f"{kinds.__name__}.{info.name}") for info in pkgutil.iter_modules(kinds.__path__)
    ]
    classes = [
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Kind) and value.__module__ == module.__name__
    ]
    return {kind.name: kind() for kind in classes}


def kind_of(model: ModelSettings) -> Kind[Any]:
    """The kind that a model of a profile is of."""
    return next(kind for kind in all_kinds().values() if isinstance(model, kind.settings))


def folders_of(model: StoredFolder, store: Store) -> list[StoredFolder]:
    """The stored folders that a model is loaded from: its own, and its base's where that holds weights of it."""
    config = model.read_json("model.json")
    base = None if config.get("method") == "full" else config.get("base_digest")
    return [model] if base is None else [model, store.open("base_models", base, verify=False)]


def number_formats_of(model: StoredFolder) -> tuple[str, ...]:
    """The number formats, besides fp32, in which this machine may compute a stored model faster."""
    return _kind_of(model).number_formats(model)


def load_scorer(model: StoredFolder, store: Store, number_format: str = "") -> Scorer:
    """The scorer of a stored model, whatever its kind; ``number_format`` as in ``Kind.load``.

    Raises:
        StoreError: the base checkpoint that a LoRA model needs is not in the store any more, or was altered.
    """
    return _kind_of(model).load(model, store, number_format)


def _kind_of(model: StoredFolder) -> Kind[Any]:
    return all_kinds()[model.read_json("model.json")["kind"]]
