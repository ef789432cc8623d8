"""When things run by themselves: the rules that assets follow, the hourly schedule and the inbox sensor.

Training never starts by itself. Analysis, tokens, predictions and evaluation follow their inputs. Scoring follows the
schedule and the sensor.
"""

from __future__ import annotations

import json
import time
from typing import Any

import dagster as dg

from emotion_assets.settings.errors import SettingsError, UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.workspace import Workspace

FEEDBACK_ASSETS = dg.AssetSelection.assets("feedback", "scored_feedback", "feedback_report")
feedback_job = dg.define_asset_job(
    "feedback_job",
    FEEDBACK_ASSETS,
    config={"loggers": {"console": {}}},  # `dagster job execute` says what goes on
    description="Ingest what is new in the inbox, score it, renew the report.",
)


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules of the profile.  Raises SettingsError for a ``feedback.cron`` that Dagster does not take."""
    cron = settings.feedback.cron
    try:
        return [_feedback_schedule(cron)]
    except dg.DagsterInvalidDefinitionError:
        raise SettingsError(
            f"feedback.cron: {cron!r} is not a cron schedule; give minute, hour, day, month and weekday, as in "
            "0 * * * * for every hour"
        ) from None


def sensors(settings: Settings) -> list[dg.SensorDefinition]:
    return [inbox_sensor, automation_sensor()]


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """What evaluates ``follow_inputs``; named here so that it runs without being switched on by hand."""
    return dg.AutomationConditionSensorDefinition(
        "follow_inputs_sensor",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Materialises analysis, tokens, predictions and evaluation after their inputs changed.",
    )


def _feedback_schedule(cron: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="feedback_schedule",
        job=feedback_job,
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Ingests and scores what is new; skips, with the reason, when nothing is.",
    )
    def feedback_schedule(
        context: dg.ScheduleEvaluationContext, workspace: dg.ResourceParam[Workspace]
    ) -> dg.RunRequest | dg.SkipReason:
        from emotion_assets.reports.pending import find_pending_work

        try:
            work = find_pending_work(workspace.settings, workspace.store, workspace.warehouse, time.time(), {})
        except UserError as error:
            return dg.SkipReason(str(error))
        return dg.RunRequest() if work.any else dg.SkipReason(work.summary)

    return feedback_schedule


@dg.sensor(
    job=feedback_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts the feedback job once for each new set of file contents in the inbox, or way to read them.",
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]
) -> dg.SensorResult | dg.SkipReason:
    """The run key is a hash of the new contents and of how they are read, so a set of files is asked for once for ever;
    if that run fails, the hourly schedule does the work. The cursor remembers hashes, so that an unchanged file is not
    read at every tick."""
    from emotion_assets.reports.pending import find_pending_work

    try:
        hashes = json.loads(context.cursor or "{}")
        work = find_pending_work(workspace.settings, workspace.store, workspace.warehouse, time.time(), hashes)
    except UserError as error:
        return dg.SkipReason(str(error))
    request = [dg.RunRequest(run_key=work.run_key)] if work.new_files or work.redatable else []
    skip = None if request else work.summary
    return dg.SensorResult(run_requests=request, skip_reason=skip, cursor=json.dumps(work.hashes))


def follow_inputs() -> dg.AutomationCondition[dg.AssetKey]:
    """Materialise once after an input got new content, or after the code changed.

    A new materialisation of an input whose data version stayed the same changes nothing, so it starts nothing. Inputs
    that a blocking check has refused are waited for: a check stops only the run it is in, not the runs after it.
    """
    changed = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.data_version_changed() | dg.AutomationCondition.newly_missing()
    )
    news = changed | dg.AutomationCondition.code_version_changed() | dg.AutomationCondition.newly_missing()
    condition: Any = (
        news.since_last_handled()  # type: ignore[misc]
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
    )
    followed: dg.AutomationCondition[dg.AssetKey] = condition.with_label("follow_inputs")
    return followed
