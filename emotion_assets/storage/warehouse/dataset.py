"""The statements of the dataset group."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from emotion_assets.storage.warehouse.database import insert_rows
from emotion_assets.storage.warehouse.tables import ClassBalance


def write_class_balance(db: duckdb.DuckDBPyConnection, rows: Sequence[ClassBalance]) -> None:
    """Replace ``class_balance`` by these rows."""
    db.execute("DELETE FROM class_balance")
    insert_rows(db, rows)
