"""Asset checks: what must hold before anything downstream runs, and what a person should be warned of.

A blocking check that fails stops the assets downstream of it in the same run; later runs wait for it through the
automation condition. One step checks one group, so that checks cost few processes. Does not belong here: how a defect
is problems_by_check (``dataset.problems``, ``dataset.balance``) or a figure computed (``evaluation.metrics``).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from emotion_assets.defs import metadata as display
from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.storage.keys import EVALUATION, FEEDBACK, RAW_DATASET, SCORED_FEEDBACK
from emotion_assets.storage.workspace import Workspace

BLOCKING = {"schema", "labels", "no_empty_text", "same_rows"}


def asset_checks() -> list[dg.AssetChecksDefinition]:
    return [dataset_checks, evaluation_checks, feedback_checks]


def _check_spec(key: Sequence[str], name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=dg.AssetKey(key), description=description, blocking=name in BLOCKING)


def _results(
    context: dg.AssetCheckExecutionContext, key: Sequence[str], problems_by_check: Mapping[str, Sequence[Any]]
) -> Iterator[dg.AssetCheckResult]:
    """Of the checks that were asked for."""
    asked = {check.name for check in context.selected_asset_check_keys}
    for name, problems in problems_by_check.items():
        if name in asked:
            severity = dg.AssetCheckSeverity.ERROR if name in BLOCKING else dg.AssetCheckSeverity.WARN
            yield display.check_result(key, name, problems, severity)


@dg.multi_asset_check(
    name="dataset_checks",
    specs=[
        _check_spec(RAW_DATASET, "schema", "Each split has rows and just the columns text and label, both strings."),
        _check_spec(RAW_DATASET, "labels", "Train has exactly the labels of the profile; no split has others."),
        _check_spec(RAW_DATASET, "no_empty_text", "Every row has a text."),
        _check_spec(RAW_DATASET, "no_overlap", "No two splits share a text, case and punctuation ignored."),
        _check_spec(RAW_DATASET, "no_conflicting_labels", "Copies of a text in a split carry the same label."),
        _check_spec(
            RAW_DATASET, "no_drift_of_shares", "Label shares of validation and test are those of train, but for chance."
        ),
    ],
    can_subset=True,
)
@user_errors_as_failures
def dataset_checks(
    context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]
) -> Iterator[dg.AssetCheckResult]:
    from emotion_assets.dataset.problems import dataset_problems

    problems_by_check = dataset_problems(workspace.store.current(RAW_DATASET), workspace.settings.labels)
    yield from _results(context, RAW_DATASET, problems_by_check)


@dg.multi_asset_check(
    name="evaluation_checks",
    specs=[
        _check_spec(EVALUATION, "same_rows", "The models compared were measured on the current validation and test."),
        _check_spec(EVALUATION, "every_model", "Every model of the profile is evaluated."),
        _check_spec(EVALUATION, "better_than_a_guess", "Every model beats naming the most frequent label."),
        _check_spec(EVALUATION, "no_class_collapses", "No model has a label that it hardly ever recognises."),
    ],
    can_subset=True,
)
@user_errors_as_failures
def evaluation_checks(
    context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]
) -> Iterator[dg.AssetCheckResult]:
    from emotion_assets.evaluation.problems import evaluation_problems

    problems_by_check = evaluation_problems(workspace.settings, workspace.store, workspace.warehouse)
    yield from _results(context, EVALUATION, problems_by_check)


@dg.multi_asset_check(
    name="feedback_checks",
    specs=[
        _check_spec(FEEDBACK, "few_rejects", "Of no source more than one row in twenty was rejected lately."),
        _check_spec(
            SCORED_FEEDBACK,
            "no_backlog",
            "No file lies in the inbox unread, and no accepted row without a score, for more than two hours.",
        ),
        _check_spec(
            SCORED_FEEDBACK, "few_abstentions", "Lately not ten points more of the rows abstain than of validation."
        ),
        _check_spec(
            SCORED_FEEDBACK, "no_drift", "What customers write lately is no strong drift from what the model knows."
        ),
    ],
    can_subset=True,
)
@user_errors_as_failures(private=True)
def feedback_checks(
    context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]
) -> Iterator[dg.AssetCheckResult]:
    from emotion_assets.reports.problems import feedback_problems

    asked = {check.name: check.asset_key.path for check in context.selected_asset_check_keys}
    problems_by_check = feedback_problems(workspace.settings, workspace.store, workspace.warehouse, time.time(), asked)
    for name, problems in problems_by_check.items():
        yield display.check_result(asked[name], name, problems, dg.AssetCheckSeverity.WARN)
