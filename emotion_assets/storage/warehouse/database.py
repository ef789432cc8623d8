"""The DuckDB file: one writer at a time, one transaction per session, and a count of our rows kept outside the file.

Belongs here: opening, locking, committing, noticing damage. Does not belong here: the schema (``migrate``) and what a
table means; the statements stand in the modules beside this one.

DuckDB opens a file whose write-ahead log is damaged with rows missing and no error. So each session writes the row
count of every declared table to ``<file>.manifest.json``: the intended counts before the commit, as ``pending``, and
the settled ones after the checkpoint. At open the tables must agree with one of the two. A crash at any point leaves
the one or the other, so it is never mistaken for damage.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from emotion_assets.settings.errors import UserError
from emotion_assets.storage.atomic import write_text_atomically
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.storage.locks import file_lock
from emotion_assets.storage.warehouse.declaration import Row, arrow_table
from emotion_assets.storage.warehouse.migrate import OF_US, NewerDatabaseError, Schema
from emotion_assets.storage.warehouse.tables import TABLES

CONFIG: dict[str, Any] = {
    "memory_limit": "512MB",
    "threads": 2,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "preserve_insertion_order": True,
}
REBUILD = "run `emotion-assets doctor --rebuild`"
DAMAGE = ("corrupt", "checksum", "not a valid duckdb", "could not read enough bytes", "serialization", "internal error")
FULL = ("no space left", "file too large", "disk quota", "out of disk")
Kinds = tuple[type[Exception], ...]
OF_DUCKDB: Kinds = (duckdb.Error,)
ANY: Kinds = (duckdb.Error, OSError)


class WarehouseError(UserError):
    """The database cannot be used right now: no room to write, no permission, or open in another program."""


class DamagedDatabaseError(WarehouseError):
    """The database file has lost or altered rows; the exports and the inbox can restore it."""


def insert(db: duckdb.DuckDBPyConnection, table: str, rows: pa.Table | pa.RecordBatchReader) -> None:
    """Append Arrow rows, matched by column name; columns that are not given get their default, or NULL."""
    db.register("_rows", rows)
    db.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM _rows')
    db.unregister("_rows")  # not after an error: DuckDB refuses it then, and would hide what went wrong


def insert_rows(db: duckdb.DuckDBPyConnection, rows: Sequence[Row]) -> None:
    """Append declared rows, all of one table."""
    if rows:
        kind = type(rows[0])
        insert(db, kind.table, arrow_table(kind, rows))


def fetch(db: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> pa.Table:
    """The whole result of a query as Arrow. An unfetched result would own the connection, so nothing stays open."""
    return db.sql(query, params=parameters or None).to_arrow_table()


def count(db: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> int:
    """The whole number that a query of one row and one column gives."""
    return int(db.execute(query, parameters or None).fetchall()[0][0])


def tables(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of the declared tables that the database has, sorted; tables that are not ours are not among them."""
    query = f"SELECT table_name FROM duckdb_tables() WHERE {OF_US} ORDER BY table_name"
    ours = {row.table for row in TABLES}
    return [name for (name,) in db.execute(query).fetchall() if name in ours]


def row_counts(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    names = tables(db)
    if not names:
        return {}
    query = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM \"{name}\"" for name in names)
    return dict(sorted(db.execute(query).fetchall()))


@contextmanager
def room_to_write(path: Path, kinds: Kinds = ANY) -> Iterator[None]:
    """A full disk, met by DuckDB, Arrow or Python (or ``kinds`` of errors alone), as one line that says so.

    Raises:
        WarehouseError: instead of the error that means a full disk, a quota or a file size limit.
    """
    try:
        yield
    except kinds as error:
        if any(sign in str(error).lower() for sign in FULL):
            raise WarehouseError(
                f"{path}: no room to write; free some disk space and run again, nothing was half-written"
            ) from error
        raise


