"""Databases of earlier versions are brought up to date, whole or not at all; a later one is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import duckdb
import pytest

from emotion_assets.storage.failpoints import VARIABLE
from emotion_assets.storage.warehouse.database import Warehouse, WarehouseError, fetch, insert_rows, row_counts
from emotion_assets.storage.warehouse.declaration import Row, columns_of
from emotion_assets.storage.warehouse.evaluation import read_leaderboard
from emotion_assets.storage.warehouse.migrate import FOLDER, VERSION_TABLE, Schema, read_version
from emotion_assets.storage.warehouse.tables import TABLES, ClassBalance
from emotion_assets_tests.conftest import PROJECT
from emotion_assets_tests.storage.old_home import make_old_database

COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable, column_default FROM duckdb_columns()
    WHERE NOT internal AND table_name <> 'schema_version' ORDER BY ALL
"""
CHECKS = "SELECT table_name, constraint_text FROM duckdb_constraints() WHERE constraint_type = 'CHECK' ORDER BY ALL"
NEWEST = Schema().version


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "emotion.duckdb"


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(path, read_only=True) as db:
        db.execute("SET TimeZone = 'UTC'")
        return db.execute(sql).fetchall()


def test_an_old_database_keeps_its_rows_and_reads_as_before(path: Path) -> None:
    before = make_old_database(path)
    with Warehouse(path).reading() as db:
        board = read_leaderboard(db)
        filled = {name: n for name, n in row_counts(db).items() if n or name in before}
        assert filled == {name: len(rows) for name, rows in before.items()}
        assert read_version(db) == NEWEST
    assert [(row["model"], row["accuracy"]) for row in board] == [("tfidf_svm", 0.75), ("bigru", 0.5)]
    for table, rows in before.items():
        width = len(rows[0])
        assert [row[:width] for row in query(path, f"SELECT * FROM {table} ORDER BY ALL")] == rows, table


def test_a_migrated_database_is_made_like_a_fresh_one(path: Path, tmp_path: Path) -> None:
    make_old_database(path)
    fresh = tmp_path / "fresh.duckdb"
    for file in (path, fresh):
        with Warehouse(file).reading():
            pass
    assert query(path, COLUMNS) == query(fresh, COLUMNS)
    assert query(path, CHECKS) == query(fresh, CHECKS)
    versions = "SELECT max(version) FROM schema_version"
    assert query(path, versions) == query(fresh, versions) == [(NEWEST,)]


@pytest.mark.parametrize("session", ["reading", "writing"])
def test_a_later_database_is_refused_in_one_line(path: Path, session: str) -> None:
    with Warehouse(path).writing() as db:
        db.execute(f"INSERT INTO {VERSION_TABLE} VALUES (99, now())")
    older = Warehouse(path, schema=Schema(tables=TABLES[:-1]))  # code with another schema than wrote the database
    with pytest.raises(WarehouseError) as error, getattr(older, session)():
        pass
    assert str(error.value) == f"{path}: has version 99 of the schema, this code knows {NEWEST}; update emotion_assets"


def later_schema(tmp_path: Path, statement: str) -> Schema:
    """This code's schema and one more migration."""
    migrations = tmp_path / "migrations"
    shutil.copytree(FOLDER / "migrations", migrations)
    (migrations / f"{NEWEST + 1:04}_next.sql").write_text(statement, encoding="utf-8")
    return Schema(migrations=migrations)


def test_a_numbered_migration_is_applied_once(path: Path, tmp_path: Path) -> None:
    before = make_old_database(path)["class_balance"]
    schema = later_schema(tmp_path, "UPDATE class_balance SET n = n + 1;")
    for _ in range(2):
        Path(f"{path}.manifest.json").unlink()  # then the schema is looked at again
        with Warehouse(path, schema=schema).reading() as db:
            assert read_version(db) == NEWEST + 1
    after = query(path, "SELECT n FROM class_balance ORDER BY n")
    assert after == sorted((int(str(row[2])) + 1,) for row in before)


def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path, tmp_path: Path) -> None:
    make_old_database(path)
    schema = later_schema(tmp_path, "DELETE FROM feedback; SELECT * FROM nothing;")
    with pytest.raises(duckdb.CatalogException), Warehouse(path, schema=schema).writing():
        pass
    assert query(path, "SELECT count(*) FROM feedback") == [(2,)]
    with Warehouse(path).reading() as db:
        assert read_version(db) == NEWEST


@pytest.mark.parametrize("place", ["before_commit", "pending_written", "after_commit", "after_checkpoint"])
def test_a_writer_killed_at_the_first_write_leaves_a_database_that_is_migrated_later(path: Path, place: str) -> None:
    make_old_database(path)
    code = (
        "import sys; from pathlib import Path; from emotion_assets.storage.warehouse.database import Warehouse\n"
        "with Warehouse(Path(sys.argv[1])).writing(): pass"
    )
    environment = os.environ | {VARIABLE: f"warehouse.{place}"}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, cwd=PROJECT, check=False)
    assert done.returncode == -9
    with Warehouse(path).reading() as db:
        assert read_version(db) == NEWEST
        assert row_counts(db)["feedback"] == 2
        assert fetch(db, "SELECT predictions_digest FROM evaluation").num_rows == 3


@dataclass(frozen=True, kw_only=True)
class _Wider(Row):
    table = "class_balance"

    split: Annotated[str, "split"]
    emotion: Annotated[str, "label"]
    n: Annotated[int, "rows"]
    share: Annotated[float, "share"]
    median_words: Annotated[float | None, "words of the median text"] = None


WIDER = _Wider(split="test", emotion="joy", n=1, share=1.0, median_words=7.0)


def test_a_column_added_to_a_declaration_reaches_an_existing_database(path: Path) -> None:
    with Warehouse(path).writing() as db:
        insert_rows(db, [ClassBalance(split="train", emotion="joy", n=1, share=1.0)])
    others = [table for table in TABLES if table is not ClassBalance]
    with Warehouse(path, schema=Schema(tables=[_Wider, *others])).writing() as db:
        insert_rows(db, [WIDER])
    stored = query(path, "SELECT split, median_words FROM class_balance ORDER BY split")
    assert stored == [("test", 7.0), ("train", None)]


def test_what_a_write_meets_is_not_hidden_by_its_cleaning_up(path: Path) -> None:
    """A column that the table does not have is named; it used to be an error about the transaction."""
    with pytest.raises(duckdb.Error, match="median_words"), Warehouse(path).writing() as db:
        insert_rows(db, [WIDER])


def test_every_column_has_a_description() -> None:
    missing = [f"{row.table}.{column.name}" for row in TABLES for column in columns_of(row) if not column.description]
    assert missing == []
    assert all(row.__doc__ for row in TABLES)
