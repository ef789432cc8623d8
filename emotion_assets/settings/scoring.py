"""What a profile says of how texts are scored: by which engine, in how many processes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emotion_assets.settings.frozen import Frozen


class ScoringSettings(Frozen):
    """Where texts are scored. Whatever is chosen, the scores are the same."""

    engine: Literal["local"] = "local"
    workers: Annotated[int, Field(ge=1, description="processes that score side by side, each with the model")] = 1
