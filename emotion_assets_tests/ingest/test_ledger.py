"""Every row exactly once: files, ids, duplicates, conflicts, and the books that always balance."""

from __future__ import annotations

import json

import pytest

from emotion_assets.forms.problems import Reason
from emotion_assets.ingest.inbox import Unavailable
from emotion_assets.ingest.ledger import IngestReport, ingest
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import drop_csv, drop_jsonl, state


def take_in(workspace: Workspace, run_id: str = "run") -> IngestReport:
    return ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, run_id)


def sha256_of_the_file(workspace: Workspace) -> str:
    (file,) = state(workspace)["ingested_files"]
    return str(file["file_sha256"])


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """Ingestion needs no champion."""
    return Workspace(world.settings(tmp_path / "home"))


def test_rows_without_an_id_are_their_file_and_row(workspace: Workspace) -> None:
    drop_jsonl(workspace, "a.jsonl", [{"text": "one"}, {"text": "one"}])
    take_in(workspace)
    found = state(workspace)["feedback"]
    assert [row["feedback_id"] for row in found] == [f"file:{sha256_of_the_file(workspace)[:16]}:{n}" for n in (1, 2)]


def test_the_same_bytes_under_any_name_add_nothing(workspace: Workspace) -> None:
    path = drop_csv(workspace, "a.csv", [{"text": "hello there"}])
    take_in(workspace)
    (workspace.settings.inbox / "sub").mkdir()
    (workspace.settings.inbox / "sub" / "b.csv").write_bytes(path.read_bytes())
    report = take_in(workspace)
    assert (report.new, report.known) == ((), 2)
    assert len(state(workspace)["feedback"]) == 1


def test_the_same_id_and_text_is_a_duplicate_and_another_text_a_conflict(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"id": "1", "text": "hello"}, {"id": "1", "text": "hello"}])
    drop_csv(
        workspace, "b.csv", [{"id": "1", "text": "hello"}, {"id": "1", "text": "goodbye"}, {"id": "2", "text": "x"}]
    )
    counts = [file.counts for file in take_in(workspace).new]
    assert [(c.read, c.accepted, c.duplicate, c.rejected) for c in counts] == [(2, 1, 1, 0), (3, 1, 1, 1)]
    (reject,) = state(workspace)["feedback_rejects"]
    assert reject["reason_code"] == "id_conflict"
    assert "row 2" in reject["detail"]
    assert reject["raw_excerpt"] == "goodbye"


def test_within_a_file_the_first_text_of_an_id_stays_and_later_ones_conflict(workspace: Workspace) -> None:
    rows = [{"id": "1", "text": text} for text in ("first", "second", "first")]
    drop_csv(workspace, "a.csv", rows)
    (file,) = take_in(workspace).new
    assert (file.counts.accepted, file.counts.duplicate, file.counts.rejected) == (1, 1, 1)
    assert state(workspace)["feedback"][0]["text"] == "first"


def test_an_id_that_looks_like_a_derived_one_is_never_lost(workspace: Workspace) -> None:
    drop_jsonl(workspace, "a.jsonl", [{"text": "one"}])
    take_in(workspace)
    drop_jsonl(workspace, "b.jsonl", [{"text": "two", "id": f"file:{sha256_of_the_file(workspace)[:16]}:1"}])
    (other,) = take_in(workspace).new
    assert other.counts.rejected == 1


def test_every_other_column_is_kept_in_attributes(workspace: Workspace) -> None:
    drop_jsonl(workspace, "a.jsonl", [{"text": "one", "stars": 5, "who": {"name": "Zoë"}, "tags": [1, None]}])
    take_in(workspace)
    (row,) = state(workspace)["feedback"]
    assert json.loads(row["attributes"]) == {"stars": 5, "who": {"name": "Zoë"}, "tags": [1, None]}


def test_a_quarantined_file_rests_until_the_reading_settings_change(workspace: Workspace, tmp_path) -> None:
    workspace.settings.inbox.mkdir(parents=True)
    (workspace.settings.inbox / "a.csv").write_bytes("text\ncafé\n".encode("utf-16"))
    (file,) = take_in(workspace).new
    assert file.status == "quarantined"
    assert take_in(workspace).new == ()
    other = Workspace(world.settings(tmp_path / "home", encoding="utf-16"))
    (file,) = take_in(other).new
    assert (file.status, file.counts.accepted) == ("ingested", 1)
    (row,) = state(other)["ingested_files"]
    assert row["status"] == "ingested"


def test_one_bad_file_does_not_keep_the_others_out(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"text": "one"}])
    (workspace.settings.inbox / "b.csv").write_bytes(b"")
    (workspace.settings.inbox / "c.parquet").write_bytes(b"PAR1 not really")
    drop_csv(workspace, "d.csv", [{"text": "two"}])
    (workspace.settings.inbox / "e.zip").write_bytes(b"PK")
    report = take_in(workspace)
    assert [file.status for file in report.new] == ["ingested", "quarantined", "quarantined", "ingested"]
    assert [(left.name, left.why) for left in report.left] == [("e.zip", f"e.zip: {Reason.ARCHIVE.explain}")]


def test_a_file_that_changes_while_it_is_read_waits_for_the_next_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drop_csv(workspace, "a.csv", [{"text": f"text {i}"} for i in range(5)])
    from emotion_assets.ingest import ledger

    read = ledger.read_feedback

    def read_and_append(*arguments):
        yield from read(*arguments)
        with path.open("a") as file:
            file.write("one more\n")

    monkeypatch.setattr(ledger, "read_feedback", read_and_append)
    report = take_in(workspace)
    assert (report.new, len(report.left)) == ((), 1)
    assert state(workspace)["feedback"] == []
    monkeypatch.undo()
    assert take_in(workspace).rows_accepted == 6


def test_the_books_balance_for_every_file(workspace: Workspace) -> None:
    world.drop_inbox(workspace)
    take_in(workspace)
    found = state(workspace)
    assert sum(file["rows_accepted"] for file in found["ingested_files"]) == len(found["feedback"])
    assert sum(file["rows_rejected"] for file in found["ingested_files"]) == len(found["feedback_rejects"])
    for file in found["ingested_files"]:
        assert file["rows_read"] == file["rows_accepted"] + file["rows_duplicate"] + file["rows_rejected"]
    ids = [row["feedback_id"] for row in found["feedback"]]
    assert len(ids) == len(set(ids))


def test_an_inbox_that_is_no_folder_is_one_line(workspace: Workspace) -> None:
    workspace.settings.home.mkdir(parents=True)
    workspace.settings.inbox.write_text("")
    with pytest.raises(Unavailable, match="not a folder"):
        take_in(workspace)
