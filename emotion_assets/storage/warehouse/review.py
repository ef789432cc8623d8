"""The statements of the review queue: texts out, labels in.

Every function takes an open connection and works on whole tables of rows by joins; none loops over rows. Those that
write belong inside ``Warehouse.writing``, so that what they write is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import count, fetch
from emotion_assets.storage.warehouse.long_texts import read_in_slices

QUEUE = pa.schema(
    [
        ("review_id", pa.string()),
        ("text", pa.string()),
        ("emotion", pa.string()),
        ("confidence", pa.float32()),
        ("reason", pa.string()),
        ("label", pa.string()),
        ("reviewer", pa.string()),
        ("reviewed_at", pa.string()),
        ("rows", pa.int64()),
    ]
)
"""A text that waits for a label."""


def queued_texts(db: duckdb.DuckDBPyConnection) -> tuple[int, Iterator[pa.Table]]:
    """How many texts wait for a label, and each of them once, slice by slice; read them before using ``db`` again.

    The audit sample comes first, in random order: a person who stops half-way leaves a random part of it.

    ``review_id`` is derived from the text and is nothing that a spreadsheet takes for a number or a formula. The last
    column is always filled: some spreadsheets leave out the delimiters before cells that are empty to the end of a row.
    """
    query = """
        SELECT min(rowid) AS place, 'r' || md5(text) AS review_id,
            any_value(emotion) AS emotion, any_value(confidence) AS confidence,
            CASE WHEN bool_or(audit) THEN 'audit' ELSE 'abstain' END AS reason,
            '' AS label, '' AS reviewer, '' AS reviewed_at, count(*) AS rows
        FROM review_queue WHERE label IS NULL
        GROUP BY review_id ORDER BY reason DESC, review_id
    """
    queue = fetch(db, query)
    return queue.num_rows, (part.select(QUEUE.names) for part in read_in_slices(db, "review_queue", queue))


def queued_ids(db: duckdb.DuckDBPyConnection) -> set[str]:
    """The ``review_id`` of every text that is, or was, in the review queue."""
    ids = fetch(db, "SELECT DISTINCT 'r' || md5(text) AS review_id FROM review_queue")["review_id"].to_pylist()
    return set(ids)


def store_labels(db: duckdb.DuckDBPyConnection, labels: pa.Table) -> int:
    """Give every queued row the label of its ``review_id``; how many rows got one."""
    db.register("_labels", labels)
    db.execute(
        """
        UPDATE review_queue SET label = l.label, reviewer = l.reviewer, reviewed_at = l.reviewed_at
        FROM _labels l WHERE l.review_id = 'r' || md5(review_queue.text)
        """
    )
    query = "SELECT count(*) FROM review_queue SEMI JOIN _labels l ON l.review_id = 'r' || md5(text)"
    stored = count(db, query)
    db.unregister("_labels")
    return stored


def fingerprint_reviews(db: duckdb.DuckDBPyConnection) -> str:
    """Equal for equal labels on equal rows, whoever gave them and when."""
    query = """
        SELECT count(*), coalesce(bit_xor(md5_number_lower(feedback_id || ' ' || label)), 0)
        FROM review_queue WHERE label IS NOT NULL
    """
    n, mixed = db.execute(query).fetchall()[0]
    return f"{n} {mixed:x}"


def reviewed_texts(db: duckdb.DuckDBPyConnection) -> pa.Table:
    """``text`` and newest ``label`` of the reviewed texts of which no row is in the audit sample."""
    query = """
        SELECT text, max_by(label, reviewed_at) AS label FROM review_queue
        WHERE label IS NOT NULL GROUP BY text HAVING NOT bool_or(audit) ORDER BY text
    """
    return fetch(db, query)
