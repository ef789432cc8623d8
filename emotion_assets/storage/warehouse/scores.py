"""The statements of scoring: the model that scores, what is still to be scored, scores in.

Every function takes an open connection and works on whole tables of rows by joins; none loops over rows. Those that
write belong inside ``Warehouse.writing``, so that what they write is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emotion_assets.storage.warehouse import long_texts
from emotion_assets.storage.warehouse.database import count, fetch, insert, insert_rows
from emotion_assets.storage.warehouse.memory import joins_as_written, stream, windows
from emotion_assets.storage.warehouse.tables import ScoringModel

BATCH_ROWS = 65_536

Decide = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Probabilities ``[n, labels]``, truncated ``[n]`` and a threshold -> statuses ``[n]``."""


def record_model(db: duckdb.DuckDBPyConnection, model: ScoringModel, decide: Decide) -> int:
    """Make a model version the one that scores feedback: its row gets the highest ``place``, whatever ``model`` says.

    Where threshold, temperature or rule are others than they were, its scores are decided again; returns how many of
    them got another status.
    """
    version = model.model_version
    query = "SELECT temperature, threshold, decision_rule FROM scoring_models WHERE model_version = ?"
    before = db.execute(query, [version]).fetchall()
    db.execute("DELETE FROM scoring_models WHERE model_version = ?", [version])
    highest = count(db, "SELECT coalesce(max(place), 0) FROM scoring_models")
    insert_rows(db, [replace(model, place=highest + 1)])
    if not before or before[0] == (model.temperature, model.threshold, model.decision_rule):
        return 0
    if before[0][0] != model.temperature:
        _rescale(db, version, before[0][0] / model.temperature)
    return _decide_again(db, model, decide)


def _rescale(db: duckdb.DuckDBPyConnection, version: str, power: float) -> None:
    """Read a version's stored probabilities with another temperature, as ``evaluation.metrics.scale`` does."""
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


def _decide_again(db: duckdb.DuckDBPyConnection, model: ScoringModel, decide: Decide) -> int:
    """Give a version's scores the status that is decided now; returns how many changed.

    Rows that now abstain join the review queue. A queued row that is answered now stays there: its line may be out with
    a person, whose label must find it. Memory is taken by the rows that change, not by those that are looked at.
    """
    query = "SELECT feedback_id, probabilities, truncated, status FROM scored_feedback WHERE model_version = $version"
    parameters = {"version": model.model_version}
    changes = [pa.table({"feedback_id": pa.array([], pa.string()), "decided": pa.array([], pa.string())})]
    for batch in stream(db, query, parameters, BATCH_ROWS):
        probabilities = batch["probabilities"].flatten().to_numpy().reshape(batch.num_rows, -1)
        truncated = batch["truncated"].to_numpy(zero_copy_only=False)
        decided = pa.array(decide(probabilities, truncated, model.threshold).astype(object), pa.string())
        rows = pa.table({"feedback_id": batch["feedback_id"], "decided": decided})
        changes.append(rows.filter(pc.not_equal(decided, batch["status"])))
    changed = pa.concat_tables(changes)
    db.register("_changed", changed)
    db.execute(
        """
        UPDATE scored_feedback SET status = decided FROM _changed
        WHERE scored_feedback.feedback_id = _changed.feedback_id AND model_version = $version
        """,
        parameters,
    )
    unsure = fetch(
        db,
        """
        SELECT f.rowid AS place, feedback_id, s.emotion, s.confidence, 'abstain' AS reason, false AS audit
        FROM scored_feedback s JOIN _changed USING (feedback_id) JOIN feedback f USING (feedback_id)
        ANTI JOIN review_queue USING (feedback_id)
        WHERE s.model_version = $version AND s.status = 'abstain' ORDER BY feedback_id
        """,
        parameters,
    )
    db.unregister("_changed")
    for part in long_texts.read_in_slices(db, "feedback", unsure):
        insert(db, "review_queue", part)
    return int(changed.num_rows)


