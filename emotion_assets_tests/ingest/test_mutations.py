"""Files damaged at random and files without end: no row is lost, only Quarantine is raised, memory is bounded.

The mutations are seeded. ``EMOTION_MUTATIONS`` sets their number per sample (the long form: thousands).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.forms.parquet import parquet_records
from emotion_assets.forms.problems import Quarantine, Rejected
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.ingest.sources import DEFAULT, make_source
from emotion_assets.settings.feedback import FeedbackSettings

MUTATIONS = int(os.environ.get("EMOTION_MUTATIONS", "150"))
SETTINGS = FeedbackSettings(max_row_bytes=2_000, max_field_bytes=1_000)
ROWS = [
    {"id": str(n), "text": text, "created_at": "2026-01-31T09:00:00Z", "region": "eu"}
    for n, text in enumerate(["so happy", 'he said "no", twice', "two\nlines", "naïve 😀", "שלום", "=1+1", "fine"] * 6)
]
INTERESTING = [
    b'"',
    b"\n",
    b"\r",
    b",",
    b";",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b"[",
    b"\\u",
    b"\\",
    b"PAR1",
    b"NaN",
]


def _samples() -> dict[str, bytes]:
    text = io.StringIO()
    writer = csv.DictWriter(text, ROWS[0], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(ROWS)
    lines = "".join(json.dumps(row, ensure_ascii=place % 2 == 0) + "\n" for place, row in enumerate(ROWS))
    samples = {"sample.csv": text.getvalue().encode(), "sample.jsonl": lines.encode()}
    samples["packed.csv.gz"] = gzip.compress(samples["sample.csv"], mtime=0)
    samples["wide.csv"] = b"\xff\xfe" + text.getvalue().encode("utf-16-le")
    samples["list.json"] = json.dumps(ROWS).encode()
    samples["pretty.json"] = json.dumps(ROWS, indent=1, ensure_ascii=False).encode()
    samples["book.xlsx"] = _workbook()
    for compression in ("none", "zstd", "snappy"):
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(ROWS), buffer, compression=compression, row_group_size=20)
        samples[f"{compression}.parquet"] = buffer.getvalue()
    return samples


def _workbook() -> bytes:
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    for row in [list(ROWS[0]), *(list(row.values()) for row in ROWS)]:
        book.active.append([value if value != "=1+1" else "1+1" for value in row])
    book.save(buffer)
    return buffer.getvalue()


SAMPLES = _samples()


def _mutated(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        place = rng.randrange(len(damaged) + 1)
        kind = rng.randrange(6)
        if kind == 0 and place < len(damaged):
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < len(damaged):
            damaged[place] = rng.randrange(256)
        elif kind == 2:
            damaged[place:place] = rng.choice(INTERESTING)
        elif kind == 3:
            del damaged[place : place + rng.choice([1, 4, 50])]
        elif kind == 4:
            damaged[place:place] = damaged[place : place + rng.choice([1, 30, 300])]
        else:
            del damaged[max(place, 1) if rng.random() < 0.2 else len(damaged) :]
    return bytes(damaged)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_damaged_file_is_read_row_by_row_or_quarantined_and_raises_nothing_else(name: str, tmp_path: Path) -> None:
    rng = random.Random(f"{name} 17")
    path = tmp_path / name
    outcomes = {"read": 0, "quarantined": 0}
    for turn in range(MUTATIONS):
        path.write_bytes(_mutated(SAMPLES[name], rng))
        try:
            rows = list(read_feedback(path, SETTINGS))
        except Quarantine as quarantine:
            assert "\n" not in str(quarantine), turn
            outcomes["quarantined"] += 1
            continue
        outcomes["read"] += 1
        numbers = [row.row_number for row in rows]
        assert numbers == sorted(set(numbers)), turn
        if name.endswith((".parquet", ".json")):
            assert numbers == list(range(1, len(rows) + 1)), turn
        elif name in ("sample.csv", "sample.jsonl"):
            _every_line_is_accounted_for(path.read_bytes(), rows, turn)
        if name == "sample.csv":
            _accepted_rows_are_as_another_parser_reads_them(path.read_bytes(), rows, turn)
        for row in rows:
            if isinstance(row, Accepted):
                row.text.encode()
                json.dumps(row.attributes, allow_nan=False).encode()
            else:
                (row.raw_excerpt + row.detail).encode()
    assert outcomes["read"] > 0 or name == "packed.csv.gz"  # its checksum finds every change
    assert outcomes["quarantined"] > 0 or name == "sample.jsonl"


def test_the_samples_are_read_whole_as_they_are(tmp_path: Path) -> None:
    for name, content in SAMPLES.items():
        (tmp_path / name).write_bytes(content)
        rows = [row for row in read_feedback(tmp_path / name, SETTINGS) if isinstance(row, Accepted)]
        assert [(row.id, row.attributes) for row in rows] == [(row["id"], {"region": "eu"}) for row in ROWS], name


def _every_line_is_accounted_for(content: bytes, rows: list[Accepted | Rejected], turn: int) -> None:
    """Between a row and the next lie only blank lines and the further lines of that row's own quoted text."""
    lines = content.split(b"\n")
    filled = {number for number, line in enumerate(lines, start=1) if line.strip(b"\r \t\x0b\x0c")}
    numbers = [row.row_number for row in rows]
    inside = {
        number
        for start, following in pairwise([*numbers, len(lines) + 1])
        if b'"' in lines[start - 1]
        for number in range(start + 1, following)
        if b'"' in b"".join(lines[number - 1 : following - 1])  # the quote is closed on this line or a later one
    }
    header = {min(filled, default=0)}
    assert filled - set(numbers) - inside - header == set(), turn


