"""Who is forgotten is gone from tables, file, exports and page, and neither inbox nor rebuild brings them back."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from emotion_assets.cli.forget import forget, make_person
from emotion_assets.cli.rebuild import rebuild
from emotion_assets.ingest.ledger import ingest
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.exports import export_tables, exports_folder
from emotion_assets.storage.failpoints import VARIABLE
from emotion_assets.storage.warehouse.database import count, fetch
from emotion_assets.storage.warehouse.scores import store_scores
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import PROJECT, Terminal
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import drop_csv, drop_jsonl, state

SECRET = "zebrafinch"  # in every text of the person, in no other
ANN = {"email": "ann@example.org"}
BEN = {"email": "ben@example.org"}


def drop_reviews(workspace: Workspace) -> None:
    """Two persons in two sources: versions of a text, a row without an id, undated rows, rows that are refused."""
    drop_csv(
        workspace,
        "a.csv",
        [
            {"id": "1", "text": f"the {SECRET} arrived broken", "created_at": "2026-11-02", **ANN},
            {"id": "2", "text": "all was lovely", "created_at": "02/11/2026", **BEN},
            {"id": "", "text": f"I love my {SECRET}", "created_at": "03/11/2026", **ANN},
            {"id": "4", "text": " ", "created_at": "", **ANN},
            {"id": "5", "text": " ", "created_at": "", **BEN},
        ],
    )
    drop_csv(workspace, "b.csv", [{"id": "1", "text": f"still no new {SECRET}", "created_at": "2026-11-05", **ANN}])
    drop_jsonl(workspace, "shop/c.jsonl", [{"id": "1", "text": "quick delivery", **BEN}])


@pytest.fixture
def unscored(tmp_path: Path) -> Workspace:
    workspace = Workspace(world.settings(tmp_path / "home"))
    drop_reviews(workspace)
    take_in(workspace)
    return workspace


@pytest.fixture
def finished(workspace: Workspace) -> Workspace:
    """The whole of it is done: scored, queued, on the page, exported twice."""
    drop_reviews(workspace)
    world.run_feedback(workspace)
    export_tables(workspace.warehouse)
    return workspace


def take_in(workspace: Workspace) -> list[tuple[int, int, int]]:
    report = ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")
    return [(file.counts.accepted, file.counts.duplicate, file.counts.rejected) for file in report.new]


def forget_ann(workspace: Workspace) -> list[str]:
    return list(forget(workspace, make_person(None, None, "email=ann@example.org")))


def texts(workspace: Workspace) -> list[str]:
    return sorted(row["text"] for row in state(workspace)["feedback"])


def rows_of(workspace: Workspace, table: str) -> list[dict[str, Any]]:
    return state(workspace)[table]


def check_books(workspace: Workspace) -> None:
    found = state(workspace)
    for file in found["ingested_files"]:
        sha256 = file["file_sha256"]
        assert file["rows_read"] == file["rows_accepted"] + file["rows_duplicate"] + file["rows_rejected"]
        assert file["rows_accepted"] == sum(row["source_sha256"] == sha256 for row in found["feedback"])
        assert file["rows_rejected"] == sum(row["source_sha256"] == sha256 for row in found["feedback_rejects"])
        undated = sum(row["n"] for row in found["feedback_undated"] if row["source_sha256"] == sha256)
        assert (file["rows_undated"] or 0) == undated


def files_with_the_secret(home: Path) -> list[str]:
    """Every file of the home that holds it, the inbox left out; Parquet is read, not searched."""
    found = []
    for path in sorted(home.rglob("*")):
        if not path.is_file() or path.is_relative_to(home / "inbox"):
            continue
        shown = str(pq.read_table(path).to_pydict()).encode() if path.suffix == ".parquet" else path.read_bytes()
        if SECRET.encode() in shown:
            found.append(str(path.relative_to(home)))
    return found


def test_an_id_goes_in_all_its_versions_and_another_sources_row_of_that_id_stays(unscored: Workspace) -> None:
    said = list(forget(unscored, make_person(None, "1", None)))
    assert said[0].startswith(
        "id 1 in source default: removed 2 rows of feedback, 0 of scored_feedback, 0 of review_queue"
    )
    assert texts(unscored) == ["I love my zebrafinch", "all was lovely", "quick delivery"]
    check_books(unscored)
    list(forget(unscored, make_person("shop", "1", None)))
    assert texts(unscored) == ["I love my zebrafinch", "all was lovely"]


def test_an_attribute_takes_rows_with_and_without_an_id_and_says_so(unscored: Workspace) -> None:
    said = forget_ann(unscored)
    assert said[0].startswith("email=ann@example.org: removed 3 rows of feedback")
    assert any(line.startswith("1 rows have no id and are known by their content") for line in said)
    assert texts(unscored) == ["all was lovely", "quick delivery"]
    check_books(unscored)


def test_of_two_sources_the_one_that_is_named_is_searched(unscored: Workspace) -> None:
    list(forget(unscored, make_person("shop", None, "email=ben@example.org")))
    assert "all was lovely" in texts(unscored) and "quick delivery" not in texts(unscored)


def test_a_row_without_an_id_goes_by_the_name_that_the_exports_give_it(unscored: Workspace) -> None:
    (name,) = (row["feedback_id"] for row in rows_of(unscored, "feedback") if row["identity"].startswith("row:"))
    list(forget(unscored, make_person(None, name, None)))
    assert "I love my zebrafinch" not in texts(unscored)


@pytest.mark.parametrize("name", ["e.mail", "e/m~ail", 'e"m', "0", "$", "e mail*"])
def test_an_attribute_of_any_name_and_type_is_found(tmp_path: Path, name: str) -> None:
    workspace = Workspace(world.settings(tmp_path / "home"))
    drop_jsonl(workspace, "a.jsonl", [{"id": 1, "text": "one", name: 7}, {"id": 2, "text": "two", name: "a=b'c"}])
    take_in(workspace)
    list(forget(workspace, make_person(None, None, f"{name}=7")))
    assert texts(workspace) == ["two"]
    list(forget(workspace, make_person(None, None, f"{name}=a=b'c")))
    assert texts(workspace) == []


def test_rows_move_in_the_books_from_accepted_to_rejected_without_an_excerpt(unscored: Workspace) -> None:
    before = {file["file_name"]: file for file in rows_of(unscored, "ingested_files")}
    forget_ann(unscored)
    after = {file["file_name"]: file for file in rows_of(unscored, "ingested_files")}
    for name, moved in (("a.csv", 2), ("b.csv", 1), ("shop/c.jsonl", 0)):
        assert after[name]["rows_accepted"] == before[name]["rows_accepted"] - moved
        assert after[name]["rows_rejected"] == before[name]["rows_rejected"] + moved
        assert after[name]["rows_read"] == before[name]["rows_read"]
    rejects = [row for row in rows_of(unscored, "feedback_rejects") if row["reason_code"] == "forgotten"]
    assert len(rejects) == 3
    assert all(row["raw_excerpt"] == "" and row["detail"].startswith("removed by") for row in rejects)
    assert sum(row["n"] for row in rows_of(unscored, "feedback_undated")) == 1


def test_excerpts_of_rejected_rows_of_the_person_are_emptied_and_others_stay(unscored: Workspace) -> None:
    said = forget_ann(unscored)
    assert "feedback_rejects: 1 excerpts of rejected rows emptied" in said
    rejects = {
        r["row_number"]: r["raw_excerpt"]
        for r in rows_of(unscored, "feedback_rejects")
        if r["reason_code"] == "empty_text"
    }
    assert rejects[5] == "" and "ben@example.org" in rejects[6]
    assert f"{unscored.settings.inbox / 'a.csv'}: still holds them; delete it, or the rows in it" in said


def test_an_excerpt_that_is_cut_off_is_said_to_be_unclear(unscored: Workspace) -> None:
    drop_csv(unscored, "d.csv", [{"padding": "x" * 300, "text": " ", **BEN}])
    take_in(unscored)
    assert any(
        line.startswith("feedback_rejects: 1 excerpts of other rejected rows are cut off")
        for line in forget_ann(unscored)
    )


def test_a_person_with_rejected_rows_alone_is_found_and_kept_out(unscored: Workspace) -> None:
    said = list(forget(unscored, make_person(None, "4", None)))
    assert said[0].startswith("id 4 in source default: removed 0 rows")
    assert f"{unscored.settings.inbox / 'a.csv'}: may hold them in a rejected row; look there" in said
    drop_csv(unscored, "d.csv", [{"id": "4", "text": "now with a text"}])
    assert take_in(unscored) == [(0, 0, 1)]


def test_neither_the_same_files_nor_new_ones_bring_a_row_back(unscored: Workspace) -> None:
    forget_ann(unscored)
    kept = texts(unscored)
    assert take_in(unscored) == []
    grown = (unscored.settings.inbox / "a.csv").read_text(encoding="utf-8") + "9,a new one,2026-11-09,ben@example.org\n"
    (unscored.settings.inbox / "grown.csv").write_text(grown, encoding="utf-8")
    assert take_in(unscored) == [(1, 1, 4)]
    assert texts(unscored) == sorted([*kept, "a new one"])
    check_books(unscored)


def test_a_change_of_the_sources_settings_brings_no_row_of_a_file_back(unscored: Workspace) -> None:
    """The row without an id has a date then, and so another identity; and the refused row's excerpt is not kept."""
    forget_ann(unscored)
    sources = {"default": {"created_at_format": "%d/%m/%Y"}}
    changed = Workspace(world.settings(unscored.settings.home, sources=sources))
    assert (1, 0, 4) in take_in(changed)
    assert texts(changed) == ["all was lovely", "quick delivery"]
    assert [row["raw_excerpt"] for row in rows_of(changed, "feedback_rejects") if row["row_number"] == 5] == [""]
    check_books(changed)


