"""What this machine can run with the chosen profile, and what to do about what it cannot. Nothing is downloaded."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from emotion_assets.profiles.wheels import DEFAULT_PROFILE, missing_wheels
from emotion_assets.settings.cores import count_cores
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import FolderSource, HubSource, PackageSource, Settings
from emotion_assets.storage.locks import WRITABLE_HOME
from emotion_assets.storage.wheels import find_wheel

State = Literal["ok", "note", "missing"]
PACKAGES = ("dagster", "torch", "transformers", "peft", "datasets", "duckdb", "pandas", "pyarrow")


@dataclass(frozen=True)
class Finding:
    """``missing`` is something the profile cannot do without; ``detail`` ends with the fix."""

    subject: str
    state: State
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """One finding after another, cheapest first."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        yield Finding(package, "ok", importlib.metadata.version(package))
    yield from _machine()
    yield Finding("profile", "ok", f"{settings.profile}: {settings.description}")
    if not os.environ.get("EMOTION_PROFILE") and settings.profile != DEFAULT_PROFILE:
        missing = ", ".join(missing_wheels(DEFAULT_PROFILE))
        detail = f"stands in for {DEFAULT_PROFILE}, whose {missing} is not here; `make wheels` fetches it"
        yield Finding("profile", "note", detail)
    yield _dataset(settings)
    yield from _checkpoints(settings)
    yield from _home(settings)


def _machine() -> Iterator[Finding]:
    from emotion_assets.models.transformer.attention import choose_backend
    from emotion_assets.models.transformer.memory import machine_memory
    from emotion_assets.training.runtime import choose_runtime, describe_dtype, describe_gpu, has_apple_gpu

    memory = machine_memory() / 2**30
    yield Finding("CPU", "ok", f"{count_cores()} cores, {memory:.0f} GiB of memory")
    if gpu := describe_gpu():
        yield Finding("GPU", "ok", gpu)
    elif has_apple_gpu():
        detail = "Apple's, not in use: EMOTION_DEVICE=mps trains and scores on it, which was not measured on one yet"
        yield Finding("GPU", "note", detail)
    else:
        yield Finding("GPU", "note", "none that torch can use; the profiles embedded, pretrained and laptop do without")
    runtime = choose_runtime()
    yield Finding("number format", "ok", f"{describe_dtype(runtime.dtype)} ({runtime.why})")
    yield Finding("attention", "ok", str(choose_backend("auto", runtime)))


def _dataset(settings: Settings) -> Finding:
    from emotion_assets.dataset.splits import find_source

    try:
        return Finding("dataset", "ok", find_source(settings.dataset))
    except UserError as error:
        return Finding("dataset", "missing", str(error))


def _checkpoints(settings: Settings) -> Iterator[Finding]:
    from emotion_assets.models.gguf import check_gguf
    from emotion_assets.models.requirements import checkpoint_problems
    from emotion_assets.models.transformer.checkpoints import check_checkpoint

    for name, base in settings.bases.items():
        problems = checkpoint_problems(settings, name)
        detail = f"{base.source.hub}: available" if isinstance(base.source, HubSource) else "pre-trained here"
        if isinstance(base.source, PackageSource):
            there = find_wheel(base.source.package, base.source.sha256) is not None
            detail = f"{base.source.package}: " + ("here" if there else "downloaded when the base is materialised")
        if isinstance(base.source, FolderSource):
            detail = str(base.source.folder)
            try:
                check_gguf(base.source.folder) if base.source.folder.is_file() else check_checkpoint(base.source.folder)
            except UserError as error:
                problems.append(str(error))
        yield Finding(f"base {name}", "missing" if problems else "ok", "; ".join(problems) or detail)


def _home(settings: Settings) -> Iterator[Finding]:
    from emotion_assets.storage.warehouse.database import Warehouse, tables

    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(settings.home).free / 2**30
    except OSError as error:
        detail = f"{settings.home}: cannot be used ({error.strerror}); {WRITABLE_HOME}"
        yield Finding("EMOTION_HOME", "missing", detail)
        return
    yield Finding("EMOTION_HOME", "ok" if free > 1 else "missing", f"{settings.home}, {free:.0f} GiB free")
    warehouse = Warehouse(settings.database)
    try:
        if warehouse.is_new:
            yield Finding("database", "note", f"{warehouse.path} is not there yet; `make demo` makes it")
            return
        with warehouse.reading() as db:
            names = tables(db)
        yield Finding("database", "ok", f"{warehouse.path}, {len(names)} tables")
    except UserError as error:
        yield Finding("database", "missing", str(error))
