"""The statements of the dataset group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import insert


def write_class_balance(db: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace ``class_balance`` by rows with the keys split, emotion, n and share (0 to 1)."""
    db.execute("DELETE FROM class_balance")
    columns = ("split", "emotion", "n", "share")
    insert(db, "class_balance", pa.table({name: [row[name] for row in rows] for name in columns}))