def test_every_hash_has_the_databases_one_salt_and_no_identity_is_kept(unscored: Workspace) -> None:
    list(forget(unscored, make_person(None, "1", None)))
    forget_ann(unscored)
    with unscored.warehouse.reading() as db:
        rows = fetch(db, "FROM forgotten").to_pylist()
    assert len({row["salt"] for row in rows}) == 1
    assert len({row["identity_hash"] for row in rows}) == len(rows)
    assert all(re.fullmatch("[0-9a-f]{64}", row["identity_hash"]) for row in rows)
    with unscored.warehouse.reading() as db:
        query = "SELECT count(*) FROM forgotten WHERE identity_hash = sha256(salt || 'id:1') AND source = 'default'"
        assert count(db, query) == 1


def test_no_file_of_the_home_holds_the_text_any_more(finished: Workspace) -> None:
    home = finished.settings.home
    assert {"emotion.duckdb", "reports/feedback.html"} <= set(files_with_the_secret(home))
    assert rows_of(finished, "review_queue") or rows_of(finished, "scored_feedback")
    said = forget_ann(finished)
    assert said[0].startswith("email=ann@example.org: removed 3 rows of feedback, 3 of scored_feedback")
    assert files_with_the_secret(home) == []
    assert not finished.warehouse.wal.exists()
    found = state(finished)
    kept = {row["feedback_id"] for row in found["feedback"]}
    assert {row["feedback_id"] for row in found["scored_feedback"]} == kept
    assert {row["feedback_id"] for row in found["review_queue"]} <= kept
    check_books(finished)
    page = (finished.settings.reports / "feedback.html").read_text(encoding="utf-8")
    assert "removed by the command forget, and not taken in again" in page


