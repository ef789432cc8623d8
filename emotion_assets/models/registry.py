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


def load_scorer(model: StoredFolder, store: Store) -> Scorer:
    """The scorer of a stored model, whatever its kind.

    Raises:
        StoreError: the base checkpoint that a LoRA model needs is not in the store any more, or was altered.
    """
    return all_kinds()[model.read_json("model.json")["kind"]].load(model, store)
