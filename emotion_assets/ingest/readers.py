"""Reading one feedback file, whatever its format: the only entrance is ``read_feedback``.

Belongs here: opening the file, which format it has, what no format can start with. Does not belong here: the formats
themselves (``csv_reader``, ``jsonl_reader``, ``parquet_reader``).

The format is what the bytes say, so that a file's outcome does not depend on its name: Parquet starts with its magic
bytes, a CSV file's first line names a column ``text``, a JSONL file starts with a brace. Only where the bytes say none
of these does the name decide what the file was meant to be, and so what is reported about it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from emotion_assets.ingest.csv_reader import csv_rows, read_header
from emotion_assets.ingest.inbox import Unavailable, open_regular, safe_text
from emotion_assets.ingest.jsonl_reader import jsonl_rows
from emotion_assets.ingest.lines import numbered_lines
from emotion_assets.ingest.parquet_process import MAGIC as PARQUET_MAGIC
from emotion_assets.ingest.parquet_process import parquet_rows_apart
from emotion_assets.ingest.rows import Accepted, Quarantine, Reason, Rejected
from emotion_assets.settings.schema import FeedbackSettings

__all__ = ["Accepted", "Quarantine", "Reason", "Rejected", "Unavailable", "read_feedback"]

_HEAD_BYTES = 4096
_ARCHIVE_MAGIC = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf",
    b"Rar!",
)
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def read_feedback(path: Path, settings: FeedbackSettings) -> Iterator[Accepted | Rejected]:
    """Every row of a CSV, JSONL or Parquet file in the file's order, in bounded memory.

    Nothing is left out: each row comes as Accepted or as Rejected, and what is yielded depends on the file's bytes and
    the settings alone. Blank lines are not rows.

    Raises:
        Quarantine: the file as a whole cannot be read; this may come after rows, which must then not be kept.
        Unavailable: it cannot be opened or read now; nothing is said about its content.
    """
    try:
        with open_regular(path) as stream:
            yield from _rows(stream, path.suffix.lower(), settings)
    except OSError as error:
        raise Unavailable(f"{safe_text(path.name)}: {error.strerror}; it is tried again at the next tick") from None


def _rows(stream: BinaryIO, suffix: str, settings: FeedbackSettings) -> Iterator[Accepted | Rejected]:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    if head.startswith(PARQUET_MAGIC):
        yield from parquet_rows_apart(stream, settings)
        return
    _check_head(head, settings.encoding)
    lines = numbered_lines(stream, settings.encoding, settings.max_row_bytes)
    first = next((line for line in lines if line.content.strip()), None)
    if first is None:
        raise Quarantine(Reason.EMPTY_FILE, "holds nothing but blanks; deliver it again with its rows")
    try:
        header = read_header(first, settings)
    except Quarantine as no_csv:
        if suffix in (".jsonl", ".ndjson") or first.content.lstrip().startswith(b"{"):
            yield from jsonl_rows(chain([first], lines), settings)
            return
        if suffix == ".parquet":
            raise Quarantine(Reason.CORRUPT_PARQUET, "does not start as a Parquet file; export it again") from None
        raise no_csv from None
    yield from csv_rows(lines, header, settings)


def _check_head(head: bytes, encoding: str) -> None:
    if not head:
        raise Quarantine(Reason.EMPTY_FILE, "0 bytes; deliver it again with its rows")
    if head.startswith(_ARCHIVE_MAGIC):
        raise Quarantine(Reason.ARCHIVE, "an archive or compressed file whatever its name; unpack it into the inbox")
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return
    if head.startswith(_WIDE_MARKS) or head.count(0) * 4 > len(head):
        raise Quarantine(
            Reason.WRONG_ENCODING,
            f"looks like UTF-16 or binary data, not {encoding}; set feedback.encoding or save as UTF-8",
        )