def test_deleting_alone_leaves_the_text_in_the_file_and_writing_it_anew_keeps_what_is_not_ours(
    unscored: Workspace,
) -> None:
    """The reason for writing the file anew: a checkpoint does not free it of deleted values."""
    with duckdb.connect(unscored.settings.database) as db:
        db.execute(
            "CREATE TABLE notes (a INTEGER PRIMARY KEY, b VARCHAR DEFAULT 'none'); INSERT INTO notes (a) VALUES (1)"
        )
        db.execute("CREATE SCHEMA mine; CREATE VIEW mine.noted AS SELECT a FROM main.notes")
    with unscored.warehouse.writing() as db:
        db.execute("DELETE FROM feedback WHERE text LIKE '%zebrafinch%'")
    before = state(unscored)
    assert SECRET.encode() in unscored.settings.database.read_bytes()
    unscored.warehouse.rewrite()
    assert SECRET.encode() not in unscored.settings.database.read_bytes()
    assert state(unscored) == before
    with duckdb.connect(unscored.settings.database) as db:
        assert db.execute("SELECT a, b FROM mine.noted JOIN notes USING (a)").fetchall() == [(1, "none")]
        with pytest.raises(duckdb.ConstraintException):
            db.execute("INSERT INTO notes (a) VALUES (1)")


