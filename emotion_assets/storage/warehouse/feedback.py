"""The statements of the feedback group: files and rows in, scores in, and what is still to be scored.

Every function takes an open connection and works on whole tables of rows by joins; none loops over rows. Those that
write belong inside ``Warehouse.writing``, so that what they write is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import count, fetch, insert

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


def known_files(db: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, str]]:
    """Status and reading fingerprint of every file content seen so far, by sha256."""
    rows = db.execute("SELECT file_sha256, status, reading FROM ingested_files").fetchall()
    return {sha: (status, reading) for sha, status, reading in rows}


def is_settled(known: Mapping[str, tuple[str, str]], sha256: str, reading: str) -> bool:
    """Whether a file needs no reading: ingested, or quarantined under the very reading settings of now."""
    status, under = known.get(sha256, ("", ""))
    return status == "ingested" or (status == "quarantined" and under == reading)


def store_file(db: duckdb.DuckDBPyConnection, file: FileRecord, staged: pa.RecordBatchReader) -> FileCounts | None:
    """Judge and store all rows of a file; None if another run has stored the file meanwhile.

    An id that is new is accepted at its first row. The same id with the same text is a duplicate; with another text it
    is rejected as ``id_conflict``.
    """
    if is_settled(known_files(db), file.sha256, file.reading):
        return None
    db.register("_staged", staged)
    db.execute("CREATE OR REPLACE TEMP TABLE staged AS SELECT * FROM _staged")
    db.unregister("_staged")
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


def store_quarantine(db: duckdb.DuckDBPyConnection, file: FileRecord, reason: str) -> bool:
    """Note that a file cannot be read; False if another run has stored the file meanwhile."""
    if is_settled(known_files(db), file.sha256, file.reading):
        return False
    _record_file(db, file, "quarantined", reason, FileCounts())
    return True


def _record_file(
    db: duckdb.DuckDBPyConnection, file: FileRecord, status: str, reason: str | None, counts: FileCounts
) -> None:
    db.execute("DELETE FROM ingested_files WHERE file_sha256 = ?", [file.sha256])
    db.execute(
        """
        INSERT INTO ingested_files BY NAME SELECT $sha AS file_sha256, $name AS file_name, $status AS status,
            $reason AS reason, $read AS rows_read, $accepted AS rows_accepted, $duplicate AS rows_duplicate,
            $rejected AS rows_rejected, $now AS ingested_at, $run AS run_id, $size AS size_bytes, $reading AS reading
        """,
        {
            "sha": file.sha256,
            "name": file.name,
            "status": status,
            "reason": reason,
            "read": counts.read,
            "accepted": counts.accepted,
            "duplicate": counts.duplicate,
            "rejected": counts.rejected,
            "now": file.now,
            "run": file.run_id,
            "size": file.size,
            "reading": file.reading,
        },
    )


def record_model(db: duckdb.DuckDBPyConnection, row: Mapping[str, Any]) -> int:
    """Make a model version the one that scores feedback: its row gets the highest ``place``. How many of its scores got
    another status, because its threshold or temperature is another than it was."""
    version = row["model_version"]
    query = "SELECT temperature, threshold FROM scoring_models WHERE model_version = ?"
    known = db.execute(query, [version]).fetchall()
    db.execute("DELETE FROM scoring_models WHERE model_version = ?", [version])
    highest = count(db, "SELECT coalesce(max(place), 0) FROM scoring_models")
    insert(db, "scoring_models", pa.Table.from_pylist([{**row, "place": highest + 1}]))
    if not known or known[0] == (row["temperature"], row["threshold"]):
        return 0
    if known[0][0] != row["temperature"]:
        _rescale(db, version, known[0][0] / row["temperature"])
    return _rejudge(db, version, row["threshold"])


def _rescale(db: duckdb.DuckDBPyConnection, version: str, power: float) -> None:
    """Read a version's stored probabilities with another temperature: as ``ml.metrics.scale``, so the order stays."""
    db.execute(
        """
        UPDATE scored_feedback SET
            probabilities = list_transform(powers, lambda p: (p / list_sum(powers))::FLOAT),
            confidence = (list_max(powers) / list_sum(powers))::FLOAT
        FROM (
            SELECT feedback_id, list_transform(probabilities, lambda p: pow(p::DOUBLE, $power)) AS powers
            FROM scored_feedback WHERE model_version = $version
        ) raised
        WHERE scored_feedback.feedback_id = raised.feedback_id AND model_version = $version
        """,
        {"version": version, "power": power},
    )


