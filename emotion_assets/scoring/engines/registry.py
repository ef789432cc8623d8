"""The engine that the settings name."""

from __future__ import annotations

from emotion_assets.scoring.engines.engine import Engine
from emotion_assets.settings.scoring import ScoringSettings


def make_engine(settings: ScoringSettings) -> Engine:
    """The engine of ``scoring.engine``; nothing of it is started yet."""
    from emotion_assets.scoring.engines.local import LocalEngine

    return {"local": LocalEngine}[settings.engine](settings)
