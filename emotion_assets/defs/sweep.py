"""The job ``sweep``: models over several seeds and learning rates, with mean and spread.

A job and not an asset of the graph, because nobody wants every trial trained by "materialise all". What it found is
reported on the asset ``sweep``. A trial is trained as the model's asset is, so that what either trained is recalled by
the other; no pointer of the store, evaluation or champion changes.

Belongs here: the run config, the order of trials, what is shown. Does not belong here: which trials there are and what
they are worth (``evaluation.trials``).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from emotion_assets.defs import metadata as display
from emotion_assets.defs.evaluation import GROUP, OWNER
from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.defs.resources import MODEL_POOL
from emotion_assets.defs.run_end import require_run_going
from emotion_assets.defs.source_links import source_link
from emotion_assets.defs.training import Inputs, feedback_inputs, request_model, stored_inputs, train_or_recall
from emotion_assets.models.hyperparameters import MAX_SEED, swept_models, swept_seeds
from emotion_assets.settings.errors import UserError, user_line
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import RAW_DATASET, SWEEP
from emotion_assets.storage.store import StoredFolder, StoreError, fingerprint
from emotion_assets.storage.workspace import Workspace

if TYPE_CHECKING:
    from emotion_assets.evaluation.trials import Trial, TrialResult, TrialSummary

STEP = "trials"  # in a code location no step is named as a job
Results = Iterator[dg.AssetMaterialization]


class SweepConfig(dg.Config):
    """The trials: every model with every learning rate and every seed. The bounds are the profile's own."""

    models: list[str] = Field(
        default=[], description="names of models of the profile; empty: those that have a learning rate"
    )
    seeds: list[int] = Field(
        default=[],
        description=f"of the trainings, each from 0 to {MAX_SEED}; a spread needs two; empty: the profile's and the "
        "next two. Bases stay as they are",
    )
    learning_rates: list[float] = Field(
        default=[], description="the highest learning rates, each above 0; empty: each model's own of the profile"
    )


def sweep_asset() -> dg.AssetSpec:
    """What sweeps have found, as an asset that cannot be materialised by itself.

    Of what its trials learn from it names the dataset alone: an edge from every base and tokenizer makes the graph too
    large for a window.
    """
    return dg.AssetSpec(
        SWEEP,
        deps=[RAW_DATASET],
        group_name=GROUP,
        owners=[OWNER],
        kinds={"python", "trials"},
        metadata=source_link(sweep),
        description=(
            "Mean and spread of each model over seeds and learning rates, reported by the job `sweep`. Start it there "
            "(Jobs, sweep, Launchpad); it changes no model, evaluation or champion."
        ),
    )


def sweep_job(settings: Settings) -> dg.JobDefinition:
    """The job; its launchpad opens with the models and seeds that it takes unless told."""
    asked = {"models": swept_models(settings), "seeds": swept_seeds(settings), "learning_rates": []}

    @dg.job(
        name=SWEEP[-1],
        config={"ops": {STEP: {"config": asked}}, "loggers": {"console": {}}},
        description="Train models over seeds and learning rates; mean and spread stand on the asset sweep.",
    )
    def job() -> None:
        sweep_op()

    return job


@user_errors_as_failures
def sweep(context: dg.OpExecutionContext, workspace: dg.ResourceParam[Workspace], config: SweepConfig) -> Results:
    from emotion_assets.evaluation.trials import plan_trials

    trials = plan_trials(workspace.settings, config.models, config.seeds, config.learning_rates)
    dataset = workspace.store.current(RAW_DATASET)
    inputs = _inputs_of(workspace, trials)
    results: list[TrialResult] = []
    failures: dict[str, Exception] = {}
    for i, trial in enumerate(trials):
        context.log.info(f"trial {i + 1}/{len(trials)}: {trial}")
        try:
            results.append(_run_trial(context, workspace, trial, inputs[trial.model], dataset))
        except Exception as error:
            require_run_going(context.instance, context.run.run_id)
            failures[str(trial)] = error
            context.log.error(f"{trial} failed: {_line(error)}")
    if results:
        yield _materialization(results)
    if failures:
        raise _failure(failures, len(trials))


sweep_op = dg.op(name=STEP, out={}, pool=MODEL_POOL)(sweep)


def _inputs_of(workspace: Workspace, trials: Sequence[Trial]) -> dict[str, Inputs]:
    """The stored inputs of each model, looked up once: all its trials learn from the same, whatever runs meanwhile."""
    inputs: dict[str, Inputs] = {}
    for trial in trials:
        if trial.model not in inputs:
            try:
                inputs[trial.model] = stored_inputs(workspace, trial.settings)
            except StoreError as error:
                raise UserError(f"{trial.model}: {error}") from None
    return inputs


