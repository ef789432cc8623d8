"""What a profile says of how texts are scored: by which engine, in how many processes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emotion_assets.settings.frozen import Frozen


class CascadeSettings(Frozen):
    """A cheap model that answers before the champion does, where it is sure that the champion would say the same."""

    model: Annotated[str, Field(description="a model of the profile")]
    agreement: Annotated[
        float, Field(gt=0, le=1, description="with the champion, of the rows that the cheap model answers")
    ] = 0.99


class RaySettings(Frozen):
    """The Ray cluster that scores. RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH holds its token."""

    address: Annotated[
        str | None, Field(description="HOST:PORT or ray://HOST:PORT; none: one on this machine, while scoring lasts")
    ] = None
    dashboard_host: Annotated[
        str | None, Field(description="where one on this machine shows its dashboard; none: nowhere")
    ] = None


class ScoringSettings(Frozen):
    """Where texts are scored. Whatever is chosen, the scores are the same."""

    engine: Literal["local", "ray"] = "local"
    workers: Annotated[
        int | None,
        Field(ge=1, description="processes that score side by side; none: 1, or of ray one for each GPU or core"),
    ] = None
    ray: RaySettings = RaySettings()
    cascade: CascadeSettings | None = None