def test_the_exports_are_as_many_as_before_and_current_is_whole(finished: Workspace) -> None:
    forget_ann(finished)
    root = exports_folder(finished.warehouse)
    sets = sorted(root.glob("set-*"))
    assert len(sets) == 2
    assert (root / "current").resolve() == sets[-1].resolve()
    for folder in sets:
        assert sorted(pq.read_table(folder / "feedback.parquet")["text"].to_pylist()) == texts(finished)
        assert pq.read_metadata(folder / "forgotten.parquet").num_rows == len(rows_of(finished, "forgotten"))


@pytest.mark.parametrize("damage", ["none", "database", "database and newest export"])
def test_a_rebuild_brings_no_row_back(finished: Workspace, damage: str) -> None:
    forget_ann(finished)
    before = state(finished)
    if damage != "none":
        finished.settings.database.write_bytes(b"ruined")
    if "export" in damage:
        (exports_folder(finished.warehouse) / "current" / "forgotten.parquet").write_bytes(b"flipped")
    rebuild(finished)
    assert state(finished) == before
    world.run_feedback(finished)
    assert texts(finished) == ["all was lovely", "quick delivery"]
    check_books(finished)


@pytest.mark.parametrize("exports", ["older", "gone"])
def test_a_rebuild_from_a_database_that_can_be_read_keeps_what_no_export_says(
    finished: Workspace, exports: str
) -> None:
    root = exports_folder(finished.warehouse)
    older = finished.settings.home / "older"
    shutil.copytree(root, older, symlinks=True)
    forget_ann(finished)
    before = state(finished)
    shutil.rmtree(root)
    if exports == "older":
        shutil.copytree(older, root, symlinks=True)
    said = rebuild(finished)
    assert ("3 rows of the export were forgotten after it, and left out" in said) == (exports == "older")
    after = state(finished)
    for table in ("feedback", "forgotten", "feedback_undated", *(["review_queue"] if exports == "older" else [])):
        assert after[table] == before[table]
    assert not [row for row in after["feedback_rejects"] if "ann@" in row["raw_excerpt"] + row["detail"]]
    check_books(finished)


def test_a_database_that_a_rebuild_has_kept_is_named_and_what_it_left_unfinished_removed(finished: Workspace) -> None:
    rebuild(finished)
    unfinished = finished.settings.database.with_name("emotion.duckdb.rebuild")
    shutil.copy(finished.settings.database, unfinished)
    said = forget_ann(finished)
    kept = finished.settings.database.with_name("emotion.duckdb.damaged-1")
    assert f"{kept}: the database of before a rebuild, which may hold them; delete it" in said
    assert not unfinished.exists()
    assert files_with_the_secret(finished.settings.home) == [kept.name]


def test_the_files_of_the_inbox_that_hold_the_rows_are_named_duplicates_and_copies_too(unscored: Workspace) -> None:
    inbox = unscored.settings.inbox
    drop_csv(
        unscored,
        "later.csv",
        [
            {"id": "1", "text": f"still no new {SECRET}", "created_at": "2026-11-05", **ANN},
            {"id": "8", "text": "new", "created_at": "", **BEN},
        ],
    )
    (inbox / "packed.csv.gz").write_bytes(gzip.compress((inbox / "later.csv").read_bytes()))
    (inbox / "elsewhere").mkdir()
    (inbox / "elsewhere" / "copy.csv").write_bytes((inbox / "b.csv").read_bytes())
    (inbox / "old.zip").write_bytes(b"PK")
    take_in(unscored)
    said = list(forget(unscored, make_person(None, "1", None)))
    held = [line.split(": still holds")[0] for line in said if ": still holds" in line]
    assert held == [
        str(inbox / name) for name in ("a.csv", "b.csv", "elsewhere/copy.csv", "later.csv", "packed.csv.gz")
    ]
    assert f"{inbox}: files that cannot be read were not looked through: old.zip" in said