def _run_trial(
    context: dg.OpExecutionContext, workspace: Workspace, trial: Trial, inputs: Inputs, dataset: StoredFolder
) -> TrialResult:
    from emotion_assets.evaluation.trials import RANKED_BY, TrialResult, score_trial

    every = inputs | feedback_inputs(workspace, trial.settings)  # it comes in by the hour, and is read as it is now
    request = request_model(workspace.settings, trial.model, trial.settings, every, trial.seed)
    request = replace(
        request, key=[*SWEEP, *request.key]
    )  # an interrupted training of the model keeps its resume state
    folder, how = train_or_recall(context, workspace, request)
    result = TrialResult(trial, folder.version, how, score_trial(trial, folder, dataset, workspace.store))
    context.log.info(f"{trial}: {how}; {RANKED_BY} {result.figures[RANKED_BY]:.3f}")
    return result


def _line(error: Exception) -> str:
    if isinstance(error, dg.Failure):
        return error.description or "no reason is known"
    return user_line(error) or f"{type(error).__name__}: {error}".splitlines()[0]


def _failure(failures: Mapping[str, Exception], trials: int) -> dg.Failure:
    """One line for all of them; a defect comes with its traceback."""
    lines = "; ".join(f"{trial}: {_line(error)}" for trial, error in failures.items())
    return dg.Failure(
        f"{len(failures)} of {trials} trials failed ({lines}); run the job again, what was trained is recalled",
        metadata={trial: found for trial, error in failures.items() if (found := _traceback(error)) is not None},
        allow_retries=False,
    )


def _traceback(error: Exception) -> dg.MetadataValue[Any] | None:
    if isinstance(error, dg.Failure):
        return error.metadata.get("traceback")  # of the training's process
    if user_line(error) is not None:
        return None
    return dg.MetadataValue.md("```\n" + "".join(traceback.format_exception(error)) + "```")


def _materialization(results: Sequence[TrialResult]) -> dg.AssetMaterialization:
    from emotion_assets.evaluation.trials import RANKED_BY, summarise

    summaries = summarise(results)
    best = {summary.model: summary.spreads[RANKED_BY].mean for summary in reversed(summaries)}  # the best comes last
    content = fingerprint([[str(result.trial), result.version, dict(result.figures)] for result in results])
    return dg.AssetMaterialization(
        SWEEP,
        tags={"dagster/data_version": content},
        metadata={
            "mean ± standard deviation": display.table([_short(summary) for summary in summaries]),
            "best": f"{summaries[0].model}{_rate(summaries[0])}",
            f"best mean {RANKED_BY}": summaries[0].spreads[RANKED_BY].mean,
            **{f"mean {RANKED_BY} of {model}": mean for model, mean in best.items()},
            "trials trained": sum(result.how.startswith("trained") for result in results),
            "trials recalled": sum(not result.how.startswith("trained") for result in results),
            "means": _means(summaries),
            "trials": _trials(results),
        },
    )


def _rate(summary: TrialSummary) -> str:
    return "" if summary.learning_rate is None else f", learning rate {summary.learning_rate:g}"


def _short(summary: TrialSummary) -> dict[str, Any]:
    """The columns that fit beside each other on the asset's page."""
    return {
        "model": summary.model,
        "learning rate": summary.learning_rate,
        "seeds": summary.seeds,
        **{name: str(spread) for name, spread in summary.spreads.items()},
    }


COLUMNS = {
    "model": "its name in the profile",
    "learning rate": "the highest one of the training; empty: the model has none",
}


def _means(summaries: Sequence[TrialSummary]) -> dg.TableMetadataValue:
    records: list[dict[str, Any]] = []
    described = COLUMNS | {"seeds": "trials that the figures are of"}
    for summary in summaries:
        record = {"model": summary.model, "learning rate": summary.learning_rate, "seeds": summary.seeds}
        for name, spread in summary.spreads.items():
            described |= {name: "mean over the seeds", f"{name} ±": "sample standard deviation; empty: one seed"}
            record |= {name: spread.mean, f"{name} ±": spread.deviation}
        records.append(record)
    return display.whole_table(records, described)


def _trials(results: Sequence[TrialResult]) -> dg.TableMetadataValue:
    figures = dict.fromkeys(results[0].figures, "from 0 to 1")
    described = COLUMNS | {"seed": "of the training"} | figures
    described |= {"version": "of the stored model", "this version was": "trained, resumed or recalled"}
    return display.whole_table(
        [
            {
                "model": result.trial.model,
                "learning rate": result.trial.learning_rate,
                "seed": result.trial.seed,
                **result.figures,
                "version": result.version,
                "this version was": result.how,
            }
            for result in results
        ],
        described,
    )
