"""Restore the database: every table from the newest complete export, then whatever the inbox has beyond it.

An export is written after feedback, imported reviews and champion decisions; of what is newer than it and can be made
neither from the inbox nor from the store, the number of rows lost is reported. Tables and views that are not ours are
taken over from the old file as far as it can be read.

The new database is built beside the old one and takes its place in one rename. The old file is kept under another
name, since it may hold what neither export nor inbox has.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.ingest.ledger import ingest
from emotion_assets.ingest.redating import count_undated_again
from emotion_assets.storage.exports import MANIFEST, ROWS_PER_BATCH, export_sets
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.storage.store import file_sha256
from emotion_assets.storage.warehouse.database import Warehouse, insert, row_counts
from emotion_assets.storage.warehouse.feedback import fill_identities
from emotion_assets.storage.warehouse.foreign import copy_foreign, read_old
from emotion_assets.storage.warehouse.forget import keep_forgotten
from emotion_assets.storage.warehouse.tables import Forgotten

if TYPE_CHECKING:
    from emotion_assets.storage.workspace import Workspace


def rebuild(workspace: Workspace, run_id: str = "rebuild") -> list[str]:
    """Rebuild the database of ``workspace``; each line says what was done.

    Scores made after the newest export are made again by the next run.

    Raises:
        UserError: another process keeps the database, or the disk is full; the old file stays where it was.
    """
    warehouse, settings = workspace.warehouse, workspace.settings
    fresh = _fresh(warehouse)
    with warehouse.exclusively():
        remove_unfinished(warehouse)
        held = _last_counts(warehouse)
        lines = _restore_exports(warehouse, fresh)
        lines += _keep_forgotten(warehouse, fresh)
        report = ingest(settings.inbox, fresh, settings.feedback, run_id)
        lines.append(
            f"inbox: {len(report.new)} files beyond the export, {report.rows_accepted} rows accepted from them"
        )
        if warehouse.path.exists():
            lines += copy_foreign(warehouse.path, fresh.path)
        kept = _set_aside(warehouse)
        failpoint("rebuild.before_replace")
        fresh.path.replace(warehouse.path)
        failpoint("rebuild.before_manifest")
        fresh.manifest.replace(warehouse.manifest)
        remove_unfinished(warehouse)
    if kept:
        lines.append(f"the old database is kept as {kept}")
    with warehouse.reading() as db:
        counts = row_counts(db)
    lines += [
        f"{name}: {counts.get(name, 0)} of {n} rows; the others are newer than the export"
        for name, n in held.items()
        if counts.get(name, n) < n
    ]
    filled = [f"{name} {n}" for name, n in counts.items() if n]
    lines.append(f"{warehouse.path}: {', '.join(filled) or 'no rows'}")
    return [
        *lines,
        "materialise evaluation_table, champion_model and scored_feedback: they make what can be made again",
    ]


def _last_counts(warehouse: Warehouse) -> dict[str, int]:
    """Rows per table as the last writer left them; nothing is known when the manifest is damaged too."""
    try:
        counts = json.loads(warehouse.manifest.read_text(encoding="utf-8"))["counts"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return counts if isinstance(counts, dict) else {}


def _restore_exports(warehouse: Warehouse, fresh: Warehouse) -> list[str]:
    lines = []
    for folder in export_sets(warehouse):
        if problem := _damage(folder):
            lines.append(f"export {folder.name}: left out, {problem}")
            continue
        with fresh.writing() as db:
            for table in row_counts(db):
                file = folder / f"{table}.parquet"
                if file.is_file():
                    with pq.ParquetFile(file) as parquet:
                        batches = parquet.iter_batches(ROWS_PER_BATCH)
                        insert(db, table, pa.RecordBatchReader.from_batches(parquet.schema_arrow, batches))
            restored = sum(row_counts(db).values())
        return [*lines, f"export {folder.name}: {restored} rows restored"]
    return [*lines, f"no complete export below {warehouse.path.parent}: starting from the inbox alone"]


def _keep_forgotten(warehouse: Warehouse, fresh: Warehouse) -> list[str]:
    """Take over from the old database, where it can be read, what was forgotten after the newest complete export."""
    forgotten = read_old(warehouse.path, Forgotten.table) if warehouse.path.exists() else None
    if forgotten is None or not forgotten.num_rows:
        return []
    with fresh.writing() as db:
        fill_identities(db)
        removed = keep_forgotten(db, forgotten)
        count_undated_again(db, removed.undated_files)
    return [f"{len(removed.rows)} rows of the export were forgotten after it, and left out"] if removed.any else []


def _damage(folder: Path) -> str | None:
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return f"its {MANIFEST} cannot be read"
    altered = [name for name, sha256 in files.items() if not _intact(folder / name, sha256)]
    return f"{altered[0]} is missing or altered" if altered else None


def _intact(file: Path, sha256: str) -> bool:
    return file.is_file() and file_sha256(file) == sha256


def _set_aside(warehouse: Warehouse) -> Path | None:
    """Give the old database a second name. Its own name is free for no moment: an empty database must never be taken
    for a new one. The log goes first, it would not fit the new file."""
    number = 1
    while (kept := warehouse.path.with_name(f"{warehouse.path.name}.damaged-{number}")).exists():
        number += 1
    if warehouse.wal.exists():
        warehouse.wal.replace(f"{kept}.wal")
    if not warehouse.path.exists():
        return None
    os.link(warehouse.path, kept)
    return kept


def kept_copies(warehouse: Warehouse) -> list[Path]:
    """The old databases that rebuilds have kept."""
    return sorted(warehouse.path.parent.glob(f"{warehouse.path.name}.damaged-*"))


def remove_unfinished(warehouse: Warehouse) -> None:
    """Remove what a rebuild has built beside the database; belongs inside ``Warehouse.exclusively``."""
    fresh = _fresh(warehouse)
    for file in [*fresh.files, Path(f"{fresh.path}.lock")]:
        file.unlink(missing_ok=True)


def _fresh(warehouse: Warehouse) -> Warehouse:
    """The database that a rebuild builds beside the old one."""
    return Warehouse(warehouse.path.with_name(f"{warehouse.path.name}.rebuild"), warehouse.wait_seconds)
