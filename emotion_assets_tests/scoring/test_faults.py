"""After each fault, a rerun gives the tables of an undisturbed run. The long form: ``benchmarks.feedback_faults``."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from emotion_assets_tests.worlds import faults
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.faults import KILLED, REFUSED

Expected = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def prepared(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion and a full inbox."""
    home = faults.copy_home(trained_home, tmp_path_factory.mktemp("faults") / "prepared")
    world.drop_inbox(faults.workspace_at(home))
    return home


@pytest.fixture(scope="module")
def finished(prepared: Path) -> Path:
    """The same home after an undisturbed run."""
    home = faults.copy_home(prepared, prepared.parent / "finished")
    assert faults.run(home).code == 0
    return home


@pytest.fixture(scope="module")
def expected(finished: Path) -> Expected:
    tables = world.state(faults.workspace_at(finished))
    assert len(tables["scored_feedback"]) == len(tables["feedback"]) > 200
    return tables


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    return faults.copy_home(prepared, tmp_path / "home")


@pytest.mark.parametrize("failpoint", faults.FAILPOINTS)
def test_a_run_killed_at_any_step_is_finished_by_the_next(home: Path, expected: Expected, failpoint: str) -> None:
    assert faults.run(home, failpoint).code == KILLED
    again = faults.run(home)
    assert (again.code, again.error) == (0, "")
    assert faults.problems(home, expected) == []


@pytest.fixture(scope="module")
def read_again(finished: Path) -> Expected:
    """The tables after an undisturbed run under settings that read what was refused before."""
    home = faults.copy_home(finished, finished.parent / "read_again")
    before = world.state(faults.workspace_at(home))
    assert faults.run(home, sources=world.SHOP_READ).code == 0
    after = world.state(faults.workspace_at(home))
    assert len(after["feedback"]) == len(before["feedback"]) + 2
    assert before["feedback_undated"] and not after["feedback_undated"]
    return after


@pytest.mark.parametrize("failpoint", faults.READ_AGAIN)
def test_reading_again_after_a_change_of_settings_is_finished_by_the_next_run(
    finished: Path, tmp_path: Path, read_again: Expected, failpoint: str
) -> None:
    home = faults.copy_home(finished, tmp_path / "home")
    assert faults.run(home, failpoint, sources=world.SHOP_READ).code == KILLED
    for _ in range(2):  # and a further run changes nothing
        again = faults.run(home, sources=world.SHOP_READ)
        assert (again.code, again.error) == (0, "")
        assert faults.problems(home, read_again) == []


def test_runs_killed_at_random_moments_are_finished_by_the_next(home: Path, expected: Expected) -> None:
    rng = random.Random(time.time_ns())
    killed = [faults.kill_after(faults.start(home), rng.uniform(0.1, 1.2)).code for _ in range(6)]
    assert set(killed) <= {KILLED, 0}
    again = faults.run(home)
    assert (again.code, again.error) == (0, "")
    assert faults.problems(home, expected) == []


def test_two_runs_at_once_do_the_work_once(home: Path, expected: Expected) -> None:
    both = [faults.start(home), faults.start(home)]
    assert [(e.code, e.error) for e in map(faults.wait_for, both)] == [(0, ""), (0, "")]
    assert faults.problems(home, expected) == []


@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 0.75, 0.95])
def test_a_full_disk_is_one_clear_line_and_the_run_after_it_finishes(
    home: Path, finished: Path, expected: Expected, share: float
) -> None:
    """No file may grow to more than a share of the finished database, so that every one of these runs must stop."""
    whole = (finished / "emotion.duckdb").stat().st_size
    full = faults.run(home, file_limit=int(whole * share))
    assert full.code == REFUSED, full.error
    assert "no room to write; free some disk space" in full.error
    assert "\n" not in full.error
    again = faults.run(home)
    assert (again.code, again.error) == (0, "")
    assert faults.problems(home, expected) == []


def test_a_read_only_inbox_is_read_and_stays_as_it_is(home: Path, expected: Expected) -> None:
    inbox = home / "inbox"
    for path in [*inbox.rglob("*"), inbox]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = faults.inbox_print(home)
    try:
        assert faults.run(home).code == 0
    finally:
        for path in (inbox, inbox / "shop"):
            path.chmod(0o755)
    assert faults.inbox_print(home) == before
    assert faults.problems(home, expected) == []


def test_a_hurt_database_is_noticed_or_harmless_and_a_rebuild_restores_it(
    finished: Path, expected: Expected, tmp_path: Path
) -> None:
    source = faults.copy_home(finished, tmp_path / "source")
    for what, home in faults.damage(source, random.Random(11), cuts=[0.5], flips=2):
        first = faults.run(home)
        if first.code == 0 and faults.problems(home, expected) == []:
            continue  # the bit was of no use to anybody
        assert (first.code, first.error.count("\n")) == (REFUSED, 0), f"{what}: {first.error}"
        assert "doctor --rebuild" in first.error, what
        repaired = faults.run(home, repair=True)
        assert (repaired.code, repaired.error) == (0, ""), what
        assert faults.problems(home, expected) == [], what


@pytest.mark.parametrize("failpoint", ["rebuild.before_replace", "rebuild.before_manifest", "warehouse.after_commit"])
def test_a_rebuild_that_is_killed_can_be_run_again(
    finished: Path, expected: Expected, tmp_path: Path, failpoint: str
) -> None:
    home = faults.copy_home(finished, tmp_path / "home")
    (home / "emotion.duckdb").write_bytes(b"")
    assert faults.run(home, failpoint, repair=True).code == KILLED
    assert faults.run(home, repair=True).code == 0
    assert faults.problems(home, expected) == []


@pytest.mark.parametrize("hurt", ["garbled", "cut"])
def test_a_damaged_log_after_a_kill_loses_no_row(home: Path, expected: Expected, hurt: str) -> None:
    assert faults.run(home, "warehouse.after_commit:3").code == KILLED
    wal = home / "emotion.duckdb.wal"
    content = wal.read_bytes()
    wal.write_bytes(content[: len(content) // 2] if hurt == "cut" else content[:40] + b"\x55" * (len(content) - 40))
    again = faults.run(home)
    if again.code == REFUSED:
        assert "doctor --rebuild" in again.error
        again = faults.run(home, repair=True)
    assert (again.code, again.error) == (0, "")
    assert faults.problems(home, expected) == []


def test_a_clock_that_jumps_back_loses_nothing_and_repeats_nothing(home: Path, expected: Expected) -> None:
    late = home / "inbox" / "c_again.csv"
    content = late.read_bytes()
    late.unlink()
    assert faults.run(home, clock=7 * 86_400).code == 0
    late.write_bytes(content)
    assert faults.run(home, clock=-30 * 86_400).code == 0
    assert faults.problems(home, expected) == []
