"""What a table of feedback holds, as one short value: equal for equal rows, in whatever order and whenever they came.

The hashes of the rows are mixed, so that nothing has to be sorted.
"""

from __future__ import annotations

import duckdb

from emotion_assets.storage.store import fingerprint

_FEEDBACK = ("feedback_id", "version::VARCHAR", "text", "created_at::VARCHAR", "attributes::VARCHAR")
_SCORED = ("feedback_id", "model_version", "emotion", "status", "round(confidence, 6)::VARCHAR")


def feedback_version(db: duckdb.DuckDBPyConnection) -> str:
    """Of the accepted rows."""
    return fingerprint(*_mixed(db, "feedback", _FEEDBACK))


def scored_version(db: duckdb.DuckDBPyConnection) -> str:
    """Of the scores, and of the model whose scores count now."""
    newest = db.execute("SELECT max_by(model_version, place) FROM scoring_models").fetchall()
    return fingerprint(*_mixed(db, "scored_feedback", _SCORED), newest[0][0])


def _mixed(db: duckdb.DuckDBPyConnection, table: str, columns: tuple[str, ...]) -> tuple[int, str]:
    """Rows, and the mixed hashes of these columns; a missing value is another one than an empty text."""
    row = ", ".join(f"coalesce({column}, chr(30))" for column in columns)
    query = f"SELECT count(*), coalesce(bit_xor(md5_number_lower(concat_ws(chr(31), {row}))), 0) FROM {table}"
    n, mixed = db.execute(query).fetchall()[0]
    return int(n), f"{mixed:x}"
