"""Dagster's warnings of Dagster itself: parts of its own that it uses and calls not final. Nobody here can mend it."""

from __future__ import annotations

import warnings

import dagster as dg

USED_BY_DAGSTER_ITSELF = {
    dg.BetaWarning: "Parameter `include_sources` of function `AssetSelection.",  # its parser of selections such as '*'
    dg.PreviewWarning: "Function `PipesMessageReader.expected_writer_count`",  # each session of Pipes
}


def ignore_upstream_warnings() -> None:
    """Ignore just these, in this process; every other warning is shown."""
    for category, message in USED_BY_DAGSTER_ITSELF.items():
        warnings.filterwarnings("ignore", message=message, category=category)
