"""Texts that together are larger than the database's memory: taken in, scored, exported, reviewed, forgotten."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from emotion_assets.ingest.ledger import ingest
from emotion_assets.ingest.redating import redate
from emotion_assets.review.queue import export_review, import_review
from emotion_assets.scoring import score, spool
from emotion_assets.storage import exports
from emotion_assets.storage.exports import exports_folder
from emotion_assets.storage.warehouse import database, long_texts, memory
from emotion_assets.storage.warehouse.database import WarehouseError, count, fetch
from emotion_assets.storage.warehouse.feedback import STAGED, FileCounts, FileRecord, store_file
from emotion_assets.storage.warehouse.forget import Person, remove_person
from emotion_assets.storage.warehouse.unlabelled import draw_texts
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import drop_csv

ROWS, LETTERS = 16_000, 2000  # of a file: 32 MB


@pytest.fixture
def workspace(make_home: Any, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A home whose database has less memory than a file of texts; DuckDB reads 2,048 of them at a time, 4 MB."""
    monkeypatch.setitem(database.CONFIG, "memory_limit", "32MB")
    monkeypatch.setattr(score, "STORE_BYTES", 2_000_000)
    monkeypatch.setattr(spool, "PART_BYTES", 4_000_000)
    monkeypatch.setattr(exports, "BATCH_BYTES", 4_000_000)
    monkeypatch.setattr(long_texts, "SLICE_BYTES", 4_000_000)
    made: Workspace = make_home(audit_share=1, target_accuracy=0.99)
    return made


