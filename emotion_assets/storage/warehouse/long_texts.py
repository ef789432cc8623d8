"""Read the texts of many rows within the database's memory, however long they are.

DuckDB keeps long texts in memory while it sorts, groups or joins them. So which rows, and in what order, is asked
without their texts first; then the texts come slice by slice.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa

SLICE_BYTES = 64_000_000
_SIZES = """
    WITH sizes AS MATERIALIZED (SELECT rowid AS place, strlen(text) AS size FROM "{table}")
    SELECT place, size FROM sizes
"""
"""Each row's bytes of text. Materialised, or DuckDB puts the texts themselves into the joins that follow."""


def read_in_slices(db: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> Iterator[pa.Table]:
    """The given rows of a table with their ``text``, in the given order, as many at a time as have ``SLICE_BYTES``; no
    rows are one slice without rows.

    Args:
        rows: ``place``, the row's ``rowid`` in ``table``, which is left out of the answer; other columns stay.
    """
    columns = [*(name for name in rows.column_names if name != "place"), "text"]
    if not rows.num_rows:
        yield rows.append_column("text", pa.array([], pa.string())).select(columns)
        return
    for part in _slices(rows, _text_bytes(db, table, rows)):
        db.register("_slice", part.append_column("nth", pa.array(range(part.num_rows))))
        query = f'SELECT _slice.*, text FROM "{table}" t JOIN _slice ON t.rowid = place ORDER BY nth'
        read = db.sql(query).to_arrow_table().select(columns)
        db.unregister("_slice")
        yield read


def add_computed(db: duckdb.DuckDBPyConnection, table: str, rows: pa.Table, name: str, expression: str) -> pa.Table:
    """The given rows, as for ``read_in_slices``, with what an SQL ``expression`` makes of their ``text``."""
    parts = []
    for part in read_in_slices(db, table, rows):
        db.register("_part", part)
        parts.append(db.sql(f"SELECT * EXCLUDE (text), {expression} AS {name} FROM _part").to_arrow_table())
        db.unregister("_part")
    return pa.concat_tables(parts)


def _text_bytes(db: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> np.ndarray:
    """The bytes of each row's text."""
    db.register("_places", rows.select(["place"]).append_column("nth", pa.array(range(rows.num_rows))))
    query = f"SELECT size FROM ({_SIZES}) JOIN _places USING (place) ORDER BY nth".format(table=table)
    sizes: np.ndarray = db.sql(query).to_arrow_table()["size"].to_numpy()
    db.unregister("_places")
    return sizes


def _slices(rows: pa.Table, sizes: np.ndarray) -> Iterator[pa.Table]:
    """Parts behind each other of at most ``SLICE_BYTES``, or of one row that has more."""
    ends = np.cumsum(sizes)
    first = 0
    while first < rows.num_rows:
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + SLICE_BYTES, side="right")))
        yield rows.slice(first, last - first)
        first = last
