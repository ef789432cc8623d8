"""The rules by which assets are materialised by themselves: what is outdated is asked for, once, and once more if that
failed or was interrupted.

Belongs here: when an asset is asked for. Does not belong here: which assets follow a rule (each asset says it) and who
evaluates the rules (``automation``).
"""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus

Condition = dg.AutomationCondition[dg.AssetKey]
_C = dg.AutomationCondition


class Outdated(dg.AutomationCondition[dg.AssetKey]):
    """Whether the UI would show the asset as missing or stale: it was never made, or of other data or by other code.

    Read from what its materialisation recorded, so nothing that happens between two evaluations, while a run is under
    way or while nobody looks, is lost.
    """

    @property
    def name(self) -> str:
        return "outdated"

    def evaluate(self, context: Any) -> Any:
        view = context.asset_graph_view
        resolver = CachingStaleStatusResolver(view.instance, view.asset_graph, view)
        outdated = resolver.get_status(context.key) is not StaleStatus.FRESH
        subset = context.candidate_subset if outdated else context.get_empty_subset()
        return dg.AutomationResult(context, true_subset=subset)


def follow_inputs(at_once: bool = False) -> Condition:
    """Materialise what is outdated, when no run is at it or at its inputs and no blocking check has refused an input.

    It is asked for once after each piece of news. When that run ends without it, failed or interrupted, it is asked
    for once more, and then rests until there is other news.

    Args:
        at_once: asked for together with an input that is, in one run.
    """
    of_inputs = _C.data_version_changed() | _C.newly_missing()
    if at_once:
        of_inputs |= _C.will_be_requested()
    news = _C.any_deps_match(of_inputs) | _C.code_version_changed() | _C.newly_missing() | _C.newly_updated()
    ended = (~_C.in_progress()).newly_true() | _C.execution_failed().newly_true()
    first_end = ended.since(news | _C.initial_evaluation()).newly_true()
    asked = _C.newly_requested().since(news | first_end.with_label("the first run since then ended without it"))
    asked = asked.with_label("asked for already")
    input_is_missing = _C.any_deps_match(_C.missing() & ~_C.will_be_requested() if at_once else _C.missing())
    wanted: Condition = Outdated()
    if at_once:
        wanted |= _C.any_deps_match(_C.will_be_requested())
    passed = _C.all_checks_match(_C.check_passed(), blocking_only=True)
    # Of an input that is made in the same run, that run's own check stops what is downstream.
    sound = _C.all_deps_match(passed | _C.will_be_requested() if at_once else passed)
    condition: Any = (
        wanted
        & ~asked
        & ~input_is_missing.with_label(INPUT_MISSING)
        & ~_C.any_deps_in_progress()
        & ~_C.in_progress()
        & sound.with_label("no blocking check has refused an input")
    )
    followed: Condition = condition.with_label("follow_inputs")
    return followed


INPUT_MISSING = "an input is missing"


def follow_any_predictions(group: str) -> Condition:
    """As ``follow_inputs(at_once=True)``, but a model that was never trained here does not keep the others from being
    compared: predictions of some model, of the assets in ``group``, are enough."""
    some = _C.any_deps_match(~_C.missing() | _C.will_be_requested()).allow(dg.AssetSelection.groups(group))
    followed: Condition = follow_inputs(at_once=True).replace(INPUT_MISSING, ~some)
    return followed
