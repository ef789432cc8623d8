"""The engine that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from emotion_assets.scoring.engines.engine import Engine
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.settings.scoring import ScoringSettings

ENGINES: tuple[str, ...] = get_args(ScoringSettings.model_fields["engine"].annotation)


def make_engine(settings: ScoringSettings) -> Engine:
    """The engine of ``scoring.engine``; nothing of it is started yet."""
    from emotion_assets.scoring.engines.local import LocalEngine
    from emotion_assets.scoring.engines.ray import RayEngine

    engines: dict[str, Callable[[ScoringSettings], Engine]] = {"local": LocalEngine, "ray": RayEngine}
    return engines[settings.engine](settings)


def choose_engine(settings: Settings, engine: str) -> Settings:
    """The settings with the engine that a run's configuration names, as they are where it names none.

    Raises:
        UserError: there is no such engine.
    """
    if not engine:
        return settings
    if engine not in ENGINES:
        raise UserError(f"engine: {engine!r} is no engine; use {' or '.join(ENGINES)}")
    scoring = settings.scoring.model_copy(update={"engine": engine})
    return settings.model_copy(update={"scoring": scoring})
