"""The module that Dagster loads. Nothing happens at import: the definitions are built when Dagster asks for them."""

from __future__ import annotations

import gc
import sys

import dagster as dg

from emotion_assets.defs import inherited


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of the profile that ``EMOTION_PROFILE`` names."""
    if inherited.definitions is not None:
        return inherited.definitions
    gc.freeze()  # else the garbage collector walks through all of Dagster meanwhile, a fifth of the time this takes
    try:
        return _build()
    finally:
        gc.unfreeze()


def _build() -> dg.Definitions:
    from emotion_assets.defs.build import build_defs
    from emotion_assets.defs.selection import materialises, refuse_empty_selection
    from emotion_assets.defs.upstream_warnings import ignore_upstream_warnings
    from emotion_assets.settings.errors import UserError

    ignore_upstream_warnings()
    try:
        definitions = build_defs()
        refuse_empty_selection(definitions, sys.argv)
    except UserError as error:
        if materialises(sys.argv):
            raise SystemExit(str(error)) from None  # Dagster would print a traceback of its own in front of it
        raise
    return definitions