def test_a_reviewed_text_that_joined_a_dataset_is_named_with_its_folder(finished: Workspace) -> None:
    from emotion_assets.dataset.splits import add_training_rows, load_dataset, write_splits
    from emotion_assets.review.queue import reviewed_rows

    with finished.warehouse.writing() as db:
        db.execute("DELETE FROM review_queue")
        db.execute(
            """
            INSERT INTO review_queue BY NAME SELECT feedback_id, text, 'joy' AS emotion, 0.5 AS confidence,
            'abstain' AS reason, 'joy' AS label, 'Eve' AS reviewer, now() AS reviewed_at, false AS audit FROM feedback
            """
        )
    settings = finished.settings
    dataset = load_dataset(settings.dataset, settings.labels, 17)
    dataset = add_training_rows(dataset, reviewed_rows(finished.warehouse, settings.labels))
    with finished.store.writing("datasets") as draft:
        write_splits(dataset, draft.path)
        folder = draft.finish({})
    named = [line for line in forget_ann(finished) if "joined its training rows" in line]
    assert len(named) == 1
    assert named[0].startswith(f"{folder.path}: 3 reviewed texts joined its training rows; materialise")


def test_a_score_that_comes_after_the_row_was_forgotten_is_not_stored(finished: Workspace) -> None:
    """As of a run that had read the texts before."""
    with finished.warehouse.reading() as db:
        scores = db.sql("SELECT * FROM scored_feedback").to_arrow_table()
        queue = db.sql(
            "SELECT feedback_id, text, 'joy' AS emotion, 0.5 AS confidence, 'audit' AS reason, true AS audit "
            "FROM feedback"
        ).to_arrow_table()
    forget_ann(finished)
    with finished.warehouse.writing() as db:
        assert store_scores(db, scores, queue) == 0
    assert SECRET not in json.dumps(rows_of(finished, "review_queue"), default=str)


@pytest.mark.parametrize(
    "point", ["forget.after_removal", "warehouse.before_rewritten", "export.before_rename", "export.before_link"]
)
def test_a_run_that_was_cut_off_is_finished_by_the_next(finished: Workspace, point: str) -> None:
    code = (
        "import sys; from emotion_assets_tests.worlds import feedback as world\n"
        "from emotion_assets.storage.workspace import Workspace; from pathlib import Path\n"
        "from emotion_assets.cli.forget import forget, make_person\n"
        "list(forget(Workspace(world.settings(Path(sys.argv[1]))), make_person(None, None, 'email=ann@example.org')))\n"
    )
    command = [sys.executable, "-c", code, str(finished.settings.home)]
    killed = subprocess.run(command, env=os.environ | {VARIABLE: point}, cwd=PROJECT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (
        forget_ann(finished)[0]
        == "email=ann@example.org: no such row; an earlier run of forget was cut off and is finished"
    )
    assert files_with_the_secret(finished.settings.home) == []
    with pytest.raises(UserError, match="no such row"):
        forget_ann(finished)


def test_a_home_without_a_champion_is_told_to_delete_its_page(unscored: Workspace) -> None:
    page = unscored.settings.reports / "feedback.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text(f"the {SECRET} arrived broken", encoding="utf-8")
    assert any(
        line.startswith(f"{page}: may show them and cannot be written anew (") and line.endswith("; delete it")
        for line in forget_ann(unscored)
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to forget; give --id ID (and --source S), or --where ATTRIBUTE=VALUE"),
        (["--id", "1", "--where", "a=b"], "nothing to forget; give --id ID"),
        (["--where", "email"], "--where email: not of the form ATTRIBUTE=VALUE, as in --where email=ann@example.org"),
        (["--where", "=x"], "--where =x: not of the form"),
        (["--where", "email="], "--where email=: not of the form"),
        (["--id", ""], "--id: is empty; give the id as it stands in the file"),
        (["--id", "1"], "id 1 in source default: no such row; give the id as it stands in the file, and its source by"),
        (["--where", "a=b"], "a=b: no such row; give an attribute and its value as the exports show them"),
    ],
)  # fmt: skip
def test_what_cannot_be_forgotten_is_one_line(terminal: Terminal, arguments: list[str], said: str) -> None:
    done = terminal.emotion_assets("forget", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_says_what_it_did(terminal: Terminal) -> None:
    workspace = Workspace(world.settings(terminal.home))
    drop_reviews(workspace)
    take_in(workspace)
    done = terminal.emotion_assets("forget", "--source", "shop", "--id", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("id 1 in source shop: removed 1 rows of feedback")
    assert f"{workspace.settings.inbox / 'shop' / 'c.jsonl'}: still holds them; delete it, or the rows in it" in lines
    assert terminal.emotion_assets("forget", "--source", "shop", "--id", "1").returncode == 2
