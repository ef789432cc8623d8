"""The statements of feedback: files and rows in, rejects by reason.

Every function takes an open connection and works on whole tables of rows by joins; none loops over rows. Those that
write belong inside ``Warehouse.writing``, so that what they write is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import count, fetch, insert_rows
from emotion_assets.storage.warehouse.tables import IngestedFile

STAGED = pa.schema(
    [
        ("row_number", pa.int64()),
        ("reason_code", pa.string()),
        ("detail", pa.string()),
        ("raw_excerpt", pa.string()),
        ("feedback_id", pa.string()),
        ("text", pa.string()),
        ("created_at", pa.timestamp("us", "UTC")),
        ("attributes", pa.string()),
    ]
)
"""A row as read: rejected where ``reason_code`` is given, else to be accepted if its id is new."""


@dataclass(frozen=True)
class FileRecord:
    """What is known about a file before its rows are looked at. ``reading``: fingerprint of the reading settings."""

    sha256: str
    name: str
    size: int
    reading: str
    run_id: str
    now: datetime


@dataclass(frozen=True)
class FileCounts:
    read: int = 0
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0


def file_states(db: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, str]]:
    """Status and reading fingerprint of every file content seen so far, by sha256."""
    rows = db.execute("SELECT file_sha256, status, reading FROM ingested_files").fetchall()
    return {sha: (status, reading) for sha, status, reading in rows}


def quarantine_codes(db: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Why each file content that is quarantined is, as a code, by sha256."""
    rows = db.execute("SELECT file_sha256, reason FROM ingested_files WHERE status = 'quarantined'").fetchall()
    return {sha: str(reason).partition(":")[0] for sha, reason in rows}


def is_settled(states: Mapping[str, tuple[str, str]], sha256: str, reading: str) -> bool:
    """Whether a file needs no reading: ingested, or quarantined under the very reading settings of now."""
    status, under = states.get(sha256, ("", ""))
    return status == "ingested" or (status == "quarantined" and under == reading)


def store_file(db: duckdb.DuckDBPyConnection, file: FileRecord, staged: pa.RecordBatchReader) -> FileCounts | None:
    """Judge and store all rows of a file; None if another run has stored the file meanwhile.

    An id that is new is accepted at its first row. The same id with the same text is a duplicate; with another text it
    is rejected as ``id_conflict``.
    """
    if is_settled(file_states(db), file.sha256, file.reading):
        return None
    db.register("_staged", staged)
    db.execute("CREATE OR REPLACE TEMP TABLE staged AS SELECT * FROM _staged")
    db.unregister("_staged")
    _judge(db)
    _insert_judged(db, file)
    judged, accepted, duplicate, conflicts, read = db.execute(
        """
        SELECT count(*), count(*) FILTER (outcome = 'accepted'), count(*) FILTER (outcome = 'duplicate'),
            count(*) FILTER (outcome = 'conflict'), (SELECT count(*) FROM staged)
        FROM judged
        """
    ).fetchall()[0]
    counts = FileCounts(read, accepted, duplicate, read - judged + conflicts)
    db.execute("DROP TABLE judged")
    db.execute("DROP TABLE staged")
    _record_file(db, file, "ingested", None, counts)
    return counts


def _judge(db: duckdb.DuckDBPyConnection) -> None:
    """Make the table ``judged``: each row of ``staged`` that is not rejected yet, with its outcome."""
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE judged AS
        WITH given AS (
            SELECT *, first_value(text) OVER same_id AS first_text, row_number() OVER same_id AS nth
            FROM staged WHERE reason_code IS NULL
            WINDOW same_id AS (PARTITION BY feedback_id ORDER BY row_number)
        )
        SELECT given.*,
            CASE WHEN stored.feedback_id IS NULL AND nth = 1 THEN 'accepted'
                 WHEN given.text = coalesce(stored.text, first_text) THEN 'duplicate'
                 ELSE 'conflict' END AS outcome,
            stored.source_sha256 AS other_source, stored.row_number AS other_row
        FROM given LEFT JOIN feedback stored USING (feedback_id)
        """
    )


def _insert_judged(db: duckdb.DuckDBPyConnection, file: FileRecord) -> None:
    """Store the accepted rows of ``judged``, and as rejects its conflicts and the rejected rows of ``staged``."""
    db.execute(
        """
        INSERT INTO feedback BY NAME
        SELECT feedback_id, text, created_at, $now AS received_at, $sha AS source_sha256, row_number, attributes
        FROM judged WHERE outcome = 'accepted' ORDER BY row_number
        """,
        {"now": file.now, "sha": file.sha256},
    )
    db.execute(
        """
        INSERT INTO feedback_rejects BY NAME
        SELECT $sha AS source_sha256, row_number, reason_code, detail, raw_excerpt
        FROM (
            SELECT row_number, reason_code, detail, raw_excerpt FROM staged WHERE reason_code IS NOT NULL
            UNION ALL
            SELECT row_number, 'id_conflict', 'id ' || feedback_id || ' has another text in '
                || coalesce('file ' || other_source[:12] || ', row ' || other_row, 'an earlier row of this file'),
                text[:200]
            FROM judged WHERE outcome = 'conflict'
        ) ORDER BY row_number
        """,
        {"sha": file.sha256},
    )


def store_quarantine(db: duckdb.DuckDBPyConnection, file: FileRecord, reason: str) -> bool:
    """Note that a file cannot be read; False if another run has stored the file meanwhile."""
    if is_settled(file_states(db), file.sha256, file.reading):
        return False
    _record_file(db, file, "quarantined", reason, FileCounts())
    return True


def _record_file(
    db: duckdb.DuckDBPyConnection,
    file: FileRecord,
    status: Literal["ingested", "quarantined"],
    reason: str | None,
    counts: FileCounts,
) -> None:
    db.execute("DELETE FROM ingested_files WHERE file_sha256 = ?", [file.sha256])
    row = IngestedFile(
        file_sha256=file.sha256,
        file_name=file.name,
        status=status,
        reason=reason,
        rows_read=counts.read,
        rows_accepted=counts.accepted,
        rows_duplicate=counts.duplicate,
        rows_rejected=counts.rejected,
        ingested_at=file.now,
        run_id=file.run_id,
        size_bytes=file.size,
        reading=file.reading,
    )
    insert_rows(db, [row])


def feedback_totals(db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What the UI shows of the table ``feedback``: rows, columns, rejects by reason, the newest rows."""
    rows = count(db, "SELECT count(*) FROM feedback")
    return {
        "rows": rows,
        "rejects": fetch(
            db, "SELECT reason_code, count(*) AS n FROM feedback_rejects GROUP BY ALL ORDER BY n DESC, reason_code"
        ).to_pylist(),
        "newest": fetch(
            db,
            """
            SELECT feedback_id, text[:120] AS text, received_at, attributes[:120] AS attributes
            FROM feedback ORDER BY received_at DESC, row_number DESC LIMIT 5
            """,
        ).to_pylist(),
    }


def table_rows(db: duckdb.DuckDBPyConnection, table: str, rows_per_batch: int) -> pa.RecordBatchReader:
    """All rows of a table. Streams; read it before using ``db`` again."""
    return db.sql(f'SELECT * FROM "{table}"').to_arrow_reader(rows_per_batch)