@dataclass(frozen=True)
class Warehouse:
    """The database at ``path``, its lock ``<path>.lock`` and its counts ``<path>.manifest.json``."""

    path: Path
    wait_seconds: float = 120.0
    schema: Schema = field(default_factory=Schema)

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction of the one writer: committed, checkpointed and closed at the end, rolled back on an error.

        Raises:
            BusyError: another process kept the database for ``wait_seconds``.
            WarehouseError: the disk is full, the file may not be opened, texts are too long for the database's memory,
                or a later version of this code wrote the file.
            DamagedDatabaseError: the file cannot be read, or holds other rows than were committed.
        """
        with self.exclusively(), self._clear_errors(OF_DUCKDB):
            with self._clear_errors():
                db, counts = self._open_checked(read_only=False)
                schema = self._manifest().get("schema")  # of the last commit, until this one is made
            try:
                db.begin()
                try:
                    self._migrate(db)
                    yield db
                    failpoint("warehouse.before_commit")
                    pending = row_counts(db)
                    with self._clear_errors():
                        self._write_manifest(counts, pending, schema)
                    failpoint("warehouse.pending_written")
                except BaseException:
                    with suppress(duckdb.Error):  # a broken connection: the error on its way out says why
                        db.rollback()
                    raise
                db.commit()
                failpoint("warehouse.after_commit")
                db.execute("CHECKPOINT")
                failpoint("warehouse.after_checkpoint")
            finally:
                db.close()
            with self._clear_errors():
                self._write_manifest(pending)

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A short look at the committed tables; several readers may look at once.

        Raises:
            BusyError, WarehouseError, DamagedDatabaseError: as for ``writing``.
        """
        with self._clear_errors():
            ready = self._readable_as_it_is()
        if not ready:
            with self.writing():
                pass  # makes the file, migrates it, or brings a killed writer's commit home
        with self._lock(shared=True), self._clear_errors(OF_DUCKDB):
            with self._clear_errors():
                db, _ = self._open_checked(read_only=True)
            try:
                yield db
            finally:
                db.close()

    def exclusively(self) -> AbstractContextManager[None]:
        """The writer's lock alone, for who replaces the file itself.  Raises BusyError."""
        return self._lock(shared=False)

    def _lock(self, shared: bool) -> AbstractContextManager[None]:
        return file_lock(Path(f"{self.path}.lock"), self.wait_seconds, str(self.path), shared)

    @cached_property
    def _schema_fingerprint(self) -> str:
        return self.schema.fingerprint()

    def _migrate(self, db: duckdb.DuckDBPyConnection) -> None:
        """Bring the schema up to date, inside the session's transaction, unless the last writer has had this one."""
        if self._manifest().get("schema") == self._schema_fingerprint:
            return
        try:
            self.schema.apply(db)
        except NewerDatabaseError as error:
            raise WarehouseError(f"{self.path}: {error}") from None

    def rewrite(self) -> None:
        """Write the file anew, with all that is in it: DuckDB leaves what was deleted in the file's free space.

        The new file is made beside the old one and takes its place in one rename.

        Raises:
            BusyError, WarehouseError, DamagedDatabaseError: as for ``writing``; the old file stays.
        """
        draft = Path(f"{self.path}.rewritten")
        with self.exclusively(), self._clear_errors():
            db, counts = self._open_checked(read_only=False)
            db.execute("CHECKPOINT")
            db.close()
            try:
                for leftover in (draft, Path(f"{draft}.wal")):
                    leftover.unlink(missing_ok=True)
                with duckdb.connect(config=CONFIG) as db:
                    before, after = (str(path).replace("'", "''") for path in (self.path, draft))
                    db.execute(f"ATTACH '{before}' AS file_of_before (READ_ONLY)")
                    db.execute(f'ATTACH \'{after}\' AS "{self.path.stem}"; USE "{self.path.stem}"')
                    db.execute(f'COPY FROM DATABASE file_of_before TO "{self.path.stem}"')
                    assert row_counts(db) == counts, "a copy has every row"
                    db.execute("CHECKPOINT")
                failpoint("warehouse.before_rewritten")
                draft.replace(self.path)
            finally:
                draft.unlink(missing_ok=True)

    @property
    def files(self) -> list[Path]:
        """What makes up the database on disk, the lock left out."""
        return [self.path, self.wal, self.manifest]

    @property
    def wal(self) -> Path:
        """DuckDB's write-ahead log: there only after a crash, or while a writer is at work."""
        return Path(f"{self.path}.wal")

    @property
    def manifest(self) -> Path:
        return Path(f"{self.path}.manifest.json")

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever stored here; a database that is gone leaves its counts behind."""
        with self._clear_errors():
            there = any(file.exists() for file in self.files)
        return not there

    def _readable_as_it_is(self) -> bool:
        up_to_date = self._manifest().get("schema") == self._schema_fingerprint
        return self.path.is_file() and not self.wal.exists() and up_to_date

    def _manifest(self) -> dict[str, Any]:
        try:
            content: Any = json.loads(self.manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            content = None
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key, {}), dict) for key in ("counts", "pending")
        ):
            raise DamagedDatabaseError(f"{self.manifest}: not readable; {REBUILD}")
        return content

    def _write_manifest(
        self, counts: dict[str, int], pending: dict[str, int] | None = None, schema: str | None = None
    ) -> None:
        content: dict[str, Any] = {"schema": schema or self._schema_fingerprint, "counts": counts}
        if pending is not None:
            content |= {"schema": schema, "pending": pending}
        write_text_atomically(self.manifest, json.dumps(content, indent=1) + "\n")

    def _open_checked(self, read_only: bool) -> tuple[duckdb.DuckDBPyConnection, dict[str, int]]:
        """Open the file and compare its row counts with the manifest."""
        manifest = self._manifest()
        accepted = [_of_ours(manifest[key]) for key in ("counts", "pending") if key in manifest]
        if accepted and not self.path.exists() and any(accepted[0].values()):
            raise DamagedDatabaseError(f"{self.path}: is gone, and held {_describe_counts(accepted[0])}; {REBUILD}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.parent.glob(f".{self.manifest.name}.*"):  # of a writer killed at its manifest
            leftover.unlink(missing_ok=True)
        if not read_only and not self.path.exists():
            self._create()
        db = self._connect(read_only)
        if not read_only:  # nobody else has the file open: what is there was put on disk by a run that was killed
            shutil.rmtree(f"{self.path}.tmp", ignore_errors=True)
        try:
            db.execute("SET TimeZone = 'UTC'")
            counts = row_counts(db)
            if accepted and not any(_same_rows(counts, expected) for expected in accepted):
                held, committed = _describe_counts(counts), _describe_counts(accepted[-1])
                raise DamagedDatabaseError(f"{self.path}: holds {held} where {committed} were committed; {REBUILD}")
        except BaseException:
            db.close()
            raise
        return db, counts

    def _create(self) -> None:
        """Make the empty file beside and rename it, so that a kill or a full disk leaves no torn one."""
        draft = Path(f"{self.path}.new")
        for leftover in (draft, Path(f"{draft}.wal")):
            leftover.unlink(missing_ok=True)
        db = duckdb.connect(draft, config=CONFIG)
        try:
            self.schema.apply(db)
            db.execute("CHECKPOINT")
        finally:
            db.close()
        draft.replace(self.path)

    def _connect(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                return duckdb.connect(self.path, read_only=read_only, config=CONFIG)
            except duckdb.IOException as error:
                if "lock" not in str(error).lower():
                    raise
                if time.monotonic() > deadline:
                    raise WarehouseError(f"{self.path}: open in another program; close it there") from None
                time.sleep(random.uniform(0.05, 0.25))

    @contextmanager
    def _clear_errors(self, kinds: Kinds = ANY) -> Iterator[None]:
        """A full disk, damage, too little memory and what the system refuses as one line; a fault of our own SQL stays
        what it is.

        Round the caller's own code ``kinds`` are DuckDB's errors alone: a file of the caller's is not the database.
        """
        try:
            with room_to_write(self.path, kinds):
                yield
        except kinds as error:
            message = f"{type(error).__name__}: {error}".lower()
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            if isinstance(error, duckdb.OutOfMemoryException):
                raise WarehouseError(
                    f"{self.path}: too many long texts behind each other for the {CONFIG['memory_limit']} of memory "
                    "that the database may use; lower feedback.max_field_bytes, so that the longest are rejected"
                ) from error
            if isinstance(error, duckdb.Error) and any(sign in message for sign in DAMAGE):
                raise DamagedDatabaseError(f"{self.path}: damaged ({first}); {REBUILD}") from error
            if isinstance(error, PermissionError) or "permission denied" in message:
                raise WarehouseError(f"{self.path}: may not be opened ({first}); give this user access") from error
            if isinstance(error, (OSError, duckdb.IOException)):
                raise WarehouseError(f"{self.path}: cannot be used ({first}); put that right, or {REBUILD}") from error
            raise


def _of_ours(counts: dict[str, int]) -> dict[str, int]:
    """The counts of declared tables: an earlier version noted those of other tables too."""
    ours = {row.table for row in TABLES}
    return {name: n for name, n in counts.items() if name in ours}


def _same_rows(counts: dict[str, int], expected: dict[str, int]) -> bool:
    """Whether every table that the last writer knew has the rows that it left."""
    return all(counts.get(name, 0) == n for name, n in expected.items())


def _describe_counts(counts: dict[str, int]) -> str:
    filled = [f"{n} rows in {name}" for name, n in counts.items() if n]
    return ", ".join(filled) or "no rows"
