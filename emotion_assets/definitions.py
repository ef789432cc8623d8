"""The module that Dagster loads. Nothing happens at import: the definitions are built when Dagster asks for them."""

from __future__ import annotations

import sys

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of the profile that ``EMOTION_PROFILE`` names."""
    from emotion_assets.defs import build
    from emotion_assets.defs.selection import refuse_empty_selection
    from emotion_assets.defs.upstream_warnings import ignore_upstream_warnings

    ignore_upstream_warnings()
    if build.inherited is not None:
        return build.inherited
    definitions = build.build_defs()
    refuse_empty_selection(definitions, sys.argv)
    return definitions
