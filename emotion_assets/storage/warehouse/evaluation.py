"""The statements of the evaluation group: figures of models, comparisons, champion decisions.

Rows are plain mappings whose keys are the columns of ``evaluation.sql``. Does not belong here: how a figure is
computed (``ml.metrics``) or a champion chosen (``ml.champion``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import fetch, insert

Rows = Sequence[Mapping[str, Any]]
EvaluationKey = tuple[str, str, str, str]
KEY = ("model", "split", "model_version", "split_fingerprint")
PAIR_KEY = ("split", "split_fingerprint", "model_a", "version_a", "model_b", "version_b")


def known_evaluations(db: duckdb.DuckDBPyConnection) -> set[EvaluationKey]:
    """The keys (model, split, model_version, split_fingerprint) that have their row."""
    return {tuple(row.values()) for row in _rows(db, f"SELECT {', '.join(KEY)} FROM evaluation")}


def add_evaluations(
    db: duckdb.DuckDBPyConnection, evaluations: Rows, by_class: Rows, confusion: Rows, comparisons: Rows
) -> None:
    """Add the rows whose key is not there yet; rows that are there stay as they are."""
    _add_new(db, "evaluation", evaluations, KEY)
    _add_new(db, "evaluation_by_class", by_class, KEY)
    _add_new(db, "confusion", confusion, KEY)
    _add_new(db, "model_comparison", comparisons, PAIR_KEY)


def mark_current(db: duckdb.DuckDBPyConnection, keys: Sequence[EvaluationKey], now: datetime) -> None:
    """Say which evaluations are about the models as they are now; those that were so already keep their date.

    A date is later than all before it, though the clock may have jumped back: the newest rows are found by it.
    """
    (newest,) = db.execute("SELECT max(since) FROM evaluation_current").fetchall()[0]
    if newest is not None:
        now = max(now, newest + timedelta(microseconds=1))
    for model, split, version, fingerprint in keys:
        key = [model, split, version, fingerprint]
        query = f"SELECT model FROM evaluation_current WHERE ({', '.join(KEY)}) = (?, ?, ?, ?)"
        if not db.execute(query, key).fetchall():
            db.execute("DELETE FROM evaluation_current WHERE model = ? AND split = ?", [model, split])
            db.execute("INSERT INTO evaluation_current VALUES (?, ?, ?, ?, ?)", [*key, now])


def read_leaderboard(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The view ``leaderboard``: each model's newest version on test, best first."""
    return _rows(db, "SELECT * FROM leaderboard")


def current_evaluations(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The evaluations, of every model that ever was, that are about the model as it was last evaluated."""
    return _rows(db, f"SELECT e.* FROM evaluation e SEMI JOIN evaluation_current USING ({', '.join(KEY)})")


def evaluations_on(db: duckdb.DuckDBPyConnection, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """Every evaluation, of whatever version, on these very rows, with ``recalls``: label to recall where it occurs."""
    return _rows(
        db,
        """
        SELECT e.*, c.recalls
        FROM evaluation e
        LEFT JOIN (
            SELECT model, split, model_version, split_fingerprint,
                   map(list(emotion ORDER BY emotion), list(recall ORDER BY emotion)) AS recalls
            FROM evaluation_by_class
            WHERE support > 0
            GROUP BY ALL
        ) c USING (model, split, model_version, split_fingerprint)
        WHERE e.split = ? AND e.split_fingerprint = ?
        ORDER BY e.evaluated_at, e.model
        """,
        [split, split_fingerprint],
    )


def classes_on(db: duckdb.DuckDBPyConnection, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """``evaluation_by_class`` for these rows."""
    query = "SELECT * FROM evaluation_by_class WHERE split = ? AND split_fingerprint = ?"
    return _rows(db, query, [split, split_fingerprint])


def comparisons_on(db: duckdb.DuckDBPyConnection, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """``model_comparison`` for these rows."""
    query = "SELECT * FROM model_comparison WHERE split = ? AND split_fingerprint = ?"
    return _rows(db, query, [split, split_fingerprint])


def confusion_on(db: duckdb.DuckDBPyConnection, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """``confusion`` for these rows."""
    return _rows(db, "SELECT * FROM confusion WHERE split = ? AND split_fingerprint = ?", [split, split_fingerprint])


def evaluations_of(db: duckdb.DuckDBPyConnection, split: str) -> list[dict[str, Any]]:
    """Every evaluation ever made on a split of that name, newest first."""
    return _rows(db, "SELECT * FROM evaluation WHERE split = ? ORDER BY evaluated_at DESC, model", [split])


def table_schema(db: duckdb.DuckDBPyConnection, table: str) -> pa.Schema:
    """Names and types of a table's or view's columns."""
    return fetch(db, f'SELECT * FROM "{table}" LIMIT 0').schema


def model_versions(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Every model version ever evaluated: model, model_version and model_digest."""
    return _rows(db, "SELECT DISTINCT model, model_version, model_digest FROM evaluation ORDER BY ALL")


def champion_decisions(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """All decisions, oldest first; the last one is in force."""
    return _rows(db, "SELECT * FROM champion_decisions ORDER BY decided_at")


def add_decision(db: duckdb.DuckDBPyConnection, decision: Mapping[str, Any]) -> None:
    insert(db, "champion_decisions", pa.Table.from_pylist([dict(decision)]))


def _add_new(db: duckdb.DuckDBPyConnection, table: str, rows: Rows, key: Sequence[str]) -> None:
    if not rows:
        return
    columns = ", ".join(key)
    there = {tuple(row.values()) for row in _rows(db, f'SELECT DISTINCT {columns} FROM "{table}"')}
    new = [dict(row) for row in rows if tuple(row[name] for name in key) not in there]
    if new:
        insert(db, table, pa.Table.from_pylist(new))


def _rows(db: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fetch(db, query, parameters).to_pylist(maps_as_pydicts="strict")
    return found
