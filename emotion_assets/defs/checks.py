"""Asset checks: what must hold before anything downstream runs, and what a person should be warned of.

A blocking check that fails stops the assets downstream of it in the same run; later runs wait for it through the
automation condition. One step checks one group, so that checks cost few processes. Does not belong here: how a defect
is problems_by_check (``dataset.problems``, ``dataset.balance``) or a figure computed (``evaluation.metrics``).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from emotion_assets.defs import metadata as display
from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import EVALUATION, RAW_DATASET, predictions_key
from emotion_assets.storage.workspace import Workspace

SHOWN = 20
BLOCKING = {"schema", "labels", "no_empty_text", "distributions", "same_rows"}


def asset_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    return [dataset_checks, _predictions_checks(settings), evaluation_checks]


def _check_spec(key: Sequence[str], name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=dg.AssetKey(key), description=description, blocking=name in BLOCKING)


def _result(key: Sequence[str], name: str, problems: Sequence[Mapping[str, Any]]) -> dg.AssetCheckResult:
    """Passed when there are no problems; the first ones are shown."""
    shown = {"problems": display.table(problems[:SHOWN])} if problems else {}
    return dg.AssetCheckResult(
        passed=not problems,
        check_name=name,
        asset_key=dg.AssetKey(key),
        severity=dg.AssetCheckSeverity.ERROR if name in BLOCKING else dg.AssetCheckSeverity.WARN,
        metadata={"found": len(problems), **shown},
    )


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
)
@user_errors_as_failures
def dataset_checks(workspace: dg.ResourceParam[Workspace]) -> Iterator[dg.AssetCheckResult]:
    from emotion_assets.dataset.problems import dataset_problems

    problems_by_check = dataset_problems(workspace.store.current(RAW_DATASET), workspace.settings.labels)
    for name, problems in problems_by_check.items():
        yield _result(RAW_DATASET, name, problems)


def _predictions_checks(settings: Settings) -> dg.AssetChecksDefinition:
    what = "One probability distribution over the dataset's labels for every row of validation and test."

    @dg.multi_asset_check(
        name="predictions_checks",
        specs=[_check_spec(predictions_key(name), "distributions", what) for name in settings.models],
        can_subset=True,
    )
    @user_errors_as_failures
    def predictions_checks(
        context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]
    ) -> Iterator[dg.AssetCheckResult]:
        from emotion_assets.evaluation.problems import prediction_problems

        dataset = workspace.store.current(RAW_DATASET)
        for check in sorted(context.selected_asset_check_keys):
            key = check.asset_key.path
            yield _result(key, check.name, prediction_problems(workspace.store.current(key), dataset))

    return predictions_checks


@dg.multi_asset_check(
    name="evaluation_checks",
    specs=[
        _check_spec(EVALUATION, "same_rows", "The models compared were measured on the current validation and test."),
        _check_spec(EVALUATION, "every_model", "Every model of the profile is evaluated."),
        _check_spec(EVALUATION, "better_than_a_guess", "Every model beats naming the most frequent label."),
        _check_spec(EVALUATION, "no_class_collapses", "No model has a label that it hardly ever recognises."),
    ],
)
@user_errors_as_failures
def evaluation_checks(workspace: dg.ResourceParam[Workspace]) -> Iterator[dg.AssetCheckResult]:
    from emotion_assets.evaluation.problems import evaluation_problems

    problems_by_check = evaluation_problems(workspace.settings, workspace.store, workspace.warehouse)
    for name, problems in problems_by_check.items():
        yield _result(EVALUATION, name, problems)
