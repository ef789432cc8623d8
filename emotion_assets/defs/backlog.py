"""Look at the backlog of feedback without a run: a check that runs after scoring never sees that nothing runs.

Belongs here: when the outcome of the check ``no_backlog`` is reported. Does not belong here: what a backlog is
(``reports.pending``), and the check as a run executes it (``checks``).
"""

from __future__ import annotations

import json
import time

import dagster as dg

from emotion_assets.defs import metadata as display
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.keys import SCORED_FEEDBACK
from emotion_assets.storage.workspace import Workspace


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports the check no_backlog of scored_feedback when a backlog appears, changes or is gone.",
)
def backlog_sensor(
    context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]
) -> dg.SensorResult | dg.SkipReason:
    """The cursor remembers the hashes of files, as ``inbox_sensor`` does, and what was reported last."""
    from emotion_assets.reports.pending import find_backlog

    try:
        last = json.loads(context.cursor or "{}")
        problems, hashes = find_backlog(
            workspace.settings, workspace.store, workspace.warehouse, time.time(), last.get("hashes", {})
        )
    except UserError as error:
        return dg.SkipReason(str(error))
    found = {problem["waiting"]: problem["n"] for problem in problems}
    cursor = json.dumps({"hashes": hashes, "reported": found})
    if found == last.get("reported", {}):
        return dg.SensorResult(skip_reason="the backlog is what it was" if found else "no backlog", cursor=cursor)
    result = display.check_result(SCORED_FEEDBACK, "no_backlog", problems, dg.AssetCheckSeverity.WARN)
    event = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(SCORED_FEEDBACK),
        check_name="no_backlog",
        passed=result.passed,
        severity=result.severity,
        metadata=result.metadata,
    )
    return dg.SensorResult(asset_events=[event], cursor=cursor)
