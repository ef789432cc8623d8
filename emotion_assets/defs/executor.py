"""How the steps of a run are executed: in processes, a few side by side; and a model that fails costs its own branch.

Dagster abandons a step when any step that it waits for has failed. The evaluation waits for the predictions of every
model and compares those that it gets: here it goes on as long as one of them succeeded. The failed step stays failed,
and so does the run.

Belongs here: which steps go on. Does not belong here: what they do without the model (``evaluation.evaluate``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import dagster as dg
from dagster._core.events import EngineEventData
from dagster._core.execution.plan import active
from dagster._core.execution.plan.plan import ExecutionPlan

from emotion_assets.defs.resources import MODEL_POOL, TRIGGER_TAG
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import EVALUATION, predictions_key
from emotion_assets.storage.locks import WORD_SECONDS

PRELOADED = ["emotion_assets.defs.preloaded"]


def step_executor(settings: Settings) -> dg.ExecutorDefinition:
    """Steps in processes forked from one that has the imports behind it, ``parallel_steps`` of them side by side."""
    of_dagster = dg.multiprocess_executor
    schema: Any = of_dagster.config_schema
    tolerated = {"__".join(EVALUATION): frozenset("__".join(predictions_key(name)) for name in settings.models)}

    @dg.executor(
        name="multiprocess",
        config_schema=schema,
        requirements=dg.multiple_process_executor_requirements(),
    )
    def tolerant_executor(context: dg.InitExecutorContext) -> dg.Executor:
        assert of_dagster.executor_creation_fn is not None
        return TolerantExecutor(of_dagster.executor_creation_fn(context), tolerated, settings)

    return tolerant_executor.configured(
        {
            "max_concurrent": settings.parallel_steps,
            "start_method": {"forkserver": {"preload_modules": PRELOADED}},
        }
    )


class TolerantExecutor(dg.Executor):
    """Executes as ``inner`` does, but for what ``TolerantPlan`` says. Before it: the tags of the run, and as many slots
    for models as the profile has steps side by side. While it waits: who has the slots."""

    def __init__(self, inner: dg.Executor, tolerated: Mapping[str, frozenset[str]], settings: Settings) -> None:
        self._inner, self._tolerated, self._settings = inner, tolerated, settings

    @property
    def retries(self) -> Any:
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: ExecutionPlan) -> Iterator[dg.DagsterEvent]:
        plan = TolerantPlan(*execution_plan)
        plan.tolerated = self._tolerated
        instance, run = plan_context.instance, plan_context.dagster_run
        instance.add_run_tags(run.run_id, run_tags(run.tags, self._settings))
        set_model_slots(instance, self._settings.parallel_steps)
        active.CONCURRENCY_CLAIM_MESSAGE_INTERVAL = int(WORD_SECONDS)
        for event in self._inner.execute(plan_context, plan):
            yield event
            if (line := describe_wait(instance, event)) is not None:
                plan_context.log.info(line)


def run_tags(tags: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Profile, dataset, and what started the run."""
    known = (
        ("dagster/parent_run_id", "retry"),
        ("dagster/schedule_name", "schedule"),
        ("dagster/sensor_name", "sensor"),
    )
    trigger = next((word for tag, word in known if tag in tags), tags.get(TRIGGER_TAG, "hand"))
    return {
        "emotion_assets/profile": settings.profile,
        "emotion_assets/dataset": settings.dataset.source,
        TRIGGER_TAG: "retry" if trigger == "retry" else tags.get(TRIGGER_TAG, trigger),
    }


def set_model_slots(instance: dg.DagsterInstance, slots: int) -> None:
    """Let so many steps of all runs together load a model."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    if not any(p.name == MODEL_POOL and p.limit == slots and not p.from_default for p in storage.get_pool_limits()):
        storage.set_concurrency_slots(MODEL_POOL, slots)


def describe_wait(instance: dg.DagsterInstance, event: dg.DagsterEvent) -> str | None:
    """Whom a step waits for, of the event that says it is blocked; None of any other event."""
    data = event.event_specific_data
    pool = data.metadata.get("pool") if isinstance(data, EngineEventData) else None
    if pool is None:
        return None
    slots = instance.event_log_storage.get_concurrency_info(str(pool.value)).claimed_slots
    holders = sorted(f"{slot.step_key} of run {slot.run_id[:8]}" for slot in slots)
    return (
        f"{event.step_key} waits for a slot of the pool {pool.value}: {', '.join(holders) or 'one is about to be free'}"
    )


class TolerantPlan(ExecutionPlan):
    """A plan in which some steps wait for others of which one suffices: ``tolerated``, by the step that waits."""

    tolerated: Mapping[str, frozenset[str]] = {}

    def get_executable_step_deps(self) -> Mapping[str, set[str]]:
        found = super().get_executable_step_deps()
        return {step: Dependencies(deps, self.tolerated.get(step, frozenset())) for step, deps in found.items()}


class Dependencies(set[str]):
    """The steps that a step waits for. Asked which of them failed, it names those that keep the step from going on:
    none, when all that failed are in ``tolerated`` and another of these did not."""

    def __init__(self, steps: Iterable[str], tolerated: Set[str]) -> None:
        super().__init__(steps)
        self.tolerated = tolerated & set(steps)

    def intersection(self, *others: Iterable[Any]) -> set[str]:
        lost = set(self).intersection(*others)
        return set() if lost < self.tolerated else lost
