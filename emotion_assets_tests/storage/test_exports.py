"""Exports are whole or not there, safe for spreadsheets, and enough to restore the database from."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from codecs import BOM_UTF8
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.cli.rebuild import rebuild
from emotion_assets.review.queue import export_review
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.exports import export_scores, export_tables, exports_folder, neutralise_formulas
from emotion_assets.storage.warehouse.database import DamagedDatabaseError
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import LABELS, drop_csv, state


@pytest.fixture
def finished(workspace: Workspace) -> Workspace:
    world.drop_inbox(workspace)
    world.run_feedback(workspace)
    return workspace


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\rx", "＝1"])
def test_a_cell_that_a_spreadsheet_would_run_starts_with_an_apostrophe(text: str) -> None:
    batch = pa.RecordBatch.from_pydict({text: [text, None, "plain", "a=b"], "n": [-1, 2, 3, 4]})
    safe = neutralise_formulas(batch)
    assert safe.column(0).to_pylist() == ["'" + text, None, "plain", "a=b"]
    assert safe.schema.names == ["'" + text, "n"]
    assert safe.column(1).to_pylist() == [-1, 2, 3, 4]


def test_texts_with_quotes_newlines_and_formulas_survive_the_csv(workspace: Workspace, tmp_path: Path) -> None:
    texts = ['say "hi", twice', "two\nlines", "=1+1", "naïve 🙂", "semi;colon"]
    drop_csv(workspace, "a.csv", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    world.run_feedback(workspace)
    assert export_scores(workspace.warehouse, tmp_path / "scores.csv") == 5
    with (tmp_path / "scores.csv").open(encoding="utf-8-sig", newline="") as file:
        found = {row["feedback_id"]: row["text"] for row in csv.DictReader(file)}
    assert [found[str(i)] for i in range(5)] == [text if text != "=1+1" else "'=1+1" for text in texts]
    assert export_scores(workspace.warehouse, tmp_path / "scores.parquet") == 5
    assert sorted(pq.read_table(tmp_path / "scores.parquet")["text"].to_pylist()) == sorted(texts)


def test_an_export_needs_a_known_ending_and_a_folder(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"let it end in \.parquet or \.csv"):
        export_scores(workspace.warehouse, tmp_path / "scores.xlsx")
    with pytest.raises(UserError, match="no such folder"):
        export_scores(workspace.warehouse, tmp_path / "nowhere" / "scores.csv")


def test_a_place_that_may_not_be_written_to_is_named_and_not_the_database(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"^.*/folder\.csv: is a folder; give the name of a file$"):
        export_scores(workspace.warehouse, tmp_path / "folder.csv")
    for export in (export_scores, partial(export_review, labels=LABELS)):
        for path in (Path("/sys/x.csv"), tmp_path / f"{'x' * 300}.csv"):
            with pytest.raises(UserError, match=rf"^{path}: cannot be written \(.*\); give a file in another folder$"):
                export(workspace.warehouse, path)


def test_a_set_may_be_read_by_other_users(finished: Workspace) -> None:
    folder = (exports_folder(finished.warehouse) / "current").resolve()
    assert folder.stat().st_mode & 0o777 == 0o755
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in folder.iterdir())


def test_the_page_names_the_models_whose_scores_count_now(finished: Workspace) -> None:
    first = finished.store.current(["champion_model"]).version
    assert f"scored by tfidf_svm {first} (" in page_header(finished)
    world.train_champion(finished, c=0.3)
    world.run_feedback(finished, rescore="all")
    second = finished.store.current(["champion_model"]).version
    header = page_header(finished)
    assert first != second
    assert first not in header
    assert re.search(rf"scored by tfidf_svm {second} \([\d,]+ rows\)\. Written", header)


def page_header(workspace: Workspace) -> str:
    page = (workspace.settings.reports / "feedback.html").read_text(encoding="utf-8")
    return " ".join(re.sub("<[^>]*>", "", page.split('<p class="note">', 1)[1].split("</p>", 1)[0]).split())


def test_the_current_set_has_every_table_and_old_sets_go(finished: Workspace) -> None:
    for _ in range(3):
        exported = export_tables(finished.warehouse)
    root = exports_folder(finished.warehouse)
    assert (root / "current").resolve() == exported.folder.resolve()
    assert len(list(root.glob("set-*"))) == 2
    tables = state(finished)
    for name, rows in tables.items():
        assert exported.rows[name] == len(rows)
        assert pq.read_metadata(exported.folder / f"{name}.parquet").num_rows == len(rows)
    replaced = [row for row in tables["feedback"] if row["version"] > 1]  # each replaces one text of before
    assert replaced
    scores = pq.read_metadata(exported.folder / "scores.parquet").num_rows
    assert scores == len(tables["scored_feedback"]) - len(replaced)
    listed = json.loads((exported.folder / "manifest.json").read_text())["files"]
    assert {"scores.csv", "scores.parquet", "feedback.parquet"} <= set(listed)
    assert (exported.folder / "scores.csv").read_bytes().startswith(BOM_UTF8 + b'"feedback_id"')


def test_a_rebuild_restores_every_table_and_keeps_the_damaged_file(finished: Workspace) -> None:
    before = state(finished)
    finished.settings.database.write_bytes(b"ruined")
    with pytest.raises(DamagedDatabaseError):
        state(finished)
    said = list(rebuild(finished))
    assert any("rows restored" in line for line in said)
    assert state(finished) == before
    assert finished.settings.database.with_name("emotion.duckdb.damaged-1").read_bytes() == b"ruined"
    world.run_feedback(finished)
    assert state(finished) == before


def test_a_rebuild_takes_from_the_inbox_what_the_exports_lack(finished: Workspace) -> None:
    drop_csv(finished, "late.csv", [{"id": "late", "text": "dropped after the export"}])
    finished.settings.database.unlink()
    list(rebuild(finished))
    assert "late" in {row["feedback_id"] for row in state(finished)["feedback"]}


def test_a_damaged_export_is_passed_over_for_the_one_before(finished: Workspace) -> None:
    before = state(finished)
    newest = export_tables(finished.warehouse).folder
    (newest / "scored_feedback.parquet").write_bytes(b"flipped")
    finished.settings.database.unlink()
    said = list(rebuild(finished))
    assert f"export {newest.name}: left out, scored_feedback.parquet is missing or altered" in said
    assert state(finished) == before


def test_without_any_export_the_inbox_alone_restores_the_rows(finished: Workspace) -> None:
    import shutil

    before = state(finished)
    shutil.rmtree(exports_folder(finished.warehouse))
    finished.settings.database.unlink()
    assert any("starting from the inbox alone" in line for line in rebuild(finished))
    assert state(finished)["feedback"] == before["feedback"]
    world.run_feedback(finished)
    assert state(finished)["scored_feedback"] == before["scored_feedback"]


OWN = """
    CREATE TABLE notes (a INTEGER PRIMARY KEY, b VARCHAR DEFAULT 'none');
    INSERT INTO notes (a) VALUES (1), (2);
    CREATE SCHEMA mine;
    CREATE SEQUENCE mine.numbers;
    CREATE TABLE mine.feedback (id BIGINT DEFAULT nextval('mine.numbers'), big HUGEINT);
    INSERT INTO mine.feedback (big) VALUES (170141183460469231731687303715884105727);
    CREATE VIEW joyful AS SELECT f.feedback_id, n.b FROM feedback f, emotion.main.notes n;
