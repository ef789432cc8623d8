"""Every fault, and a hundred random kills: does a rerun always give the tables of an undisturbed run?

    python -m benchmarks.feedback_faults [--kills 100]

Prints a table of the faults tried and survived; exits with 1 if one was not. The short form is part of the test suite.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from emotion_assets_tests.worlds import faults
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.faults import KILLED, REFUSED, Ended

FORGOTTEN = "c-3"


class Tally:
    """Faults tried and survived, by kind; a fault is survived if the rerun succeeds and nothing differs."""

    def __init__(self, expected: dict[str, list[dict[str, object]]]) -> None:
        self.expected = expected
        self.tried: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()
        self.noticed: Counter[str] = Counter()
        self.failures: list[str] = []

    def judge(self, kind: str, what: str, home: Path, last: Ended) -> None:
        found = [last.error] if last.code else faults.problems(home, self.expected)
        self.tried[kind] += 1
        self.survived[kind] += not found
        self.failures += [f"{kind}, {what}: {problem}" for problem in found]
        print(f"\r{sum(self.tried.values())} faults tried, {len(self.failures)} failures", end="", flush=True)

    def add(self, other: Tally) -> None:
        self.tried += other.tried
        self.survived += other.survived
        self.noticed += other.noticed
        self.failures += other.failures

    def show(self) -> None:
        print(f"\n\n{'fault':<44}{'tried':>7}{'survived':>10}  remarks")
        for kind, n in self.tried.items():
            remark = f"{self.noticed[kind]} refused with one clear line first" if self.noticed[kind] else ""
            print(f"{kind:<44}{n:>7}{self.survived[kind]:>10}  {remark}")
        for failure in self.failures:
            print(f"FAILED {failure}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    root = Path(tempfile.mkdtemp(prefix="feedback_faults_"))
    try:
        world.make_workspace(root / "prepared")
        world.drop_inbox(faults.workspace_at(root / "prepared"))
        finished = faults.copy_home(root / "prepared", root / "finished")
        undisturbed = faults.run(finished)
        assert undisturbed.code == 0, undisturbed.error
        tally = Tally(world.state(faults.workspace_at(finished)))

        def fresh(source: str = "prepared") -> Path:
            shutil.rmtree(root / "home", ignore_errors=True)
            return faults.copy_home(root / source, root / "home")

        for failpoint in faults.FAILPOINTS:
            home = fresh()
            assert faults.run(home, failpoint).code == KILLED, f"{failpoint} was not reached"
            tally.judge("killed at a failpoint", failpoint, home, faults.run(home))
        for _ in range(arguments.kills):
            home, moment = fresh(), rng.uniform(0.02, undisturbed.seconds)
            faults.kill_after(faults.start(home), moment)
            tally.judge("killed at a random moment", f"after {moment:.3f} s", home, faults.run(home))
        for n in (2, 2, 3, 4):
            home = fresh()
            ended = [faults.wait_for(started) for started in [faults.start(home) for _ in range(n)]]
            tally.judge("several runs at once", f"{n} runs", home, max(ended, key=lambda e: abs(e.code)))
        for limit in (1_000, 10_000, 100_000, 300_000, 600_000, 1_000_000, 2_000_000, 3_000_000):
            home = fresh()
            full = faults.run(home, file_limit=limit)
            assert full.code in (0, REFUSED), full.error
            tally.noticed["file size limit"] += full.code == REFUSED
            tally.judge("file size limit", f"{limit} bytes", home, faults.run(home))
        _full_disk(tally, root)
        home = fresh()
        before = faults.inbox_print(home)
        for path in [*(home / "inbox").rglob("*"), home / "inbox"]:
            path.chmod(0o555)
        tally.judge("read-only inbox", "", home, faults.run(home))
        assert faults.inbox_print(home) == before, "the inbox was changed"
        for path in (home / "inbox", home / "inbox" / "shop"):
            path.chmod(0o755)
        _read_again(tally, root, fresh, rng, arguments.kills)
        _forget(tally, root, fresh, rng, arguments.kills)
        for what, hurt in faults.damage(fresh("finished"), rng, cuts=[0, 0.0001, 0.5, 0.999999], flips=24):
            first = faults.run(hurt)
            if first.code == REFUSED and "doctor --rebuild" in first.error:
                tally.noticed["database hurt"] += 1
                first = faults.run(hurt, repair=True)
            tally.judge("database hurt", what, hurt, first)
            shutil.rmtree(hurt)
        for failpoint in ("rebuild.before_replace", "rebuild.before_manifest", "warehouse.after_commit"):
            home = fresh("finished")
            (home / "emotion.duckdb").write_bytes(b"")
            assert faults.run(home, failpoint, repair=True).code == KILLED
            tally.judge("killed in a rebuild", failpoint, home, faults.run(home, repair=True))
        for clock in (-86_400 * 30, -3600.0, 86_400 * 365):
            home = fresh()
            faults.run(home, "scoring.stored:2", clock=0)
            tally.judge("clock jumps between a kill and the rerun", f"{clock} s", home, faults.run(home, clock=clock))
        tally.show()
        sys.exit(bool(tally.failures))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _read_again(tally: Tally, root: Path, fresh: Callable[[str], Path], rng: random.Random, kills: int) -> None:
    """Kill runs that read again what was refused, after the settings of its source changed."""
    undisturbed = faults.copy_home(root / "finished", root / "read_again")
    ended = faults.run(undisturbed, sources=world.SHOP_READ)
    assert ended.code == 0, ended.error
    again = Tally(world.state(faults.workspace_at(undisturbed)))
    kind = "killed while reading again"
    for failpoint in faults.READ_AGAIN:
        home = fresh("finished")
        assert faults.run(home, failpoint, sources=world.SHOP_READ).code == KILLED, f"{failpoint} was not reached"
        again.judge(kind, failpoint, home, faults.run(home, sources=world.SHOP_READ))
    for _ in range(kills // 5):
        home, moment = fresh("finished"), rng.uniform(0.02, ended.seconds)
        faults.kill_after(faults.start(home, sources=world.SHOP_READ), moment)
        again.judge(kind, f"after {moment:.3f} s", home, faults.run(home, sources=world.SHOP_READ))
    tally.add(again)


def _forget(tally: Tally, root: Path, fresh: Callable[[str], Path], rng: random.Random, kills: int) -> None:
    """Kill runs of the command forget. The next finishes it, a run that was already done refuses, and no later run
    brings the row back."""
    undisturbed = faults.copy_home(root / "finished", root / "forgotten")
    ended = faults.run(undisturbed, forget=FORGOTTEN)
    assert (ended.code, faults.run(undisturbed).code) == (0, 0), ended.error
    gone = Tally(world.state(faults.workspace_at(undisturbed)))

    def again(what: str, home: Path) -> None:
        finished = faults.run(home, forget=FORGOTTEN)
        done = finished.code == REFUSED and "no such row" in finished.error
        gone.noticed[kind] += done
        gone.judge(kind, what, home, faults.run(home) if finished.code == 0 or done else finished)

    kind = "killed while forgetting a person"
    for failpoint in faults.FORGET:
        home = fresh("finished")
        assert faults.run(home, failpoint, forget=FORGOTTEN).code == KILLED, f"{failpoint} was not reached"
        again(failpoint, home)
    for _ in range(kills // 5):
        home, moment = fresh("finished"), rng.uniform(0.02, ended.seconds)
        faults.kill_after(faults.start(home, forget=FORGOTTEN), moment)
        again(f"after {moment:.3f} s", home)
    tally.add(gone)


def _full_disk(tally: Tally, root: Path) -> None:
    """Runs on tmpfs mounts that are too small, then grown; needs the right to mount."""
    if os.geteuid() != 0:
        return
    place = root / "small"
    place.mkdir()
    source = root / "prepared"
    used = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    for room in (100_000, 700_000, 1_500_000, 3_000_000):
        size = used + 400_000 + room
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=False).returncode:
            return
        try:
            home = faults.copy_home(source, place / "home")
            full = faults.run(home)
            assert full.code in (0, REFUSED), full.error
            tally.noticed["full disk (tmpfs)"] += full.code == REFUSED
            subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)
            tally.judge("full disk (tmpfs)", f"{room} bytes left", home, faults.run(home))
        finally:
            subprocess.run(["umount", place], check=True)


if __name__ == "__main__":
    main()
