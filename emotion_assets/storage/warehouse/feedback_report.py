"""What the feedback page asks of the database: counts over time and by attribute, recent rows, rejects, reviews.

Every function but ``prepare`` only reads, and needs ``prepare`` to have been called on the same connection.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import fetch
from emotion_assets.storage.warehouse.long_texts import read_in_slices

Row = dict[str, Any]


def prepare(db: duckdb.DuckDBPyConnection) -> None:
    """The temporary table ``scored``: each scored row's newest answer, and its moment as ``feedback_moments`` says."""
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE scored AS
        SELECT feedback_id, s.emotion, s.confidence, s.status, s.model_version,
            f.moment, f.is_dated
        FROM latest_scores s JOIN feedback_moments f USING (feedback_id)
        """
    )


def overview(db: duckdb.DuckDBPyConnection) -> Row:
    """One row: all, answered and abstained rows, first and last moment, files, rejected and quarantined ones.

    A row whose date cannot be right is neither first nor last, as long as there are others.
    """
    return _rows(
        db,
        """
        SELECT count(*) AS rows, count(*) FILTER (status <> 'abstain') AS answered,
            count(*) FILTER (status = 'truncated') AS truncated,
            coalesce(min(moment) FILTER (is_dated), min(moment)) AS first,
            coalesce(max(moment) FILTER (is_dated), max(moment)) AS last,
            (SELECT count(*) FROM feedback) AS accepted,
            (SELECT count(*) FROM ingested_files) AS files,
            (SELECT count(*) FROM ingested_files WHERE status = 'quarantined') AS quarantined,
            (SELECT coalesce(sum(rows_read), 0)::BIGINT FROM ingested_files) AS read,
            (SELECT coalesce(sum(rows_duplicate), 0)::BIGINT FROM ingested_files) AS duplicates,
            (SELECT count(*) FROM feedback_rejects) AS rejects,
            (SELECT count(*) FROM review_queue WHERE label IS NULL) AS in_review
        FROM scored
        """,
    )[0]


def over_time(db: duckdb.DuckDBPyConnection, unit: str) -> list[Row]:
    """Rows by period (``day``, ``week`` or ``month``, in UTC) and emotion, oldest first."""
    return _rows(
        db,
        """
        SELECT date_trunc($unit, moment)::DATE AS period, emotion, count(*) AS n
        FROM scored GROUP BY ALL ORDER BY period, emotion
        """,
        {"unit": unit},
    )


def emotions_between(db: duckdb.DuckDBPyConnection, start: datetime, end: datetime) -> dict[str, int]:
    """Rows by emotion with a moment after ``start`` and up to ``end``."""
    query = "SELECT emotion, count(*) FROM scored WHERE moment > $start AND moment <= $end GROUP BY ALL"
    return dict(db.execute(query, {"start": start, "end": end}).fetchall())


def by_model(db: duckdb.DuckDBPyConnection) -> list[Row]:
    return _rows(
        db,
        """
        SELECT m.model, m.model_version, m.threshold, m.target_accuracy, m.coverage, m.validation_rows,
            count(s.feedback_id) AS n
        FROM scoring_models m LEFT JOIN scored s USING (model_version)
        GROUP BY ALL ORDER BY any_value(m.place) DESC
        """,
    )


def attribute_names(db: duckdb.DuckDBPyConnection, most: int) -> list[str]:
    """The attributes that most rows have, at most ``most``."""
    query = """
        SELECT name FROM (SELECT unnest(json_keys(attributes)) AS name FROM feedback)
        GROUP BY name ORDER BY count(*) DESC, name LIMIT $most
    """
    return [name for (name,) in db.execute(query, {"most": most}).fetchall()]


def by_attribute(db: duckdb.DuckDBPyConnection, name: str, values: int) -> list[Row]:
    """Rows by value of an attribute and emotion, for the ``values`` most frequent values, ``n`` rows each."""
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    return _rows(
        db,
        """
        WITH given AS (
            SELECT json_extract_string(f.attributes, $pointer)[:60] AS value, s.emotion
            FROM scored s JOIN feedback f USING (feedback_id)
            WHERE json_extract_string(f.attributes, $pointer) <> ''
        ),
        frequent AS (SELECT value, count(*) AS rows FROM given GROUP BY value ORDER BY rows DESC, value LIMIT $values)
        SELECT value, rows, emotion, count(*) AS n, (SELECT count(DISTINCT value) FROM given) AS distinct_values
        FROM given JOIN frequent USING (value) GROUP BY ALL ORDER BY rows DESC, value, emotion
        """,
        {"pointer": pointer, "values": values},
    )


def recent_rows(db: duckdb.DuckDBPyConnection, start: datetime, most: int) -> pa.Table:
    """Emotion, confidence, status and text of the rows since ``start``; of more than ``most``, or more than
    ``long_texts.SLICE_BYTES`` of text, a fixed random sample."""
    query = """
        SELECT f.rowid AS place, s.emotion, s.confidence, s.status
        FROM (SELECT * FROM scored WHERE moment > $start ORDER BY md5(feedback_id) LIMIT $most) s
        JOIN feedback f USING (feedback_id) ORDER BY md5(feedback_id)
    """
    return next(read_in_slices(db, "feedback", fetch(db, query, {"start": start, "most": most})))


def rejects(db: duckdb.DuckDBPyConnection) -> list[Row]:
    """Rejected rows by reason, with one of them."""
    return _rows(
        db,
        """
        SELECT reason_code, count(*) AS n, count(DISTINCT source_sha256) AS files,
            min_by(raw_excerpt, (source_sha256, row_number)) AS excerpt,
            min_by(detail, (source_sha256, row_number)) AS detail
        FROM feedback_rejects GROUP BY reason_code ORDER BY n DESC, reason_code
        """,
    )


def newest_files(db: duckdb.DuckDBPyConnection, most: int) -> list[Row]:
    return _rows(db, "SELECT * FROM ingested_files ORDER BY ingested_at DESC, file_name LIMIT $most", {"most": most})


def reviewed(db: duckdb.DuckDBPyConnection) -> list[Row]:
    """Reviewed texts by ``audit`` and ``answered``: how many there are (``n``) and how often the score was right."""
    return _rows(
        db,
        """
        WITH texts AS (
            SELECT r.text, bool_or(r.audit) AS audit, bool_and(s.status <> 'abstain') AS answered,
                bool_and(r.label = s.emotion) AS is_right
            FROM review_queue r JOIN scored s USING (feedback_id) WHERE r.label IS NOT NULL GROUP BY r.text
        )
        SELECT audit, answered, count(*) AS n, count(*) FILTER (is_right) AS n_right
        FROM texts GROUP BY ALL ORDER BY audit, answered
        """,
    )


def _rows(db: duckdb.DuckDBPyConnection, query: str, parameters: Row | None = None) -> list[Row]:
    rows: list[Row] = fetch(db, query, parameters or ()).to_pylist()
    return rows
