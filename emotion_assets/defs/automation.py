"""When things run by themselves: the rules that assets follow, the hourly schedule and the inbox sensor.

Training never starts by itself. Analysis, tokens, predictions and evaluation follow their inputs (``conditions``).
Scoring follows the schedule, the sensor, and a new champion.
"""

from __future__ import annotations

import json
import time
import warnings

import dagster as dg

from emotion_assets.defs.alerts import failure_sensor
from emotion_assets.defs.backlog import backlog_sensor
from emotion_assets.defs.resources import TRIGGER_TAG
from emotion_assets.defs.source import source_sensor
from emotion_assets.settings.errors import SettingsError, UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.workspace import Workspace

FEEDBACK_ASSETS = dg.AssetSelection.assets("feedback", "scored_feedback", "feedback_report")
LONGEST_FEEDBACK_RUN = 6 * 3600  # seconds; a longer run hangs, and is ended where run monitoring is on
feedback_job = dg.define_asset_job(
    "feedback_job",
    FEEDBACK_ASSETS,
    config={"loggers": {"console": {}}},  # `dagster job execute` says what goes on
    description="Ingest what is new in the inbox, score it, renew the report.",
    tags={"dagster/max_runtime": str(LONGEST_FEEDBACK_RUN)},
)


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules of the profile.  Raises SettingsError for a ``feedback.cron`` that Dagster does not take."""
    cron = settings.feedback.cron
    try:
        return [_feedback_schedule(cron, settings.feedback.cron_timezone)]
    except dg.DagsterInvalidDefinitionError:
        raise SettingsError(
            f"feedback.cron: {cron!r} is not a cron schedule; give minute, hour, day, month and weekday, as in "
            "0 * * * * for every hour"
        ) from None


def sensors(settings: Settings) -> list[dg.SensorDefinition]:
    return [inbox_sensor, backlog_sensor, source_sensor(settings), automation_sensor(), failure_sensor(settings)]


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """What evaluates ``follow_inputs``; named here so that it runs without being switched on by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # use_user_code_server: where the rules defined here are known
        return dg.AutomationConditionSensorDefinition(
            "follow_inputs_sensor",
            target=dg.AssetSelection.all(),
            use_user_code_server=True,
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=30,
            run_tags={TRIGGER_TAG: "automation"},
            description="Materialises analysis, tokens, predictions and evaluation after their inputs changed.",
        )


def _feedback_schedule(cron: str, timezone: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="feedback_schedule",
        job=feedback_job,
        cron_schedule=cron,
        execution_timezone=timezone,
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
        return dg.RunRequest(tags={TRIGGER_TAG: "schedule"}) if work.any else dg.SkipReason(work.summary)

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
    found = bool(work.new_files or work.redatable)
    request = [dg.RunRequest(run_key=work.run_key, tags={TRIGGER_TAG: "inbox"})] if found else []
    skip = None if request else work.summary
    return dg.SensorResult(run_requests=request, skip_reason=skip, cursor=json.dumps(work.hashes))
