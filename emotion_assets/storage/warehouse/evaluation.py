"""The statements of the evaluation group: figures of models, comparisons, champion decisions.

What is written is declared in ``tables``; what is read are mappings with the columns of a table or view as keys. Does
not belong here: how a figure is computed (``evaluation.metrics``) or a champion chosen (``evaluation.promotion``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import duckdb

from emotion_assets.settings.versions import METRICS
from emotion_assets.storage.store import fingerprint
from emotion_assets.storage.warehouse.database import fetch, insert_rows
from emotion_assets.storage.warehouse.declaration import Row, columns_of
from emotion_assets.storage.warehouse.tables import (
    Confusion,
    Evaluation,
    EvaluationByClass,
    EvaluationCurrent,
    ModelComparison,
)


class EvaluationKey(NamedTuple):
    """What a row of ``evaluation`` is about: predictions of a model version on some rows, by some metrics."""

    model: str
    split: str
    model_version: str
    split_fingerprint: str
    predictions_digest: str
    metrics_version: str


KEY = EvaluationKey._fields
KEY_COLUMNS = ", ".join(KEY)
PAIR_KEY = (
    *("split", "split_fingerprint", "model_a", "version_a", "predictions_a", "model_b", "version_b", "predictions_b"),
    "metrics_version",
)


@dataclass
class EvaluationRows:
    """New rows for the four tables of an evaluation."""

    evaluations: list[Evaluation] = field(default_factory=list)
    by_class: list[EvaluationByClass] = field(default_factory=list)
    confusion: list[Confusion] = field(default_factory=list)
    comparisons: list[ModelComparison] = field(default_factory=list)


def metrics_version() -> str:
    """Version of the figures: another one when the code of the metrics is declared new, or a column is added."""
    return fingerprint(METRICS, [column.name for column in columns_of(Evaluation)])[:12]


def evaluation_keys(db: duckdb.DuckDBPyConnection) -> set[EvaluationKey]:
    """The keys of all rows of ``evaluation``."""
    return {EvaluationKey(**row) for row in _rows(db, f"SELECT {KEY_COLUMNS} FROM evaluation")}


def add_evaluations(db: duckdb.DuckDBPyConnection, rows: EvaluationRows) -> None:
    """Add the rows whose key is not there yet; rows that are there stay as they are."""
    _add_new(db, rows.evaluations, KEY)
    _add_new(db, rows.by_class, KEY)
    _add_new(db, rows.confusion, KEY)
    _add_new(db, rows.comparisons, PAIR_KEY)


def mark_current(db: duckdb.DuckDBPyConnection, keys: Sequence[EvaluationKey], now: datetime) -> None:
    """Say which evaluations are about the models as they are now; those that were so already keep their date.

    A date is later than all before it, though the clock may have jumped back: the newest rows are found by it.
    """
    (newest,) = db.execute("SELECT max(since) FROM evaluation_current").fetchall()[0]
    if newest is not None:
        now = max(now, newest + timedelta(microseconds=1))
    for key in keys:
        query = f"SELECT model FROM evaluation_current WHERE ({KEY_COLUMNS}) = ({', '.join('?' * len(KEY))})"
        if not db.execute(query, list(key)).fetchall():
            db.execute("DELETE FROM evaluation_current WHERE model = ? AND split = ?", [key.model, key.split])
            insert_rows(db, [EvaluationCurrent(**key._asdict(), since=now)])


def read_leaderboard(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The view ``leaderboard``: each model's newest version on test, best first."""
    return _rows(db, "SELECT * FROM leaderboard")


def current_evaluations(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The evaluations, of every model that ever was, that are about the model as it was last evaluated."""
    return _rows(db, f"SELECT e.* FROM evaluation e SEMI JOIN evaluation_current USING ({KEY_COLUMNS})")


def evaluations_on(db: duckdb.DuckDBPyConnection, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """The evaluation of every model version on these very rows, with ``recalls``: label to recall where it occurs."""
    return _rows(
        db,
        f"""
        SELECT e.* EXCLUDE (current_at, is_current), c.recalls
        FROM newest_evaluations e
        LEFT JOIN (
            SELECT {KEY_COLUMNS}, map(list(emotion ORDER BY emotion), list(recall ORDER BY emotion)) AS recalls
            FROM evaluation_by_class
            WHERE support > 0
            GROUP BY ALL
        ) c USING ({KEY_COLUMNS})
        WHERE e.split = ? AND e.split_fingerprint = ?
        ORDER BY e.evaluated_at, e.model
        """,
        [split, split_fingerprint],
    )


def classes_on(db: duckdb.DuckDBPyConnection, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """``evaluation_by_class`` of every model version on these rows."""
    return _belonging(db, "evaluation_by_class", split, split_fingerprint)


def confusion_on(db: duckdb.DuckDBPyConnection, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """``confusion`` of every model version on these rows."""
    return _belonging(db, "confusion", split, split_fingerprint)


def comparisons_on(db: duckdb.DuckDBPyConnection, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """``model_comparison`` of every pair of model versions on these rows."""
    return _rows(
        db,
        """
        SELECT p.* FROM model_comparison p
        SEMI JOIN newest_evaluations a ON (a.model, a.model_version, a.predictions_digest, a.metrics_version)
            = (p.model_a, p.version_a, p.predictions_a, p.metrics_version)
            AND (a.split, a.split_fingerprint) = (p.split, p.split_fingerprint)
        SEMI JOIN newest_evaluations b ON (b.model, b.model_version, b.predictions_digest, b.metrics_version)
            = (p.model_b, p.version_b, p.predictions_b, p.metrics_version)
            AND (b.split, b.split_fingerprint) = (p.split, p.split_fingerprint)
        WHERE p.split = ? AND p.split_fingerprint = ?
        """,
        [split, split_fingerprint],
    )


def evaluations_of(db: duckdb.DuckDBPyConnection, split: str) -> list[dict[str, Any]]:
    """The evaluation of every model version on every set of rows of a split of that name, newest first."""
    query = """
        SELECT * EXCLUDE (current_at, is_current) FROM newest_evaluations
        WHERE split = ? ORDER BY evaluated_at DESC, model
    """
    return _rows(db, query, [split])


def model_versions(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Every model version ever evaluated: model, model_version and model_digest."""
    return _rows(db, "SELECT DISTINCT model, model_version, model_digest FROM evaluation ORDER BY ALL")


def champion_decisions(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """All decisions, oldest first; the last one is in force."""
    return _rows(db, "SELECT * FROM champion_decisions ORDER BY decided_at")


def _belonging(db: duckdb.DuckDBPyConnection, table: str, split: str, split_fingerprint: str) -> list[dict[str, Any]]:
    """Rows of a table that belongs to ``evaluation``, of the evaluations that count."""
    query = f"""
        SELECT t.* FROM {table} t SEMI JOIN newest_evaluations USING ({KEY_COLUMNS})
        WHERE t.split = ? AND t.split_fingerprint = ?
    """
    return _rows(db, query, [split, split_fingerprint])


def _add_new(db: duckdb.DuckDBPyConnection, rows: Sequence[Row], key: Sequence[str]) -> None:
    if not rows:
        return
    present = {tuple(row.values()) for row in _rows(db, f"SELECT DISTINCT {', '.join(key)} FROM {rows[0].table}")}
    insert_rows(db, [row for row in rows if tuple(getattr(row, name) for name in key) not in present])


def _rows(db: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = fetch(db, query, parameters).to_pylist(maps_as_pydicts="strict")
    return rows
