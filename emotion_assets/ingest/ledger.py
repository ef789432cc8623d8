"""Ingestion: every file of the inbox once, every row of it accepted, a duplicate, or rejected with a reason.

Belongs here: which files are new, staging their rows in bounded memory, one transaction per file. Does not belong
here: how a file is read (``readers``), what is SQL (``warehouse.feedback``).

A file is its bytes: the same content under another name adds nothing. Within a source a row is its ``id``, or else its
content and how often it occurs in its file. What was refused is read again when what decides its reading changes.
Rows are staged on disk first, in a file without a name that vanishes with the process, so the database is taken only
for the moment of the insert, and a file that turns out unreadable at its end has left nothing behind.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pyarrow as pa

from emotion_assets.forms.problems import Quarantine, Rejected, reason_without_content
from emotion_assets.ingest.inbox import InboxFile, Unavailable, check_unchanged, list_inbox, sha256_of
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.redating import redate
from emotion_assets.ingest.rows import Accepted
from emotion_assets.ingest.sources import Source, make_source, source_name
from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.storage.warehouse.database import Warehouse, room_to_write
from emotion_assets.storage.warehouse.feedback import (
    STAGED,
    FileCounts,
    FileRecord,
    file_states,
    is_settled,
    store_file,
    store_quarantine,
)

STAGE_ROWS, STAGE_CHARACTERS = 10_000, 8_000_000
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True)
class FileOutcome:
    """A file that was new. ``reason`` is given for a quarantined one."""

    name: str
    status: str
    reason: str | None
    counts: FileCounts


@dataclass(frozen=True)
class LeftFile:
    """A file that was not opened, or not yet; ``why`` is for a person."""

    name: str
    why: str


@dataclass(frozen=True)
class IngestReport:
    """What one look at the inbox gave. ``known``: files whose bytes were settled before."""

    new: tuple[FileOutcome, ...]
    known: int
    left: tuple[LeftFile, ...]

    @property
    def rows_accepted(self) -> int:
        return sum(file.counts.accepted for file in self.new)


def ingest(
    inbox: Path,
    warehouse: Warehouse,
    settings: FeedbackSettings,
    run_id: str,
    say: Callable[[str], None] = lambda line: None,
    now: Callable[[], float] = time.time,
) -> IngestReport:
    """Store every file of the inbox that is new, in the order of their names, each in one transaction.

    Raises:
        WarehouseError: the database cannot be used, or the disk is full; files stored before stay stored.
    """
    redate(warehouse, settings)
    with warehouse.reading() as db:
        states = file_states(db)
    sources: dict[str, Source] = {}
    seen: set[str] = set()
    new: list[FileOutcome] = []
    left: list[LeftFile] = []
    settled = 0
    for file in list_inbox(inbox, settings.settle_seconds, now()):
        if file.problem is not None:
            left.append(LeftFile(file.name, file.detail))
            continue
        name = source_name(file.name)
        source = sources.setdefault(name, make_source(settings, name))
        try:
            sha256 = sha256_of(file)
            if sha256 in seen or is_settled(states, sha256, source.fingerprint):
                settled += 1
                continue
            moment = datetime.fromtimestamp(now(), UTC)
            record = FileRecord(sha256, file.name, name, file.size, source.fingerprint, run_id, moment)
            outcome = _ingest_file(file, record, warehouse, settings)
        except Unavailable as error:
            left.append(LeftFile(file.name, str(error)))
            continue
        seen.add(sha256)  # the same bytes in another source's folder are not read in turn
        if outcome is None:
            settled += 1
            continue
        new.append(outcome)
        counts = outcome.counts
        say(
            f"{outcome.name}: quarantined, {reason_without_content(outcome.reason)}"
            if outcome.reason
            else f"{outcome.name}: {counts.read} rows, {counts.accepted} accepted, {counts.duplicate} duplicate, "
            f"{counts.rejected} rejected"
            + (f", {counts.undated} without a date that can be read" if counts.undated else "")
        )
    return IngestReport(tuple(new), settled, tuple(left))


def _ingest_file(
    file: InboxFile, record: FileRecord, warehouse: Warehouse, settings: FeedbackSettings
) -> FileOutcome | None:
    """Stage and store one file; None if another run has stored the same bytes meanwhile."""
    with room_to_write(warehouse.path), tempfile.TemporaryFile(dir=warehouse.path.parent) as scratch:
        try:
            _write_staged_rows(read_feedback(file.path, settings, record.source), scratch)
        except Quarantine as quarantine:
            check_unchanged(file)
            with warehouse.writing() as db:
                if not store_quarantine(db, record, str(quarantine)):
                    return None
            return FileOutcome(record.name, "quarantined", str(quarantine), FileCounts())
        failpoint("ingest.after_reading")
        check_unchanged(file)
        scratch.seek(0)
        with warehouse.writing() as db:
            counts = store_file(db, record, pa.ipc.open_stream(scratch))
            failpoint("ingest.stored")
    return None if counts is None else FileOutcome(record.name, "ingested", None, counts)


def _write_staged_rows(rows: Iterator[Accepted | Rejected], scratch: IO[bytes]) -> None:
    """Write the rows as an Arrow stream with the schema ``STAGED``."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(scratch, STAGED, options=options) as stream:
        for batch in _batches(rows):
            stream.write_batch(batch)
            failpoint("ingest.mid_file")


def _batches(rows: Iterator[Accepted | Rejected]) -> Iterator[pa.RecordBatch]:
    staged: list[tuple[object, ...]] = []
    characters = 0
    for row in rows:
        if isinstance(row, Rejected):
            what = (row.row_number, str(row.reason_code), row.detail, row.raw_excerpt)
            staged.append((*what, None, None, None, None, None))
        else:
            number, row_id, text, created_at, values, undated = row
            attributes = _encode(values) if values else "{}"
            staged.append((number, None, None, None, row_id, text, created_at, attributes, undated))
            characters += len(text) + len(attributes)
        if len(staged) >= STAGE_ROWS or characters >= STAGE_CHARACTERS:
            yield _batch(staged)
            staged, characters = [], 0
    if staged:
        yield _batch(staged)


def _batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    arrays = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), STAGED, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=STAGED)