def _accepted_rows_are_as_another_parser_reads_them(content: bytes, rows: list[Accepted | Rejected], turn: int) -> None:
    """Another parser, given the lines of an accepted row alone, finds the same text."""
    lines = content.decode("utf-8", "replace").split("\n")
    if lines[0] != "id,text,created_at,region\r":
        return
    for row in rows:
        if isinstance(row, Accepted):
            record = next(csv.reader((line + "\n" for line in lines[row.row_number - 1 :]), strict=True))
            assert record[1] == row.text, turn


def _endless(kind: str) -> Iterator[bytes]:
    if kind == "csv":
        yield b"id,text,created_at\n"
        for block in range(60):
            yield b"".join(b'%d,"row ""%d"" of\nmany",2026-01-31\n' % (n, block) for n in range(1000))
    elif kind == "jsonl":
        for block in range(60):
            yield b"".join(b'{"id": %d, "text": "row %d of many", "x": [1, 2]}\n' % (n, block) for n in range(1000))
    elif kind == "one line":
        yield b"id,text\n1,"
        for _ in range(20):
            yield b"x" * 1_000_000
    elif kind == "one open quote":
        yield b'id,text\n1,"'
        for _ in range(20):
            yield b"line, with some words\n" * 10_000
    elif kind == "newlines in a quote":
        yield b'id,text\n1,"'
        for _ in range(8):
            yield b"\n" * 100_000
        yield b'"\n'


@pytest.mark.parametrize("kind", ["csv", "jsonl", "one line", "one open quote", "newlines in a quote"])
def test_memory_stays_flat_however_long_the_file_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("wb") as stream:
        stream.writelines(_endless(kind))
    size = path.stat().st_size
    settings = FeedbackSettings(max_row_bytes=100_000, max_field_bytes=100_000)
    rows = 0
    tracemalloc.start()
    try:
        for _ in read_feedback(path, settings):
            rows += 1
    except Quarantine as quarantine:
        assert kind == "one open quote", str(quarantine)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert rows == {"csv": 60_000, "jsonl": 60_000, "one line": 1, "newlines in a quote": 1}.get(kind, 0)
    assert size >= 800_000
    assert peak < 2_500_000, f"{peak:,} bytes for a file of {size:,}"


def test_a_parquet_file_of_many_row_groups_is_read_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.parquet"
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for group in range(20):
            ids = list(range(group * 10_000, (group + 1) * 10_000))
            writer.write_table(pa.table({"id": ids, "text": [f"row {n} of many " * 20 for n in ids]}, schema))
    pool = pa.default_memory_pool()
    peaks, before = [], pool.bytes_allocated()
    with path.open("rb") as stream:
        for row in parquet_records(stream, FeedbackSettings(), make_source(FeedbackSettings(), DEFAULT).columns):
            if row[0] % 1000 == 1:
                peaks.append(pool.bytes_allocated() - before)
    assert row[0] == 200_000
    assert max(peaks[-50:]) <= 1.5 * max(peaks[:50])
    assert max(peaks) < 40_000_000