def rows(opening: str, **columns: str) -> list[dict[str, str]]:
    """Long texts, each of its own; of ``columns`` the values are formatted with the row's number."""
    return [
        {"text": f"{opening} {i} " + f"{i:08x} " * (LETTERS // 9)}
        | {key: form.format(i) for key, form in columns.items()}
        for i in range(ROWS)
    ]


def take_in(workspace: Workspace) -> list[tuple[int, int, int]]:
    new = ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run").new
    return [(file.counts.accepted, file.counts.duplicate, file.counts.rejected) for file in new]


def test_long_texts_are_taken_in_as_new_rows_as_versions_and_as_duplicates(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", rows("first", id="i{}"))
    assert take_in(workspace) == [(ROWS, 0, 0)]
    drop_csv(workspace, "b.csv", rows("second", id="i{}") + rows("first", id="i{}"))
    assert take_in(workspace) == [(ROWS, ROWS, 0)]
    drop_csv(workspace, "c.csv", rows("third"))
    assert take_in(workspace) == [(ROWS, 0, 0)]
    drop_csv(workspace, "d.csv", [*rows("third"), {"text": "short"}])
    assert take_in(workspace) == [(1, ROWS, 0)]
    with workspace.warehouse.reading() as db:
        assert count(db, "SELECT count(*) FROM feedback WHERE version = 2 AND text LIKE 'second%'") == ROWS
        wrong = "SELECT count(*) FROM feedback WHERE identity LIKE 'id:%' AND split_part(text, ' ', 2) <> identity[5:]"
        assert count(db, wrong) == 0


def test_texts_too_long_for_the_memory_are_one_line_and_lose_nothing(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"text": "short"}])
    drop_csv(workspace, "b.csv", [{"text": f"{i} " + "long " * 10_000} for i in range(2100)])
    with pytest.raises(WarehouseError, match=r"for the 32MB of memory .* lower feedback\.max_field_bytes"):
        take_in(workspace)
    short = Workspace(world.settings(workspace.settings.home, max_field_bytes=40_000))
    assert take_in(short) == [(0, 0, 2100)]
    with workspace.warehouse.reading() as db:
        assert count(db, "SELECT count(*) FROM feedback") == 1


def test_long_texts_are_scored_exported_shown_and_reviewed(workspace: Workspace, tmp_path: Path) -> None:
    drop_csv(workspace, "a.csv", rows("first", id="i{}"))
    world.run_feedback(workspace)
    scores = exports_folder(workspace.warehouse) / "current" / "scores.parquet"
    assert len(set(pq.read_table(scores)["text"].to_pylist())) == ROWS
    groups = pq.ParquetFile(scores).metadata
    assert max(groups.row_group(i).num_rows for i in range(groups.num_row_groups)) <= 4096
    assert len(set(draw_texts(workspace.warehouse, ROWS))) == ROWS
    for name in ("review.csv", "review.xlsx"):
        assert export_review(workspace.warehouse, tmp_path / name, world.LABELS) == ROWS
    filled = pyarrow.csv.read_csv(tmp_path / "review.csv").to_pylist()
    assert len({line["text"] for line in filled}) == ROWS
    label = [{"review_id": line["review_id"], "label": "joy", "reviewer": "ann"} for line in filled]
    pyarrow.csv.write_csv(pa.Table.from_pylist(label), tmp_path / "filled.csv")
    assert import_review(workspace.warehouse, tmp_path / "filled.csv", world.LABELS).labelled_rows == ROWS


def test_long_texts_are_scored_again_and_put_into_the_queue(workspace: Workspace) -> None:
    without_audit = Workspace(world.settings(workspace.settings.home, audit_share=0, target_accuracy=0.1))
    drop_csv(workspace, "a.csv", rows("first", id="i{}", created_at="2026-10-01"))
    world.run_feedback(without_audit)
    world.train_champion(workspace, c=0.5)
    world.run_feedback(without_audit, rescore="since 2026-01-01")
    with workspace.warehouse.reading() as db:
        assert count(db, "SELECT count(*) FROM scored_feedback") == 2 * ROWS
        assert count(db, "SELECT count(*) FROM review_queue") == 0
    strict = Workspace(world.settings(workspace.settings.home, audit_share=0, target_accuracy=1))
    world.run_feedback(strict)
    with strict.warehouse.reading() as db:
        unsure = count(db, "SELECT count(*) FROM scored_feedback WHERE status = 'abstain'")
    with workspace.warehouse.reading() as db:
        assert count(db, "SELECT count(*) FROM review_queue WHERE text LIKE 'first%'") == unsure > 0


def test_long_texts_get_their_date_later_and_are_forgotten(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", rows("first", created_at="07-11-2026 10.30", country="de"))
    assert take_in(workspace) == [(ROWS, 0, 0)]
    dating = {"default": {"created_at_format": "%d-%m-%Y %H.%M"}}
    assert redate(workspace.warehouse, world.settings(workspace.settings.home, sources=dating).feedback) == ROWS
    drop_csv(workspace, "b.csv", rows("first", created_at="2026-11-07T10:30:00Z", country="de"))
    assert take_in(workspace) == [(0, ROWS, 0)]
    with workspace.warehouse.writing() as db:
        removed = remove_person(db, Person(None, attribute=("country", "de")), datetime.now(UTC), 1000)
        assert len(removed.rows) == ROWS
        assert count(db, "SELECT count(*) FROM feedback") == 0


def test_many_short_rows_of_one_file_are_taken_in_in_little_memory(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(database.CONFIG, "memory_limit", "48MB")
    monkeypatch.setattr(memory, "WINDOW_ROWS", 50_000)
    n = 400_000
    query = f"""
        SELECT i AS row_number, NULL AS reason_code, NULL AS detail, NULL AS raw_excerpt, 'r' || i % {n - 10} AS id,
            'text ' || i AS text, NULL AS created_at, '{{}}' AS attributes, NULL AS undated FROM range({n}) made(i)
    """
    with duckdb.connect() as other:
        rows = other.sql(query).to_arrow_table().cast(STAGED)
    record = FileRecord("sha", "many.parquet", "default", 1, "reading", "run", datetime.now(UTC))
    with workspace.warehouse.writing() as db:
        assert store_file(db, record, rows.to_reader()) == FileCounts(n, n, 0, 0, 0)
    with workspace.warehouse.reading() as db:
        newer = "SELECT feedback_id, text FROM feedback WHERE version = 2 ORDER BY row_number"
        assert fetch(db, newer).to_pylist() == [
            {"feedback_id": f"r{i}@2", "text": f"text {n - 10 + i}"} for i in range(10)
        ]
        wrong = "SELECT count(*) FROM feedback WHERE version = 1 AND feedback_id <> 'r' || text[6:]"
        assert count(db, wrong) == 0
