"""Imported once for each run, in the process that its steps are forked from: what nearly every step needs.

A step inherits the imports, the definitions and the list of Dagster's migrations, in place of 0.7 s of making them for
itself. It starts no thread and opens no file that a step would share.

Torch and transformers take three seconds to import, and few steps need them when nothing has changed: they are imported
here in a home that has no champion yet, where most steps compute.

Does not belong here: whatever looks at a GPU, as transformers may where torch was built for one: CUDA cannot be used in
a process forked after that.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os

from alembic.script import ScriptDirectory
from dagster._core.storage import sql
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

from emotion_assets.defs import inherited
from emotion_assets.defs.build import build_defs
from emotion_assets.defs.upstream_warnings import ignore_upstream_warnings
from emotion_assets.storage.keys import CHAMPION

LIBRARIES = (
    "dagster._core.instance.factory",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.sqlite_storage",
    "duckdb",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.metrics",
    "upath.core",
)
LIBRARIES_OF_MODELS = (
    "emotion_assets.models.bigru",
    "emotion_assets.models.transformer.scorer",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
)


class _ScriptsReadOnce(ScriptDirectory):
    """Dagster reads its 90 migration scripts four times in each step to learn the newest one, and has no other way to
    open its history. The files are those of the installed package: a process reads them once."""

    from_config = functools.cache(ScriptDirectory.from_config)


sql.ScriptDirectory = _ScriptsReadOnce  # type: ignore[attr-defined]
for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
    _ScriptsReadOnce.from_config(sql.get_alembic_config(storage.__file__)).as_revision_number("head")

for library in LIBRARIES:
    importlib.import_module(library)

ignore_upstream_warnings()
with contextlib.suppress(Exception):  # a step builds them itself then, and says what is wrong
    inherited.definitions = build_defs()
    inherited.definitions.get_repository_def().get_implicit_global_asset_job_def()
    workspace = (inherited.definitions.resources or {})["workspace"]
    if workspace.settings.bases and not workspace.store.has(CHAMPION):
        from emotion_assets.training.runtime import torch_can_use_a_gpu

        if not torch_can_use_a_gpu():
            for library in LIBRARIES_OF_MODELS:
                importlib.import_module(library)

os.register_at_fork(after_in_child=gc.freeze)  # a step's garbage collector does not look at what it inherits
