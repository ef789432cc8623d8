"""Say on each asset which lines of this project make it: the UI opens them in an editor."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import dagster as dg


def with_source_links(
    assets: Iterable[dg.AssetsDefinition | dg.SourceAsset],
) -> list[dg.AssetsDefinition | dg.SourceAsset]:
    """The same assets, each with the place of its body. ``dagster.with_source_code_references`` would point at the
    wrapper that turns a user's mistake into one line (``defs.failures``)."""
    return [
        _with_link(asset) if isinstance(asset, dg.AssetsDefinition) and asset.is_executable else asset
        for asset in assets
    ]


def _with_link(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    links = source_link(asset.op.compute_fn.decorated_fn)  # type: ignore[union-attr]
    return asset.map_asset_specs(lambda spec: spec.merge_attributes(metadata=links))


def source_link(body: Callable[..., Any]) -> dict[str, Any]:
    """The place of a body, under its wrappers, as metadata of what it makes."""
    body = inspect.unwrap(body)
    with warnings.catch_warnings():  # links to the source are a beta of dagster; when they change, this file does
        warnings.simplefilter("ignore", dg.BetaWarning)
        place = dg.LocalFileCodeReference(file_path=body.__code__.co_filename, line_number=body.__code__.co_firstlineno)
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[place])}
