"""The wrapper round DuckDB: one writer, one transaction, counts kept outside the file, damage as one line."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from emotion_assets.settings.errors import UserError
from emotion_assets.storage.locks import BusyError
from emotion_assets.storage.warehouse.database import (
    DamagedDatabaseError,
    Warehouse,
    WarehouseError,
    count,
    fetch,
    insert,
    insert_rows,
    room_to_write,
    row_counts,
)
from emotion_assets.storage.warehouse.dataset import write_class_balance
from emotion_assets.storage.warehouse.memory import stream
from emotion_assets.storage.warehouse.tables import ClassBalance

ROW = ClassBalance(split="train", emotion="joy", n=3, share=0.5)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "home" / "emotion.duckdb", wait_seconds=0.3)


def write_row(warehouse: Warehouse) -> None:
    with warehouse.writing() as db:
        write_class_balance(db, [ROW])


def rows(warehouse: Warehouse) -> int:
    with warehouse.reading() as db:
        return count(db, "SELECT count(*) FROM class_balance")


def test_reading_a_database_that_is_not_there_makes_an_empty_one_with_the_schema(warehouse: Warehouse) -> None:
    with warehouse.reading() as db:
        counts = row_counts(db)
    assert {"class_balance", "feedback", "scored_feedback", "review_queue", "evaluation"} <= set(counts)
    assert not any(counts.values())


def test_what_is_written_is_there_after_the_block_and_no_log_is_left(warehouse: Warehouse) -> None:
    write_row(warehouse)
    assert rows(warehouse) == 1
    assert not warehouse.wal.exists()
    manifest = json.loads(warehouse.manifest.read_text())
    assert manifest["counts"]["class_balance"] == 1
    assert "pending" not in manifest


def test_an_error_in_the_block_leaves_everything_as_it_was(warehouse: Warehouse) -> None:
    write_row(warehouse)
    with pytest.raises(ZeroDivisionError), warehouse.writing() as db:
        write_class_balance(db, [ROW, ROW])
        _ = 1 / 0
    assert rows(warehouse) == 1


def test_writing_the_class_balance_again_replaces_it(warehouse: Warehouse) -> None:
    write_row(warehouse)
    write_row(warehouse)
    assert rows(warehouse) == 1


def test_insert_matches_columns_by_name(warehouse: Warehouse) -> None:
    with warehouse.writing() as db:
        insert(db, "class_balance", pa.table({"share": [0.1], "n": [1], "emotion": ["joy"], "split": ["test"]}))
        assert fetch(db, "SELECT emotion, n FROM class_balance").to_pylist() == [{"emotion": "joy", "n": 1}]


def test_a_second_writer_waits_and_then_fails_with_one_line(warehouse: Warehouse) -> None:
    with warehouse.writing(), pytest.raises(BusyError, match="another run has been using it") as error:
        write_row(warehouse)
    assert "\n" not in str(error.value)


def test_readers_do_not_keep_each_other_out_but_keep_the_writer_out(warehouse: Warehouse) -> None:
    write_row(warehouse)
    with warehouse.reading():
        assert rows(warehouse) == 1
        with pytest.raises(BusyError):
            write_row(warehouse)


def _append(path: Path, times: int) -> None:
    warehouse = Warehouse(path)
    for _ in range(times):
        with warehouse.writing() as db:
            insert_rows(db, [ROW])


def test_writers_of_several_processes_lose_no_row(warehouse: Warehouse) -> None:
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=_append, args=(warehouse.path, 4)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert rows(warehouse) == 12


def test_a_deleted_database_that_held_rows_is_not_taken_for_a_new_one(warehouse: Warehouse) -> None:
    write_row(warehouse)
    warehouse.path.unlink()
    with pytest.raises(
        DamagedDatabaseError, match="held 1 rows in class_balance; run `emotion-assets doctor --rebuild`"
    ):
        rows(warehouse)


def test_a_deleted_empty_database_is_made_again(warehouse: Warehouse) -> None:
    rows(warehouse)
    warehouse.path.unlink()
    assert rows(warehouse) == 0


def test_an_older_copy_of_the_database_is_noticed(warehouse: Warehouse) -> None:
    write_row(warehouse)
    old = warehouse.path.read_bytes()
    with warehouse.writing() as db:
        write_class_balance(db, [ROW, ROW])
    warehouse.path.write_bytes(old)
    with pytest.raises(DamagedDatabaseError, match=r"holds 1 rows .* where 2 rows"):
        rows(warehouse)


@pytest.mark.parametrize("counts", ["counts", "pending"])
def test_after_a_crash_round_the_commit_either_count_is_right(warehouse: Warehouse, counts: str) -> None:
    """Between the pending manifest and the settled one the tables hold the old or the new rows; both are sound."""
    write_row(warehouse)
    manifest = json.loads(warehouse.manifest.read_text())
    other = manifest["counts"] | {"class_balance": 7}
    both = {"counts": manifest["counts"], "pending": other}
    if counts == "pending":
        both = {"counts": other, "pending": manifest["counts"]}
    warehouse.manifest.write_text(json.dumps(manifest | both))
    assert rows(warehouse) == 1
    write_row(warehouse)
    assert "pending" not in json.loads(warehouse.manifest.read_text())


def test_a_missing_manifest_is_made_again_and_a_broken_one_is_noticed(warehouse: Warehouse) -> None:
    write_row(warehouse)
    warehouse.manifest.unlink()
    assert rows(warehouse) == 1
    for broken in ("{", "[]", '{"counts": 3}', '{"counts": {}, "pending": []}'):
        warehouse.manifest.write_text(broken)
        with pytest.raises(DamagedDatabaseError, match="not readable"):
            rows(warehouse)


@pytest.mark.parametrize("content", [b"", b"no database", b"\0" * 50_000])
def test_a_file_that_is_no_database_is_one_line_with_the_fix(warehouse: Warehouse, content: bytes) -> None:
    write_row(warehouse)
    warehouse.path.write_bytes(content)
    with pytest.raises(DamagedDatabaseError, match="doctor --rebuild") as error:
        rows(warehouse)
    assert "\n" not in str(error.value)


def test_a_database_open_in_another_program_is_said_to_be(warehouse: Warehouse) -> None:
    write_row(warehouse)
    context = multiprocessing.get_context("forkserver")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(warehouse.path), ready, done))
    other.start()
    assert ready.wait(60)
    with pytest.raises(WarehouseError, match="open in another program"):
        write_row(warehouse)
    done.set()
    other.join(60)
    assert rows(warehouse) == 1


def _hold(path: str, ready, done) -> None:
    with duckdb.connect(path):
        ready.set()
        done.wait(60)


def test_a_fault_of_our_own_sql_is_not_taken_for_damage(warehouse: Warehouse) -> None:
    with pytest.raises(duckdb.CatalogException), warehouse.reading() as db:
        db.execute("SELECT * FROM nothing")


@pytest.mark.parametrize("session", ["reading", "writing"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.ENOSPC])
def test_a_file_of_the_callers_own_is_not_blamed_on_the_database(
    warehouse: Warehouse, session: str, number: int
) -> None:
    with pytest.raises(OSError) as raised, getattr(warehouse, session)():
        raise OSError(number, os.strerror(number), "/elsewhere/scores.csv")
    assert raised.value.filename == "/elsewhere/scores.csv"


@pytest.mark.parametrize("session", ["reading", "writing"])
@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Could not read enough bytes from file", "damaged .* doctor --rebuild"),
        ("Could not write: No space left on device", "no room to write"),
        ("Could not read from file: Input/output error", "cannot be used .* doctor --rebuild"),
    ],
)
def test_what_a_query_meets_in_the_file_is_one_line_about_the_database(
    warehouse: Warehouse, session: str, message: str, said: str
) -> None:
    with pytest.raises(WarehouseError, match=f"{warehouse.path}: {said}"), getattr(warehouse, session)():
        raise duckdb.IOException(message)


def test_what_the_system_refuses_at_opening_or_commit_is_one_line(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"cannot be made .*; let this user write there, or set EMOTION_HOME"):
        rows(Warehouse(Path("/sys/home/emotion.duckdb")))
    folder = Warehouse(tmp_path / "folder")
    folder.path.mkdir()
    with pytest.raises(WarehouseError, match=f"{folder.path}: .*; put that right"):
        rows(folder)

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("emotion_assets.storage.warehouse.database.write_text_atomically", refuse)
    with pytest.raises(WarehouseError, match=r"may not be opened .*; give this user access"):
        write_row(warehouse)


def test_too_little_memory_behind_the_first_rows_is_told_as_such() -> None:
    query = "SELECT repeat(md5(i::VARCHAR), if(i < 130_000, 1, 600)) AS text FROM range(134_000) rows(i)"
    with duckdb.connect(config={"memory_limit": "16MB", "threads": 2}) as db:
        rows = 0
        with pytest.raises(duckdb.OutOfMemoryException):
            for batch in stream(db, query, {}, 1024):
                rows += len(batch)
        assert rows > 0
        db.execute("SET memory_limit = '256MB'")
        assert sum(len(batch) for batch in stream(db, query, {}, 1024)) == 134_000


def test_a_database_is_new_until_something_of_it_is_there(warehouse: Warehouse) -> None:
    assert warehouse.is_new
    write_row(warehouse)
    warehouse.path.unlink()
    assert not warehouse.is_new


def test_a_full_disk_is_told_apart_from_other_errors(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="no room to write"), room_to_write(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="Is a directory"), room_to_write(tmp_path):
        raise OSError(21, "Is a directory")


def test_what_a_killed_writer_left_of_its_manifest_is_cleared_by_a_mere_look(warehouse: Warehouse) -> None:
    write_row(warehouse)
    leftover = warehouse.manifest.with_name(f".{warehouse.manifest.name}.x1y2")
    leftover.write_text("{")
    assert rows(warehouse) == 1
    assert not leftover.exists()


def test_what_a_killed_run_had_no_memory_for_is_removed_from_the_disk(warehouse: Warehouse) -> None:
    write_row(warehouse)
    killed = f"""if True:
        import duckdb, os
        db = duckdb.connect({str(warehouse.path)!r}, read_only=True, config={{"memory_limit": "64MB", "threads": 2}})
        made = "SELECT md5(i::VARCHAR) AS text FROM range(3_000_000) rows(i) ORDER BY text"
        db.execute("CREATE TEMP TABLE texts AS " + made)
        os.kill(os.getpid(), 9)
    """
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    leftover = Path(f"{warehouse.path}.tmp")
    assert any(file.stat().st_size for file in leftover.iterdir())
    assert rows(warehouse) == 1
    with warehouse.writing():
        assert not leftover.exists()


def test_a_table_that_is_not_ours_is_no_damage(warehouse: Warehouse) -> None:
    write_row(warehouse)
    with duckdb.connect(warehouse.path) as db:
        db.execute("CREATE TABLE \"O'Brien's notes\" AS SELECT 1 AS a")
        db.execute("CREATE SCHEMA mine; CREATE TABLE mine.feedback AS SELECT 1 AS a")
    assert rows(warehouse) == 1
    with duckdb.connect(warehouse.path) as db:
        db.execute("INSERT INTO \"O'Brien's notes\" VALUES (2); DROP TABLE mine.feedback")
    write_row(warehouse)
    with warehouse.reading() as db:
        assert "O'Brien's notes" not in row_counts(db)


def test_what_an_earlier_version_noted_of_a_table_that_is_not_ours_is_passed_over(warehouse: Warehouse) -> None:
    write_row(warehouse)
    manifest = json.loads(warehouse.manifest.read_text())
    manifest["counts"]["notes"] = 3
    warehouse.manifest.write_text(json.dumps(manifest))
    assert rows(warehouse) == 1


def test_a_schema_of_ones_own_with_our_names_does_not_hide_that_a_table_of_ours_is_missing(
    warehouse: Warehouse,
) -> None:
    warehouse.path.parent.mkdir()
    with duckdb.connect(warehouse.path) as db:
        db.execute("CREATE SCHEMA mine; CREATE TABLE mine.class_balance AS SELECT 1 AS a")
    write_row(warehouse)
    assert rows(warehouse) == 1
