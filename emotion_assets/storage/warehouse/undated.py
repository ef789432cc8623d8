"""The statements of rows whose time could not be read: which there are, counts by form, their time once it is known.

Every function takes an open connection; those that write belong inside ``Warehouse.writing``.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import fetch, insert_rows
from emotion_assets.storage.warehouse.feedback import content_of
from emotion_assets.storage.warehouse.long_texts import add_computed
from emotion_assets.storage.warehouse.tables import FeedbackUndated


def undated_files(db: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str]]:
    """sha256 and source of each file that has rows without a readable time, and the fingerprint of the settings that
    these were last tried with."""
    rows = db.execute(
        "SELECT file_sha256, source, coalesce(dating, reading) FROM ingested_files WHERE rows_undated > 0"
    ).fetchall()
    return [(sha256, source, tried) for sha256, source, tried in rows]


def undated_rows(db: duckdb.DuckDBPyConnection, sha256: str) -> list[tuple[str, str]]:
    """Id and attributes of each row of a file that has a time among its attributes in place of ``created_at``."""
    return db.execute(
        """
        SELECT feedback_id, attributes FROM feedback
        WHERE source_sha256 = ? AND created_at IS NULL AND json_exists(attributes, '$.created_at')
        """,
        [sha256],
    ).fetchall()


def undated_forms(db: duckdb.DuckDBPyConnection) -> list[tuple[str, str, int]]:
    """Source, form and rows of the times that could not be read, the most frequent first."""
    rows = db.execute(
        "SELECT source, form, sum(n)::BIGINT AS n FROM feedback_undated GROUP BY ALL ORDER BY n DESC, source, form"
    ).fetchall()
    return [(source, form, n) for source, form, n in rows]


def undated_values(db: duckdb.DuckDBPyConnection, source: str, most: int) -> list[str]:
    """Some of the times of a source that could not be read, as they were given."""
    rows = db.execute(
        """
        SELECT DISTINCT attributes->>'$.created_at' FROM feedback
        WHERE source = ? AND created_at IS NULL AND json_exists(attributes, '$.created_at') LIMIT ?
        """,
        [source, most],
    ).fetchall()
    return [value for (value,) in rows]


def record_redated(
    db: duckdb.DuckDBPyConnection, sha256: str, source: str, dating: str, dated: pa.Table, forms: Mapping[str, int]
) -> None:
    """Give rows of a file their time, and count what is left.

    Args:
        dating: fingerprint of the settings that were tried.
        dated: ``feedback_id``, ``created_at`` and the ``attributes`` that are left.
        forms: of the rows that are still without a time.
    """
    db.register("_dated", _add_content(db, dated))
    db.execute(
        """
        UPDATE feedback SET created_at = d.created_at, attributes = d.attributes,
            identity = CASE WHEN identity LIKE 'row:%' THEN 'row:' || d.content || ':' || split_part(identity, ':', 3)
                ELSE identity END
        FROM _dated d WHERE feedback.feedback_id = d.feedback_id
        """
    )
    db.unregister("_dated")
    recount_undated(db, sha256, source, forms)
    db.execute("UPDATE ingested_files SET dating = ? WHERE file_sha256 = ?", [dating, sha256])


def _add_content(db: duckdb.DuckDBPyConnection, dated: pa.Table) -> pa.Table:
    """The rows with the ``content`` that they have together with their texts."""
    db.register("_dated", dated)
    rows = fetch(db, "SELECT feedback.rowid AS place, _dated.* FROM _dated JOIN feedback USING (feedback_id)")
    db.unregister("_dated")
    return add_computed(db, "feedback", rows, "content", content_of())


def recount_undated(db: duckdb.DuckDBPyConnection, sha256: str, source: str, forms: Mapping[str, int]) -> None:
    """Store how many rows of a file are without a readable time, by the form of that time."""
    db.execute("DELETE FROM feedback_undated WHERE source_sha256 = ?", [sha256])
    insert_rows(db, [FeedbackUndated(source_sha256=sha256, source=source, form=form, n=n) for form, n in forms.items()])
    db.execute("UPDATE ingested_files SET rows_undated = ? WHERE file_sha256 = ?", [sum(forms.values()), sha256])