def current_model(db: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    """The row of ``scoring_models`` with the highest place."""
    models = fetch(db, "SELECT * EXCLUDE (place) FROM scoring_models ORDER BY place DESC LIMIT 1").to_pylist()
    return models[0] if models else None


_UNSCORED = "SELECT * FROM ({rows}) ANTI JOIN scored_feedback USING (feedback_id)"


_TO_RESCORE = """
    SELECT waiting.* FROM ({rows}) waiting JOIN feedback_moments USING (feedback_id)
    SEMI JOIN scored_feedback USING (feedback_id)
    ANTI JOIN (SELECT feedback_id FROM scored_feedback WHERE model_version = $version) USING (feedback_id)
    WHERE moment >= $since
"""


_IN_WINDOW = """
    feedback.rowid BETWEEN $first AND $last
    AND feedback.rowid IN (SELECT place FROM waiting WHERE place BETWEEN $first AND $last)
"""


def _waiting(
    version: str, since: date | None, rows: str = "SELECT feedback_id FROM feedback"
) -> tuple[str, dict[str, Any]]:
    """Of these ``rows`` those that no model has scored yet, and with ``since`` those made since then that this version
    has not scored."""
    if since is None:
        return _UNSCORED.format(rows=rows), {}
    return f"{_UNSCORED} UNION ALL {_TO_RESCORE}".format(rows=rows), {"version": version, "since": since}


def count_waiting(db: duckdb.DuckDBPyConnection, version: str = "", since: date | None = None) -> int:
    """How many rows are to be scored: those that no model has scored yet, and with ``since`` those made since then
    that this model version has not scored."""
    query, parameters = _waiting(version, since)
    return count(db, f"SELECT count(*) FROM ({query})", parameters)


def list_waiting(db: duckdb.DuckDBPyConnection, version: str, since: date | None) -> tuple[int, int]:
    """Make the temporary table ``waiting`` of the rows that ``count_waiting`` counts; returns how many they are, and
    how many bytes of text they have."""
    query, parameters = _waiting(version, since, "SELECT feedback_id, rowid AS place FROM feedback")
    db.execute(f"CREATE OR REPLACE TEMP TABLE waiting AS SELECT place FROM ({query})", parameters or None)
    size = f"SELECT coalesce(sum(strlen(text)), 0)::BIGINT FROM feedback WHERE {_IN_WINDOW}"
    with joins_as_written(db):
        return count(db, "SELECT count(*) FROM waiting"), sum(count(db, size, window) for window in _windows(db))


def waiting_since(db: duckdb.DuckDBPyConnection, before: datetime) -> tuple[int, datetime | None]:
    """How many rows received before then no model has scored yet, and when the oldest of them was received."""
    query, _ = _waiting("", None, "SELECT feedback_id, received_at FROM feedback")
    received = f"SELECT count(*), min(received_at) FROM ({query}) WHERE received_at < ?"
    rows, oldest = db.execute(received, [before]).fetchall()[0]
    return rows, oldest


def waiting_texts(db: duckdb.DuckDBPyConnection, version: str, rows_per_batch: int) -> Iterator[pa.RecordBatch]:
    """The rows of ``list_waiting`` in no order: ``text``, ``text_hash``, ``feedback_id``, and where this model version
    has scored the same text before, the ``probabilities``, ``truncated`` and ``answered_by`` of then. Streams; read it
    before using ``db`` again.

    Raises:
        duckdb.OutOfMemoryException: texts behind each other are too long for the database's memory.
    """
    query = f"""
        SELECT text, hash(text) AS text_hash, feedback_id, probabilities, truncated, answered_by
        FROM feedback LEFT JOIN known ON md5_number(text) = known.text_md5 WHERE {_IN_WINDOW}
    """
    with joins_as_written(db):
        _list_known(db, version)
        for window in _windows(db):
            yield from stream(db, query, window, rows_per_batch)


def _list_known(db: duckdb.DuckDBPyConnection, version: str) -> None:
    """Make the temporary table ``known``: of the texts that wait those that this version has scored before, by their
    md5, with the answers of then."""
    scored = count(db, "SELECT count(*) FROM scored_feedback WHERE model_version = ?", [version])
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE known AS
        WITH wanted AS MATERIALIZED (
            SELECT DISTINCT md5_number(text) AS text_md5 FROM feedback
            WHERE $scored_before AND rowid IN (SELECT place FROM waiting)
        ),
        same AS MATERIALIZED (
            SELECT feedback_id, text_md5 FROM (SELECT feedback_id, md5_number(text) AS text_md5 FROM feedback)
            WHERE $scored_before AND text_md5 IN (SELECT text_md5 FROM wanted)
        )
        SELECT text_md5, any_value(probabilities) AS probabilities, any_value(truncated) AS truncated,
            any_value(answered_by) AS answered_by
        FROM scored_feedback JOIN same USING (feedback_id) WHERE model_version = $version GROUP BY text_md5
        """,
        {"version": version, "scored_before": scored > 0},
    )


def _windows(db: duckdb.DuckDBPyConnection) -> Iterator[dict[str, int]]:
    """Parameters of ``_IN_WINDOW``, from the first row of the table ``waiting`` to its last."""
    lowest, highest = db.execute("SELECT min(place), max(place) FROM waiting").fetchall()[0]
    return iter(()) if lowest is None else windows(lowest, highest)


def store_scores(db: duckdb.DuckDBPyConnection, scores: pa.Table, queue: pa.Table) -> int:
    """Append the scores that are not there yet, and queue their rows for review; how many scores were new.

    Rows that were forgotten while they were scored are left out.

    ``scores`` has the columns of ``scored_feedback``; ``queue`` those of ``review_queue`` that are known before review.
    """
    db.register("_scores", scores)
    db.register("_queue", queue)
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE fresh AS
        SELECT feedback_id FROM (SELECT feedback_id, model_version FROM _scores)
        SEMI JOIN feedback USING (feedback_id) ANTI JOIN scored_feedback USING (feedback_id, model_version)
        """
    )
    db.execute("INSERT INTO scored_feedback BY NAME SELECT * FROM _scores SEMI JOIN fresh USING (feedback_id)")
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


def score_rows(db: duckdb.DuckDBPyConnection, rows_per_batch: int) -> pa.RecordBatchReader:
    """Each scored row with its text and its newest score, as a person wants it. Streams; read it before using ``db``
    again."""
    query = """
        SELECT f.feedback_id, f.created_at, f.received_at, f.text, s.emotion, s.confidence, s.status, s.model_version,
            s.scored_at, f.attributes
        FROM latest_scores s JOIN feedback f USING (feedback_id)
    """
    return db.sql(query).to_arrow_reader(rows_per_batch)


def score_totals(db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What the UI shows of the table ``scored_feedback``: rows, columns, emotions by newest score, the open queue."""
    rows = count(db, "SELECT count(*) FROM scored_feedback")
    in_review = count(db, "SELECT count(*) FROM review_queue WHERE label IS NULL")
    return {
        "rows": rows,
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
