"""The module that Dagster loads. Nothing happens at import: the definitions are built when Dagster asks for them."""

from __future__ import annotations

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of the profile that ``EMOTION_PROFILE`` names."""
    from emotion_assets.defs.build import build_defs

    return build_defs()
