"""Bring a database to the schema of this code: numbered migrations, then what the declarations have beyond it.

A fresh database is made from the declarations in ``tables``. An older one gets, in this order: the files
``migrations/NNNN_*.sql`` with a number above its version, the declared tables that it lacks, the declared columns that
it lacks (they may be NULL), and the views. Its version stands in ``schema_version``, a row for each step. A database
from before there were versions is version 1.

Does not belong here: transactions and the lock (``database``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from emotion_assets.settings.errors import UserError
from emotion_assets.storage.store import fingerprint
from emotion_assets.storage.warehouse.declaration import Row, columns_of, create_statement
from emotion_assets.storage.warehouse.tables import TABLES

VERSION_TABLE = "schema_version"
FOLDER = Path(__file__).parent
OF_US = "NOT internal AND database_name = current_database() AND schema_name = 'main'"
"""Where our tables stand; a schema of a person's own may use the same names."""


class NewerDatabaseError(UserError):
    """The database was written by a later version of this code."""


@dataclass(frozen=True)
class Schema:
    """What a database shall have: the declared tables, the views, and the migrations that lead to them."""

    tables: Sequence[type[Row]] = TABLES
    migrations: Path = FOLDER / "migrations"
    views: Path = FOLDER / "views.sql"

    @property
    def files(self) -> dict[int, Path]:
        """The migration that leads to each version."""
        return {int(file.name[:4]): file for file in sorted(self.migrations.glob("[0-9][0-9][0-9][0-9]_*.sql"))}

    @property
    def version(self) -> int:
        return max(self.files, default=1)

    def fingerprint(self) -> str:
        """Changes with every declaration, view and migration: then a database is looked at again."""
        statements = [create_statement(table) for table in self.tables]
        files = [file.read_text(encoding="utf-8") for file in (*self.files.values(), self.views)]
        return fingerprint(statements, files)

    def apply(self, db: duckdb.DuckDBPyConnection) -> None:
        """Bring the open database to this schema; belongs inside a transaction.

        Raises:
            NewerDatabaseError: its version is above this code's.
        """
        version = read_version(db, self.tables)
        if version > self.version:
            raise NewerDatabaseError(
                f"has version {version} of the schema, this code knows {self.version}; update emotion_assets"
            )
        if version:
            for number, file in self.files.items():
                if number > version:
                    db.execute(file.read_text(encoding="utf-8"))
        self._add_missing(db)
        db.execute(self.views.read_text(encoding="utf-8"))
        if version != self.version:
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version BIGINT NOT NULL, since TIMESTAMPTZ NOT NULL)"
            )
            db.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?, now())", [self.version])

    def _add_missing(self, db: duckdb.DuckDBPyConnection) -> None:
        query = f"SELECT table_name, column_name FROM duckdb_columns() WHERE {OF_US}"
        present: dict[str, set[str]] = {}
        for table, column in db.execute(query).fetchall():
            present.setdefault(table, set()).add(column)
        for row in self.tables:
            if row.table not in present:
                db.execute(create_statement(row))
                continue
            for column in columns_of(row):
                if column.name not in present[row.table]:
                    assert column.nullable, f"{row.table}.{column.name} may not be NULL: it needs a migration"
                    db.execute(f"ALTER TABLE {row.table} ADD COLUMN {column.ddl}")


def read_version(db: duckdb.DuckDBPyConnection, tables: Sequence[type[Row]] = TABLES) -> int:
    """The version of an open database's schema; 0 where it has none of the tables."""
    names = {name for (name,) in db.execute(f"SELECT table_name FROM duckdb_tables() WHERE {OF_US}").fetchall()}
    if VERSION_TABLE in names:
        return int(db.execute(f"SELECT max(version) FROM {VERSION_TABLE}").fetchall()[0][0])
    return 1 if names & {row.table for row in tables} else 0
