"""Tables and views in the database file that are not ours: a person's own notes, say.

No command counts, exports or changes them, and ``cli.rebuild`` takes them along. Ours is what a fresh database has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from emotion_assets.settings.errors import UserError
from emotion_assets.storage.warehouse.database import CONFIG

OLD = "database_of_before"
FOREIGN = """
    SELECT kind, schema_name, name, sql FROM (
        SELECT 1 AS place, 'table' AS kind, database_name, schema_name, table_name AS name, table_oid AS oid, sql
        FROM duckdb_tables() WHERE NOT internal
        UNION ALL
        SELECT 2, 'view', database_name, schema_name, view_name, view_oid, sql FROM duckdb_views() WHERE NOT internal
    ) there
    WHERE database_name = $old AND NOT EXISTS (
        SELECT 1 FROM duckdb_tables() t
        WHERE t.database_name = $new AND t.schema_name = there.schema_name AND t.table_name = there.name
        UNION ALL
        SELECT 1 FROM duckdb_views() v
        WHERE v.database_name = $new AND v.schema_name = there.schema_name AND v.view_name = there.name
    )
    ORDER BY place, oid
"""


def copy_foreign(old: Path, new: Path) -> list[str]:
    """Copy what is not ours from the database ``old`` to ``new``; a line for each table and view says how that went.

    Raises:
        UserError: another program has the old database open, so that what it holds cannot be known.
    """
    try:
        with _both(old, new) as db:
            found = db.execute(FOREIGN, {"old": OLD, "new": old.stem}).fetchall()
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException) and "lock" in str(error).lower():
            raise UserError(f"{old}: open in another program; close it there") from None
        return ["the old database cannot be read: tables of your own that it may hold are not taken over"]
    lines = []
    for kind, schema, name, statement in found:
        shown = name if schema == "main" else f"{schema}.{name}"
        try:
            if kind == "table":
                lines.append(f"{shown}: {_copy_table(old, new, schema, name, statement)}")
            else:
                with _both(old, new) as db:
                    db.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}; {statement}")
                lines.append(f"{shown}: a view of your own, kept")
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
            lines.append(f"{shown}: a {kind} of your own that cannot be taken over ({first})")
    return lines


def read_old(old: Path, table: str) -> pa.Table | None:
    """A table of ours in the database ``old``; None where it cannot be read or has none."""
    literal = str(old).replace("'", "''")
    try:
        with duckdb.connect(config=CONFIG) as db:
            db.execute(f"ATTACH '{literal}' AS {_quoted(OLD)} (READ_ONLY)")
            return db.sql(f"FROM {_quoted(OLD)}.main.{_quoted(table)}").to_arrow_table()
    except duckdb.Error:
        return None


def _copy_table(old: Path, new: Path, schema: str, name: str, statement: str) -> str:
    """Copy as it was declared, or, where that needs more than the table, its columns and rows alone."""
    source, target = (f"{_quoted(part)}.{_quoted(schema)}.{_quoted(name)}" for part in (OLD, old.stem))
    ways = {
        "kept": f"{statement}; INSERT INTO {target} FROM {source}",
        "kept without its defaults and constraints": f"CREATE TABLE {target} AS FROM {source}",
    }
    failure: duckdb.Error | None = None
    for how, statements in ways.items():
        try:
            with _both(old, new) as db:  # each in a connection of its own: damage met in one spoils the connection
                db.begin()
                db.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}; {statements}")
                rows = db.execute(f"SELECT count(*) FROM {target}").fetchall()[0][0]
                db.commit()
                return f"{rows} rows of a table of your own, {how}"
        except duckdb.Error as error:
            failure = error
    assert failure is not None
    raise failure


@contextmanager
def _both(old: Path, new: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Both databases in one connection: the new one under the name it will have, the old one to read only."""
    with duckdb.connect(config=CONFIG) as db:
        for path, name, how in ((old, OLD, " (READ_ONLY)"), (new, old.stem, "")):
            literal = str(path).replace("'", "''")
            db.execute(f"ATTACH '{literal}' AS {_quoted(name)}{how}")
        db.execute(f"USE {_quoted(old.stem)}")
        yield db
        db.execute(f"CHECKPOINT {_quoted(old.stem)}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
