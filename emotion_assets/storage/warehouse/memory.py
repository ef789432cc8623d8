"""Work on many rows, or long ones, in little of the database's memory.

Belongs here: limits of memory, which side of a join is held, results in batches. Does not belong here: reading given
rows with their texts (``long_texts``), what a statement means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import CONFIG

LITTLE_MEMORY = 64_000_000
"""Bytes: see ``limit_memory``."""
WINDOW_ROWS = 250_000
"""Of a table, behind each other, that are joined at once."""
T = TypeVar("T")


def limit_memory(db: duckdb.DuckDBPyConnection, at_hand: int = 0) -> None:
    """Let the database take ``LITTLE_MEMORY`` and as many bytes more as are ``at_hand``, but never more than ``CONFIG``
    says. What it has read of its file it keeps up to the limit: under a high one, memory grows with the file."""
    highest = int(str(CONFIG["memory_limit"]).removesuffix("MB"))
    db.execute(f"SET memory_limit = '{min(highest, (LITTLE_MEMORY + at_hand) // 1_000_000)}MB'")


def in_little_memory(db: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """What ``work`` gives under ``limit_memory``; where texts are too long for that it is done once more with all of
    ``CONFIG['memory_limit']``."""
    limit_memory(db)
    try:
        return work()
    except duckdb.OutOfMemoryException:
        db.execute(f"SET memory_limit = '{CONFIG['memory_limit']}'")
        return work()


@contextmanager
def joins_as_written(db: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """A join holds its right side in memory and streams its left, as written: DuckDB may not swap them by the sizes
    that it expects. So texts, however long, stay out of what is held."""
    db.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
    yield
    db.execute("RESET disabled_optimizers")


def windows(lowest: int, highest: int) -> Iterator[dict[str, int]]:
    """The numbers from ``lowest`` to ``highest`` in ranges of ``WINDOW_ROWS``: ``first`` and ``last`` of each."""
    for first in range(lowest, highest + 1, WINDOW_ROWS):
        yield {"first": first, "last": min(highest, first + WINDOW_ROWS - 1)}


def stream(
    db: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any], rows_per_batch: int
) -> Iterator[pa.RecordBatch]:
    """The result of a query, batch by batch; read it before using ``db`` again.

    Raises:
        duckdb.OutOfMemoryException: it does not fit in the database's memory, which may be found behind the first rows.
    """
    try:
        yield from db.sql(query, params=parameters or None).to_arrow_reader(rows_per_batch)
    except OSError as error:  # what Arrow makes of DuckDB's error
        if "out of memory" in str(error).lower():
            raise duckdb.OutOfMemoryException(str(error)) from error
        raise