def _rejudge(db: duckdb.DuckDBPyConnection, version: str, threshold: float) -> int:
    """Status of a version's scores by another threshold; how many changed. The rows that now abstain join the queue.

    A queued row that is answered now stays there: its line may be out with a person, whose label must find it.
    """
    judged = """
        SELECT feedback_id, CASE WHEN confidence < $threshold THEN 'abstain' WHEN truncated THEN 'truncated'
            ELSE 'ok' END AS judgement
        FROM scored_feedback WHERE model_version = $version AND status <> judgement
    """
    db.execute(f"CREATE OR REPLACE TEMP TABLE rejudged AS {judged}", {"version": version, "threshold": threshold})
    db.execute(
        """
        UPDATE scored_feedback SET status = judgement FROM rejudged
        WHERE scored_feedback.feedback_id = rejudged.feedback_id AND model_version = $version
        """,
        {"version": version},
    )
    db.execute(
        """
        INSERT INTO review_queue BY NAME
        SELECT feedback_id, f.text, s.emotion, s.confidence, 'abstain' AS reason, false AS audit
        FROM scored_feedback s JOIN rejudged USING (feedback_id) JOIN feedback f USING (feedback_id)
        ANTI JOIN review_queue USING (feedback_id)
        WHERE s.model_version = $version AND s.status = 'abstain' ORDER BY feedback_id
        """,
        {"version": version},
    )
    changed = count(db, "SELECT count(*) FROM rejudged")
    db.execute("DROP TABLE rejudged")
    return changed