"""


def test_tables_of_ones_own_survive_a_rebuild(finished: Workspace) -> None:
    before = state(finished)
    with duckdb.connect(finished.settings.database) as db:
        db.execute(OWN)
    assert state(finished) == before
    said = rebuild(finished)
    assert "notes: 2 rows of a table of your own, kept" in said
    assert "mine.feedback: 1 rows of a table of your own, kept without its defaults and constraints" in said
    assert "joyful: a view of your own, kept" in said
    assert state(finished) == before
    assert not finished.warehouse.wal.exists()
    with duckdb.connect(finished.settings.database) as db:
        assert db.execute("SELECT * FROM notes").fetchall() == [(1, "none"), (2, "none")]
        assert db.execute("SELECT big FROM mine.feedback").fetchall() == [(2**127 - 1,)]
        assert db.execute("SELECT count(*) FROM joyful").fetchall()[0][0] == 2 * len(before["feedback"])
        with pytest.raises(duckdb.ConstraintException):
            db.execute("INSERT INTO notes (a) VALUES (1)")
    assert "notes: 2 rows of a table of your own, kept" in rebuild(finished)  # and the next one


def test_a_rebuild_does_not_replace_a_database_whose_tables_it_cannot_see(finished: Workspace) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print(1, flush=True); input()",
         str(finished.settings.database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "1\n"
        with pytest.raises(UserError, match="open in another program; close it there"):
            rebuild(finished)
        holder.communicate("\n")
    assert any("rows restored" in line for line in rebuild(finished))
