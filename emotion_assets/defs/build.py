"""Build the code location: settings in, Dagster definitions out. Assembly only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from emotion_assets.defs.automation import feedback_job, schedules, sensors
from emotion_assets.defs.checks import asset_checks
from emotion_assets.defs.console import console_logger
from emotion_assets.defs.dataset import dataset_assets
from emotion_assets.defs.evaluation import evaluation_assets
from emotion_assets.defs.executor import step_executor
from emotion_assets.defs.feedback import feedback_assets
from emotion_assets.defs.models import model_assets
from emotion_assets.defs.source import dataset_source
from emotion_assets.defs.source_links import with_source_links
from emotion_assets.defs.sweep import sweep_asset, sweep_job
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.cores import count_cores
from emotion_assets.storage.workspace import Workspace


def build_defs(overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions of the profile that the environment names, with some of its keys overridden.

    Raises:
        SettingsError: the profile or an override cannot be used.
    """
    settings = load_settings(overrides=overrides)
    _prepare_processes(settings.parallel_steps)
    return dg.Definitions(
        assets=[
            *with_source_links(
                [
                    dataset_source(settings),
                    *dataset_assets(settings),
                    *model_assets(settings),
                    *evaluation_assets(settings),
                    *feedback_assets(settings),
                ]
            ),
            sweep_asset(),
        ],
        asset_checks=asset_checks(),
        schedules=schedules(settings),
        sensors=sensors(settings),
        jobs=[feedback_job, sweep_job(settings)],
        resources={"workspace": Workspace(settings)},
        executor=step_executor(settings),
        loggers={"console": console_logger},
    )


def _prepare_processes(parallel_steps: int) -> None:
    """How the processes of steps and trainings, which are started from this one, use cores and memory.

    Numeric libraries take every core each unless told; steps side by side would then slow each other many times.
    """
    # Large pages: a step of the Llama is 6 to 8% faster; one of MiniLM, a third as long, 7 to 8% slower.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own keeps some 60 MB that it no longer uses
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // parallel_steps)))
    if parallel_steps == 1:
        # No other training wants the cores: threads that wait a moment before they sleep are faster.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
