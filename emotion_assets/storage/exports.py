"""What others read instead of the live database: every table as Parquet, and the scores as Parquet and CSV.

``reports/exports/current`` is a link to the newest complete set; a set is written beside and appears whole or not at
all. ``cli.rebuild`` restores the database from it.
"""

from __future__ import annotations

import codecs
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from emotion_assets.settings.errors import UserError
from emotion_assets.storage.atomic import drafting_folder, replacing_file, sync_folder
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.storage.locks import file_lock
from emotion_assets.storage.store import file_sha256
from emotion_assets.storage.warehouse.database import Warehouse, room_to_write, tables
from emotion_assets.storage.warehouse.feedback import mean_text_bytes, table_rows
from emotion_assets.storage.warehouse.scores import score_rows

MANIFEST, CURRENT, SETS_KEPT = "manifest.json", "current", 2
ROWS_PER_BATCH, BATCH_BYTES = 10_240, 32_000_000
FORMULA = r"^(\s*[=+\-@＝＋－＠]|[\t\r\n])"


@dataclass(frozen=True)
class ExportSet:
    """A complete set of exports: ``rows`` by table name."""

    folder: Path
    rows: dict[str, int]


def exports_folder(warehouse: Warehouse) -> Path:
    return warehouse.path.parent / "reports" / "exports"


def export_tables(warehouse: Warehouse) -> ExportSet:
    """Write every table, and the scores with their texts, as they are now, and make the set the current one.

    Raises:
        WarehouseError: the database cannot be used, or the disk is full; the set of before stays the current one.
    """
    root = exports_folder(warehouse)
    lock = file_lock(root / ".lock", warehouse.wait_seconds, f"{root}")
    with lock, room_to_write(root), drafting_folder(root) as draft:
        rows = _write_set(warehouse, draft)
        failpoint("export.before_rename")
        return _publish(root, draft, rows)


def export_sets(warehouse: Warehouse) -> list[Path]:
    """The folders of complete sets, newest first."""
    root = exports_folder(warehouse)
    return sorted((path for path in root.glob("set-*") if path.is_dir()), reverse=True)


def export_scores(warehouse: Warehouse, path: Path) -> int:
    """Write each row's newest score with its text to a ``.parquet`` or ``.csv`` file; how many rows.

    Cells of a CSV file that a spreadsheet would run as a formula start with an apostrophe.

    Raises:
        UserError: as ``writing_rows``.
    """
    with warehouse.reading() as db:
        batches = score_rows(db, _rows_per_batch(db))
        with writing_rows(path, batches.schema) as write:
            return sum(write(batch) for batch in batches)


def check_export(path: Path) -> None:
    """Raises UserError where ``writing_rows`` would; nothing is written."""
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"{path}: not a name for an export; let it end in .parquet or .csv")
    with _may_be_written(path):
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file")
        if not path.parent.is_dir():
            raise UserError(f"{path.parent}: no such folder; make it first")
        with tempfile.TemporaryFile(dir=path.parent):
            pass


@contextmanager
def writing_rows(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], int]]:
    """A function that appends a batch to a new ``.parquet`` or ``.csv`` file and returns its rows; the file is there
    whole after the block, or not at all. A CSV file begins with a byte order mark, by which Excel knows UTF-8.

    Raises:
        UserError: another file name, or as ``writing_file``.
    """
    check_export(path)
    with writing_file(path) as file:
        if path.suffix == ".parquet":
            writer = pq.ParquetWriter(file, schema, compression="zstd")
        else:
            file.write(codecs.BOM_UTF8)
            writer = pyarrow.csv.CSVWriter(file, neutralise_formulas(pa.RecordBatch.from_pylist([], schema)).schema)

        def write(batch: pa.RecordBatch) -> int:
            writer.write_batch(batch if path.suffix == ".parquet" else neutralise_formulas(batch))
            return int(batch.num_rows)

        with writer:
            yield write


@contextmanager
def writing_file(path: Path) -> Iterator[BinaryIO]:
    """An open file, which takes the place of ``path`` after the block, or is gone after an error.

    Raises:
        UserError: a folder that does not exist, a place that may not be written to, or a full disk.
    """
    with room_to_write(path), ExitStack() as stack:
        with _may_be_written(path):
            if path.is_dir():
                raise UserError(f"{path}: is a folder; give the name of a file")
            if not path.parent.is_dir():
                raise UserError(f"{path.parent}: no such folder; make it first")
            draft = stack.enter_context(replacing_file(path))
        yield stack.enter_context(draft.open("wb"))


@contextmanager
def _may_be_written(path: Path) -> Iterator[None]:
    """What the system refuses as one line about ``path``."""
    try:
        with room_to_write(path):
            yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give a file in another folder") from None


def neutralise_formulas(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with an apostrophe before every string, and column name, that a spreadsheet would run as a formula."""
    columns = [
        pc.replace_substring_regex(column, FORMULA, r"'\1") if pa.types.is_string(column.type) else column
        for column in batch.columns
    ]
    names = [re.sub(FORMULA, r"'\1", name) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, names=names)


def _write_set(warehouse: Warehouse, draft: Path) -> dict[str, int]:
    rows: dict[str, int] = {}
    with warehouse.reading() as db:
        rows_per_batch = _rows_per_batch(db)
        for name in tables(db):
            rows[name] = _write(draft / f"{name}.parquet", table_rows(db, name, rows_per_batch))
            failpoint("export.mid_set")
        for suffix in (".parquet", ".csv"):
            rows["scores"] = _write(draft / f"scores{suffix}", score_rows(db, rows_per_batch))
    sums = {file.name: file_sha256(file) for file in sorted(draft.iterdir())}
    (draft / MANIFEST).write_text(json.dumps({"files": sums, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return rows


def _rows_per_batch(db: duckdb.DuckDBPyConnection) -> int:
    """Fewer where texts are long: a batch, which becomes a row group of a Parquet file, is held in memory whole."""
    return min(ROWS_PER_BATCH, max(1, BATCH_BYTES // max(1, mean_text_bytes(db))))


def _publish(root: Path, draft: Path, rows: dict[str, int]) -> ExportSet:
    """Number the set, point ``current`` to it, and drop all but the newest sets."""
    sets = sorted(root.glob("set-*"))
    number = int(sets[-1].name.removeprefix("set-")) + 1 if sets else 1
    folder = root / f"set-{number:06d}"
    sync_folder(draft)
    draft.rename(folder)
    failpoint("export.before_link")
    link = root / f".{CURRENT}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(root / CURRENT)
    for old in sets[: 1 - SETS_KEPT]:
        shutil.rmtree(old)
    return ExportSet(folder, rows)


def _write(path: Path, batches: pa.RecordBatchReader) -> int:
    with writing_rows(path, batches.schema) as write:
        return sum(write(batch) for batch in batches)
