"""What failed and why, in one place: a line in the log for each run that failed, and to a webhook where one is set."""

from __future__ import annotations

import json
from collections.abc import Sequence

import dagster as dg

from emotion_assets.settings.schema import Settings

WEBHOOK_SECONDS = 10.0


def failure_sensor(settings: Settings) -> dg.SensorDefinition:
    """Says of each failed run of this code location which steps failed, each with the first line of its error."""

    @dg.run_failure_sensor(
        name="failure_sensor",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "One line in the log for each run that failed: which steps, and why. The profile's failure_webhook, or "
            "EMOTION_WEBHOOK, gets it too."
        ),
    )
    def tell_of_failure(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        line = f"run {run.run_id[:8]} of {run.job_name} failed: {describe_failure(context.get_step_failure_events())}"
        context.log.error(line)
        if settings.failure_webhook is not None and (problem := post(settings.failure_webhook, line, run.run_id)):
            context.log.warning(problem)

    return tell_of_failure


def describe_failure(events: Sequence[dg.DagsterEvent]) -> str:
    """Each failed step with why, or what it means that none did."""
    if not events:
        return "no step failed; its worker was ended, or it ran longer than it may"
    return "; ".join(f"{str(event.step_key).replace('__', '/')}: {_reason(event)}" for event in events)


def _reason(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        said = data.user_failure_data.description
    else:
        said = data.error.message.strip() if data.error else "no reason is known"
    return said.splitlines()[0] if said else "no reason is known"


def post(webhook: str, line: str, run_id: str) -> str | None:
    """Send the line as JSON, ``text`` and ``run_id``, as chat services take it; what was wrong if that did not work.
    The address may hold a secret and is not repeated."""
    import urllib.request

    body = json.dumps({"text": line, "run_id": run_id}).encode()
    request = urllib.request.Request(webhook, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return f"the failure_webhook did not take the line ({type(error).__name__}); check its address"