def current_model(db: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    """The row of ``scoring_models`` with the highest place."""
    found = fetch(db, "SELECT * EXCLUDE (place) FROM scoring_models ORDER BY place DESC LIMIT 1").to_pylist()
    return found[0] if found else None


_UNSCORED = "SELECT feedback_id, text FROM feedback ANTI JOIN scored_feedback USING (feedback_id)"
_TO_RESCORE = """
    SELECT feedback_id, text FROM feedback JOIN feedback_moments USING (feedback_id)
    SEMI JOIN scored_feedback USING (feedback_id)
    ANTI JOIN (SELECT feedback_id FROM scored_feedback WHERE model_version = $version) USING (feedback_id)
    WHERE moment >= $since
"""


def _waiting(version: str, since: date | None) -> tuple[str, dict[str, Any]]:
    """Rows that no model has scored yet, and with ``since`` those made since then that this version has not scored."""
    if since is None:
        return _UNSCORED, {}
    return f"{_UNSCORED} UNION ALL {_TO_RESCORE}", {"version": version, "since": since}


def count_waiting(db: duckdb.DuckDBPyConnection, version: str = "", since: date | None = None) -> int:
    """How many rows are to be scored: those that no model has scored yet, and with ``since`` those made since then
    that this model version has not scored."""
    query, parameters = _waiting(version, since)
    return count(db, f"SELECT count(*) FROM ({query})", parameters)


def waiting_texts(
    db: duckdb.DuckDBPyConnection, version: str, since: date | None, rows_per_batch: int
) -> pa.RecordBatchReader:
    """The rows to be scored, equal texts behind each other, and where this model version has scored the same text
    before, the ``probabilities`` and ``truncated`` of then. Streams; read it before using ``db`` again.

    Sorting, unlike grouping into lists, can leave memory for the disk.
    """
    waiting, parameters = _waiting(version, since)
    query = f"""
        WITH waiting AS ({waiting}),
        known AS (
            SELECT f.text, any_value(s.probabilities) AS probabilities, any_value(s.truncated) AS truncated
            FROM scored_feedback s JOIN feedback f USING (feedback_id)
            WHERE s.model_version = $version AND f.text IN (SELECT text FROM waiting)
            GROUP BY f.text
        )
        SELECT text, feedback_id, probabilities, truncated FROM waiting LEFT JOIN known USING (text)
        ORDER BY text, feedback_id
    """
    return db.sql(query, params={**parameters, "version": version}).to_arrow_reader(rows_per_batch)


def store_scores(db: duckdb.DuckDBPyConnection, scores: pa.Table, queue: pa.Table) -> int:
    """Append the scores that are not there yet, and queue their rows for review; how many scores were new.

    ``scores`` has the columns of ``scored_feedback``; ``queue`` those of ``review_queue`` that are known before review.
    """
    db.register("_scores", scores)
    db.register("_queue", queue)
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE fresh AS
        SELECT _scores.* FROM _scores ANTI JOIN scored_feedback USING (feedback_id, model_version)
        """
    )
    db.execute("INSERT INTO scored_feedback BY NAME SELECT * FROM fresh")
    db.execute(
        """
        INSERT INTO review_queue BY NAME
        SELECT q.* FROM _queue q SEMI JOIN fresh USING (feedback_id) ANTI JOIN review_queue r USING (feedback_id)
        """
    )
    stored = count(db, "SELECT count(*) FROM fresh")
    db.execute("DROP TABLE fresh")
    db.unregister("_scores")
    db.unregister("_queue")
    return stored


def churn(db: duckdb.DuckDBPyConnection, version: str) -> list[dict[str, Any]]:
    """How scores changed against the newest earlier model, over the rows that both have scored.

    Keys: before, after (emotions), n, newly_unsure (rows that now abstain), newly_sure.
    """
    changes: list[dict[str, Any]] = fetch(
        db,
        """
        WITH mine AS (SELECT * FROM scored_feedback WHERE model_version = $version),
        place AS (SELECT place FROM scoring_models WHERE model_version = $version),
        earlier AS (
            SELECT s.* FROM scored_feedback s JOIN scoring_models m USING (model_version)
            WHERE m.place < (SELECT place FROM place) AND feedback_id IN (SELECT feedback_id FROM mine)
            QUALIFY row_number() OVER (PARTITION BY s.feedback_id ORDER BY m.place DESC) = 1
        )
        SELECT earlier.emotion AS before, mine.emotion AS after, count(*) AS n,
            count(*) FILTER (mine.status = 'abstain' AND earlier.status <> 'abstain') AS newly_unsure,
            count(*) FILTER (mine.status <> 'abstain' AND earlier.status = 'abstain') AS newly_sure
        FROM mine JOIN earlier USING (feedback_id)
        GROUP BY ALL ORDER BY n DESC, before, after
        """,
        {"version": version},
    ).to_pylist()
    return changes


def table_rows(db: duckdb.DuckDBPyConnection, table: str, rows_per_batch: int) -> pa.RecordBatchReader:
    """All rows of a table. Streams; read it before using ``db`` again."""
    return db.sql(f'SELECT * FROM "{table}"').to_arrow_reader(rows_per_batch)


def score_rows(db: duckdb.DuckDBPyConnection, rows_per_batch: int) -> pa.RecordBatchReader:
    """Each scored row with its text and its newest score, as a person wants it. Streams; read it before using ``db``
    again."""
    query = """
        SELECT f.feedback_id, f.created_at, f.received_at, f.text, s.emotion, s.confidence, s.status, s.model_version,
            s.scored_at, f.attributes
        FROM latest_scores s JOIN feedback f USING (feedback_id)
    """
    return db.sql(query).to_arrow_reader(rows_per_batch)


def feedback_totals(db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What the UI shows of the table ``feedback``: rows, columns, rejects by reason, the newest rows."""
    rows = count(db, "SELECT count(*) FROM feedback")
    return {
        "rows": rows,
        "columns": _columns(db, "feedback"),
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


def score_totals(db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What the UI shows of the table ``scored_feedback``: rows, columns, emotions by newest score, the open queue."""
    rows = count(db, "SELECT count(*) FROM scored_feedback")
    in_review = count(db, "SELECT count(*) FROM review_queue WHERE label IS NULL")
    return {
        "rows": rows,
        "columns": _columns(db, "scored_feedback"),
        "in_review": in_review,
        "emotions": fetch(
            db,
            """
            SELECT emotion, count(*) AS n, avg(confidence) AS mean_confidence,
                count(*) FILTER (status = 'abstain') AS abstained
            FROM latest_scores GROUP BY ALL ORDER BY n DESC, emotion
            """,
        ).to_pylist(),
    }


def _columns(db: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    return {name: kind.lower() for name, kind, *_ in db.execute(f'DESCRIBE "{table}"').fetchall()}


def queued_texts(db: duckdb.DuckDBPyConnection, reviewed: bool = False) -> pa.Table:
    """The texts of the review queue, each once; ``reviewed`` adds those that have a label.

    The audit sample comes first, in random order: a person who stops half-way leaves a random part of it.

    ``review_id`` is derived from the text and is nothing that a spreadsheet takes for a number or a formula.
    """
    query = """
        SELECT 'r' || md5(text) AS review_id, text, any_value(emotion) AS emotion, any_value(confidence) AS confidence,
            CASE WHEN bool_or(audit) THEN 'audit' ELSE 'abstain' END AS reason, count(*) AS rows,
            '' AS label, '' AS reviewer, '' AS reviewed_at
        FROM review_queue WHERE $reviewed OR label IS NULL
        GROUP BY text ORDER BY reason DESC, review_id
    """
    return fetch(db, query, {"reviewed": reviewed})


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


def reviews_print(db: duckdb.DuckDBPyConnection) -> str:
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
