"""When things run by themselves: the rules that assets follow, the hourly schedule and the inbox sensor.

Training never starts by itself. Analysis, tokens, predictions and evaluation follow their inputs. Scoring follows the
schedule and the sensor.
"""

from __future__ import annotations

import dagster as dg


def follow_inputs() -> dg.AutomationCondition:
    """Materialise once after an input got new content, or after the code changed.

    A new materialisation of an input whose data version stayed the same changes nothing, so it starts nothing. Inputs
    that a blocking check has refused are waited for: a check stops only the run it is in, not the runs after it.
    """
    changed = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.data_version_changed() | dg.AutomationCondition.newly_missing()
    )
    return (
        (
            changed | dg.AutomationCondition.code_version_changed() | dg.AutomationCondition.newly_missing()
        ).since_last_handled()
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
    ).with_label("follow_inputs")
