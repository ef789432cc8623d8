"""The fault harness: run the feedback work in a process of its own, hurt it, run it again, compare the tables.

Not a test. ``test_faults`` tries each fault once; ``benchmarks.feedback_faults`` is the long form.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotion_assets.cli.forget import forget as forget_person
from emotion_assets.cli.forget import make_person
from emotion_assets.cli.rebuild import rebuild
from emotion_assets.scoring import score
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.failpoints import VARIABLE
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world

KILLED, REFUSED = -signal.SIGKILL, 2
FAILPOINTS = (
    "ingest.mid_file",
    "ingest.after_reading",
    "ingest.stored:2",
    "warehouse.before_commit",
    "warehouse.pending_written:2",
    "warehouse.after_commit:2",
    "warehouse.after_checkpoint:3",
    "scoring.spooled",
    "scoring.mid_batch:2",
    "scoring.stored:2",
    "warehouse.after_commit:7",
    "warehouse.after_commit:13",
    "export.mid_set:3",
    "export.before_rename",
    "export.before_link",
)
READ_AGAIN = (
    "warehouse.before_commit",
    "warehouse.after_commit",
    "ingest.mid_file",
    "ingest.after_reading:2",
    "ingest.stored",
    "ingest.stored:3",
    "warehouse.after_commit:4",
    "scoring.stored",
    "export.before_link",
)
"""Where a run is killed that reads again what was refused, after the settings of its source changed."""
FORGET = (
    "warehouse.before_commit",
    "warehouse.after_commit",
    "forget.after_removal",
    "warehouse.before_rewritten",
    "export.mid_set:2",
    "export.before_link",
    "export.before_link:2",
)
"""Where a run of forget is killed."""
SETTINGS: dict[str, Any] = {"batch_size": 64}

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["emotion_assets.models.registry", "emotion_assets.evaluation.predictions", __name__])


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, 0, ``REFUSED`` or ``KILLED``, and the error it showed."""

    code: int
    error: str
    seconds: float


def workspace_at(home: Path, sources: Mapping[str, Any] | None = None) -> Workspace:
    return Workspace(world.settings(home, **SETTINGS, sources=sources or {}))


def run(
    home: Path,
    failpoint: str = "",
    file_limit: int = 0,
    clock: float = 0.0,
    repair: bool = False,
    sources: Mapping[str, Any] | None = None,
    forget: str = "",
) -> Ended:
    """One run in its own process. ``file_limit``: bytes that no file may exceed, as a full disk would. ``clock``:
    seconds added to the time. ``repair``: rebuild the database first. ``sources``: ``feedback.sources``. ``forget``:
    the id of a row of the source shop to forget, in place of a run."""
    return wait_for(start(home, failpoint, file_limit, clock, repair, sources, forget))


def start(
    home: Path,
    failpoint: str = "",
    file_limit: int = 0,
    clock: float = 0.0,
    repair: bool = False,
    sources: Mapping[str, Any] | None = None,
    forget: str = "",
) -> tuple[Any, Path, float]:
    error = home.parent / f"{home.name}.error-{time.monotonic_ns()}"
    arguments = (home, error, failpoint, file_limit, clock, repair, sources, forget)
    process = _processes.Process(target=_child, args=arguments)
    process.start()
    return process, error, time.monotonic()


def wait_for(started: tuple[Any, Path, float]) -> Ended:
    process, error, since = started
    process.join(120)
    text = error.read_text() if error.exists() else ""
    error.unlink(missing_ok=True)
    return Ended(process.exitcode, text, time.monotonic() - since)


def kill_after(started: tuple[Any, Path, float], seconds: float) -> Ended:
    process = started[0]
    process.join(seconds)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    return wait_for(started)


def _child(
    home: Path,
    error: Path,
    failpoint: str,
    file_limit: int,
    clock: float,
    repair: bool,
    sources: Mapping[str, Any] | None,
    forget: str,
) -> None:
    os.environ[VARIABLE] = failpoint
    score.STORE_BYTES = 1  # each batch in a transaction of its own, so that runs are killed between them
    try:
        workspace = workspace_at(home, sources)
        error.touch()
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
        if repair:
            list(rebuild(workspace))
        if forget:
            list(forget_person(workspace, make_person("shop", forget, None)))
            return
        world.run_feedback(workspace, f"run-{os.getpid()}", now=lambda: time.time() + clock)
    except UserError as problem:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        error.write_text(str(problem))
        os._exit(REFUSED)
    except BaseException:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        error.write_text(traceback.format_exc())
        os._exit(1)


def copy_home(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target


def problems(home: Path, expected: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What differs from the undisturbed run, and what was left lying about; nothing if all is well."""
    found = [
        f"table {name} differs" for name, rows in world.state(workspace_at(home)).items() if rows != expected.get(name)
    ]
    exports = home / "reports" / "exports"
    found += [f"left behind: {path.name}" for path in [*home.iterdir(), *exports.iterdir()] if not _belongs(path)]
    if not (exports / "current" / "manifest.json").is_file():
        found.append("no current export")
    return found


def _belongs(path: Path) -> bool:
    return path.name.startswith(("emotion.duckdb", "set-")) or path.name in {
        "inbox", "reports", "store", "exports", "current", ".lock",
    }  # fmt: skip


def inbox_print(home: Path) -> str:
    """A hash over names, times and bytes of the inbox."""
    files = sorted(path for path in (home / "inbox").rglob("*") if path.is_file())
    return hashlib.sha256(repr([(str(f), f.stat().st_mtime_ns, f.read_bytes()) for f in files]).encode()).hexdigest()


def damage(home: Path, rng: random.Random, cuts: Sequence[float], flips: int) -> Iterator[tuple[str, Path]]:
    """Homes with a finished run whose database was hurt, each another way, beside ``home``. ``cuts``: shares kept."""
    content = (home / "emotion.duckdb").read_bytes()
    for i, (what, hurt) in enumerate(
        [
            ("deleted", None),
            *((f"truncated to {share:.3%}", content[: int(len(content) * share)]) for share in cuts),
            ("overwritten with text", b"hello, this is no database\n" * 400),
            *(_flipped(content, rng) for _ in range(flips)),
        ]
    ):
        copy = copy_home(home, home.parent / f"{home.name}-hurt-{i}")
        if hurt is None:
            (copy / "emotion.duckdb").unlink()
        else:
            (copy / "emotion.duckdb").write_bytes(hurt)
        yield what, copy


def _flipped(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return f"bit {bit} of byte {place} flipped", bytes(changed)
