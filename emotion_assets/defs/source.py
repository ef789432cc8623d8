"""The source of the labelled text as an asset that is observed: a sensor looks at it, and so does each reading of it.

Does not belong here: what a source's version is (``dataset.source``).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import DATASET_SOURCE
from emotion_assets.storage.workspace import Workspace

if TYPE_CHECKING:
    from emotion_assets.dataset.source import SourceState


def dataset_source(settings: Settings) -> dg.AssetsDefinition:
    """The source as Dagster knows it: observed by a sensor and by each reading of it, so that a change shows."""
    source = settings.dataset
    spec = dg.AssetSpec(
        DATASET_SOURCE,
        group_name="dataset",
        owners=["team:data"],
        kinds={"file"},
        metadata={"source": source.source, "revision": source.revision or "as it is"},
        description=(
            "Where the labelled text comes from: a folder by the sha256 of its files, a dataset of the Hub by its "
            "revision, and the reviewed rows that join it. Observed every minute; what was made of an earlier state "
            "turns stale."
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # the only way to have an asset that is observed

        observe: Callable[[Callable[..., Any]], dg.AssetsDefinition]
        observe = dg.multi_observable_source_asset(name="__".join(DATASET_SOURCE), specs=[spec])

        @observe
        @user_errors_as_failures
        def observed_source(workspace: dg.ResourceParam[Workspace]) -> dg.ObserveResult:
            from emotion_assets.dataset.source import look_at_source

            state = look_at_source(workspace.settings.dataset, workspace.warehouse, {})
            return dg.ObserveResult(
                data_version=dg.DataVersion(state.version), metadata={"where": state.where, "files": len(state.hashes)}
            )

    return observed_source


def observe_source(state: SourceState) -> dg.AssetObservation:
    return dg.AssetObservation(
        DATASET_SOURCE,
        metadata={"where": state.where, "files": len(state.hashes)},
        tags={"dagster/data_version": state.version},
    )


def source_sensor(settings: Settings) -> dg.SensorDefinition:
    """Observes the dataset's source, without a run; a Hub that has no pinned revision is asked once an hour."""
    source = settings.dataset
    on_hub = source.source != "sample" and not Path(source.source).expanduser().is_dir()

    @dg.sensor(
        name="dataset_source_sensor",
        minimum_interval_seconds=3600 if on_hub and source.revision is None else 60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Observes the source of the labelled text; when it changed, what was made of it turns stale.",
    )
    def dataset_source_sensor(
        context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]
    ) -> dg.SensorResult:
        from emotion_assets.dataset.source import look_at_source

        try:
            hashes = json.loads(context.cursor or "{}")
            state = look_at_source(workspace.settings.dataset, workspace.warehouse, hashes)
        except UserError as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
        cursor = json.dumps(state.hashes)
        last = context.instance.fetch_observations(dg.AssetKey(DATASET_SOURCE), limit=1).records
        if last and (last[0].asset_observation and last[0].asset_observation.data_version) == state.version:
            return dg.SensorResult(skip_reason=f"{state.where} is what it was", cursor=cursor)
        return dg.SensorResult(asset_events=[observe_source(state)], cursor=cursor)

    return dataset_source_sensor
