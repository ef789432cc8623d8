"""Rows on disk: all of them once, equal texts behind each other, whatever order and however many parts."""

from __future__ import annotations

import random
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pytest

from emotion_assets.scoring import spool
from emotion_assets.scoring.spool import Spool

TEXTS = [f"text {n}" for n in range(40)]


def batch(rows: list[tuple[str, str]]) -> pa.RecordBatch:
    """Texts and ids; the probabilities of every third text are known."""
    known = [[0.25, 0.75] if TEXTS.index(text) % 3 == 0 else None for text, _ in rows]
    return pa.RecordBatch.from_pydict(
        {
            "text": [text for text, _ in rows],
            "text_hash": pa.array([hash(text) % 2**64 for text, _ in rows], pa.uint64()),
            "feedback_id": [identity for _, identity in rows],
            "probabilities": pa.array(known, pa.list_(pa.float32())),
        }
    )


def read(spooled: Spool) -> list[dict]:
    return [row for part in spooled.read() for row in part.to_pylist()]


@pytest.mark.parametrize("size", [0, 20_000])
def test_equal_texts_come_behind_each_other_and_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(spool, "PART_BYTES", 2000)
    monkeypatch.setattr(spool, "ROWS_PER_BATCH", 7)
    rows = [(text, f"r{n}{text}") for text in TEXTS for n in range(5)]
    random.Random(7).shuffle(rows)
    with (tmp_path / "spool").open("w+b") as file:
        spooled = Spool(file, size)
        for first in range(0, len(rows), 30):
            spooled.add(batch(rows[first : first + 30]))
        got = read(spooled)
    assert sorted((row["text"], row["feedback_id"]) for row in got) == sorted(rows)
    runs = [text for text, _ in groupby(row["text"] for row in got)]
    assert len(runs) == len(TEXTS)
    assert (runs == sorted(runs)) == (size == 0)  # one part is sorted as a whole
    assert list(got[0]) == ["text", "feedback_id", "probabilities"]
    assert {row["text"] for row in got if row["probabilities"] == [0.25, 0.75]} == set(TEXTS[::3])


def test_a_spool_begins_its_file_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PART_BYTES", 1)  # each batch is written at once
    with (tmp_path / "spool").open("w+b") as file:
        cut_off = Spool(file, 0)
        cut_off.add(batch([(text, text) for text in TEXTS]))
        assert file.tell() > 0
        first = Spool(file, 0)
        first.add(batch([(text, text) for text in TEXTS[:20]]))
        del cut_off
        assert len(read(first)) == 20
        second = Spool(file, 0)
        second.add(batch([(TEXTS[1], "a")]))
        assert [row["feedback_id"] for row in read(second)] == ["a"]
        assert read(Spool(file, 0)) == []
