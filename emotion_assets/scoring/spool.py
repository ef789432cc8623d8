"""Rows on disk, read back with equal texts behind each other, in little memory however many they are.

Belongs here: how rows are ordered on disk. Does not belong here: which rows those are (``warehouse.scores``), what is
done with them (``score``).

This is hash partitioning: a row goes to the part that the hash of its text chooses, so equal texts meet in one part,
and a part is small enough to be sorted in memory when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np
import pyarrow as pa

PART_BYTES = 8_000_000
"""Of a part, about; and of the rows that are written together."""
ROWS_PER_BATCH = 1024
ORDER = [("text", "ascending"), ("feedback_id", "ascending")]


class Spool:
    """Rows in a file, from its beginning; what the file held before is gone.

    Args:
        file: open for reading and writing.
        size: bytes that the rows will have, about: they make the number of parts.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        file.seek(0)
        file.truncate()
        self._file = file
        self._parts: list[list[int]] = [[] for _ in range(size // PART_BYTES + 1)]  # numbers of record batches
        self._written = 0
        self._writer: pa.RecordBatchFileWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Append rows with ``text``, ``text_hash`` (whole numbers from 0, equal for equal texts), ``feedback_id`` and
        whatever else; all have the same columns."""
        self._waiting.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= PART_BYTES:
            self._write()

    def read(self) -> Iterator[pa.RecordBatch]:
        """All rows, part by part, without ``text_hash``. Nothing can be added any more."""
        self._write()
        if self._writer is None:
            return
        self._writer.close()
        with pa.ipc.open_file(self._file) as file:
            for numbers in filter(None, self._parts):
                part = pa.Table.from_batches([file.get_batch(number) for number in numbers])
                yield from part.sort_by(ORDER).to_batches(ROWS_PER_BATCH)

    def _write(self) -> None:
        if not self._waiting:
            return
        rows, self._waiting, self._bytes = pa.Table.from_batches(self._waiting), [], 0
        part = rows["text_hash"].to_numpy() % len(self._parts)
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(len(self._parts)), side="right")
        (batch,) = rows.drop_columns(["text_hash"]).take(pa.array(order)).combine_chunks().to_batches()
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(self._file, batch.schema, options=options)
        first = 0
        for numbers, end in zip(self._parts, ends.tolist(), strict=True):
            if end > first:
                self._writer.write_batch(batch.slice(first, end - first))
                numbers.append(self._written)
                self._written += 1
            first = end
