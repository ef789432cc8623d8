"""Every row exactly once: files, sources, ids, versions, what is read again, and the books that always balance."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from emotion_assets.forms.problems import Reason
from emotion_assets.ingest.inbox import Unavailable
from emotion_assets.ingest.ledger import IngestReport, ingest
from emotion_assets.reports.pending import Work, find_pending_work
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import drop_csv, drop_jsonl, state


def take_in(workspace: Workspace, run_id: str = "run") -> IngestReport:
    return ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, run_id)


def pending(workspace: Workspace) -> Work:
    return find_pending_work(workspace.settings, workspace.store, workspace.warehouse, time.time(), {})


def sha256_of_the_file(workspace: Workspace) -> str:
    (file,) = state(workspace)["ingested_files"]
    return str(file["file_sha256"])


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """Ingestion needs no champion."""
    return Workspace(world.settings(tmp_path / "home"))


def accepted(workspace: Workspace) -> list[tuple[int, int, int, int]]:
    return [
        (file.counts.accepted, file.counts.duplicate, file.counts.rejected, file.counts.undated)
        for file in take_in(workspace).new
    ]


def with_settings(workspace: Workspace, **feedback: Any) -> Workspace:
    return Workspace(world.settings(workspace.settings.home, **feedback))


def current_texts(workspace: Workspace) -> list[str]:
    with workspace.warehouse.reading() as db:
        rows = db.execute(
            "SELECT text FROM feedback ANTI JOIN superseded_feedback USING (feedback_id) ORDER BY text"
        ).fetchall()
    return [text for (text,) in rows]


def test_rows_without_an_id_are_told_apart_by_content_and_place_among_equals(workspace: Workspace) -> None:
    drop_jsonl(workspace, "a.jsonl", [{"text": "one"}, {"text": "one"}, {"text": "one", "stars": 1}])
    assert accepted(workspace) == [(3, 0, 0, 0)]
    ids = [row["feedback_id"] for row in state(workspace)["feedback"]]
    assert len(set(ids)) == 3 and all(i.startswith("row:") for i in ids)
    assert sorted(i[-2:] for i in ids) == [":1", ":1", ":2"]


def test_an_export_that_grows_adds_only_what_is_new(workspace: Workspace) -> None:
    first = [{"text": "monday was great", "created_at": "2026-11-02"}]
    drop_csv(workspace, "nov.csv", first)
    assert accepted(workspace) == [(1, 0, 0, 0)]
    drop_csv(workspace, "nov.csv", [*first, {"text": "tuesday was awful", "created_at": "2026-11-03"}, *first])
    assert accepted(workspace) == [(2, 1, 0, 0)]


def test_an_id_counts_within_its_source(workspace: Workspace) -> None:
    drop_csv(workspace, "store_a/r.csv", [{"id": "1", "text": "the parcel was late"}])
    drop_csv(workspace, "store_b/r.csv", [{"id": "1", "text": "the app crashes"}])
    drop_csv(workspace, "r.csv", [{"id": "1", "text": "hm"}, {"id": "store_a:1", "text": "an id like another's"}])
    assert accepted(workspace) == [(2, 0, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0)]
    rows = {row["text"]: (row["source"], row["feedback_id"]) for row in state(workspace)["feedback"]}
    assert rows["hm"] == ("default", "1")
    assert rows["an id like another's"] == ("default", "store_a:1")
    assert rows["the app crashes"] == ("store_b", "store_b:1")
    source, changed = rows["the parcel was late"]
    assert source == "store_a" and changed.startswith("store_a:1~")


def test_the_same_bytes_under_any_name_add_nothing(workspace: Workspace) -> None:
    path = drop_csv(workspace, "a.csv", [{"text": "hello there"}])
    take_in(workspace)
    (workspace.settings.inbox / "sub").mkdir()
    (workspace.settings.inbox / "sub" / "b.csv").write_bytes(path.read_bytes())
    report = take_in(workspace)
    assert (report.new, report.known) == ((), 2)
    assert len(state(workspace)["feedback"]) == 1


def test_the_same_id_with_another_text_is_a_new_version_that_replaces_the_old(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"id": "1", "text": "hello"}, {"id": "1", "text": "hello"}])
    drop_csv(
        workspace, "b.csv", [{"id": "1", "text": "hello"}, {"id": "1", "text": "goodbye"}, {"id": "2", "text": "x"}]
    )
    assert accepted(workspace) == [(1, 1, 0, 0), (2, 1, 0, 0)]
    rows = [(row["feedback_id"], row["text"], row["version"]) for row in state(workspace)["feedback"]]
    assert sorted(rows) == [("1", "hello", 1), ("1@2", "goodbye", 2), ("2", "x", 1)]
    assert current_texts(workspace) == ["goodbye", "x"]


def test_the_time_of_writing_decides_which_version_counts(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"id": "1", "text": "newer", "created_at": "2026-11-05"}])
    take_in(workspace)
    drop_csv(workspace, "b.csv", [{"id": "1", "text": "older", "created_at": "2026-11-01"}])
    take_in(workspace)
    assert current_texts(workspace) == ["newer"]


def test_three_texts_of_an_id_in_one_file_are_three_versions(workspace: Workspace) -> None:
    rows = [{"id": "1", "text": text} for text in ("first", "second", "first", "third")]
    drop_csv(workspace, "a.csv", rows)
    assert accepted(workspace) == [(3, 1, 0, 0)]
    assert current_texts(workspace) == ["third"]


def test_what_was_refused_is_read_again_once_when_its_reading_changes(workspace: Workspace) -> None:
    rows = [{"id": "1", "text": "x" * 50}, {"id": "2", "text": "fine"}]
    drop_csv(workspace, "a.csv", rows)
    small = with_settings(workspace, max_field_bytes=20)
    assert accepted(small) == [(1, 0, 1, 0)]
    assert accepted(small) == []
    assert accepted(workspace) == [(2, 0, 0, 0)]
    assert accepted(workspace) == []
    assert [row["feedback_id"] for row in state(workspace)["feedback"]] == ["1", "2"]
    assert state(workspace)["feedback_rejects"] == []


def test_rows_that_were_accepted_stay_when_their_file_is_read_again(workspace: Workspace) -> None:
    """Also where the new settings would read another text, or none, in their place."""
    drop_jsonl(workspace, "a.jsonl", [{"text": "kept", "body": "b"}, {"body": "the other text"}])
    assert accepted(workspace) == [(1, 0, 1, 0)]
    mapped = with_settings(workspace, sources={"default": {"columns": {"text": "body"}}})
    assert accepted(mapped) == [(2, 0, 0, 0)]
    assert sorted(row["text"] for row in state(mapped)["feedback"]) == ["kept", "the other text"]
    nothing = with_settings(workspace, sources={"default": {"columns": {"text": "nowhere"}}})
    take_in(nothing)
    assert len(state(nothing)["feedback"]) == 2
    check_books(nothing)


def test_equal_files_of_two_sources_are_not_read_in_turn(workspace: Workspace) -> None:
    for name in ("app/r.jsonl", "web/r.jsonl"):
        drop_jsonl(workspace, name, [{"text": "a"}, {"text": ""}])
    assert accepted(workspace) == [(1, 0, 1, 0)]
    assert [accepted(workspace) for _ in range(3)] == [[], [], []]


def test_a_date_that_cannot_be_read_costs_the_date_alone(workspace: Workspace) -> None:
    rows = [{"id": str(i), "text": f"tweet {i}", "created_at": f"{20 + i}-02-2015 11.3{i}"} for i in range(4)]
    drop_csv(workspace, "tweets/a.csv", [*rows, {"id": "9", "text": "dated", "created_at": "2015-02-24"}])
    assert accepted(workspace) == [(5, 0, 0, 4)]
    found = state(workspace)
    assert [(row["source"], row["form"], row["n"]) for row in found["feedback_undated"]] == [
        ("tweets", "99-99-9999 99.99", 4)
    ]
    undated = next(row for row in found["feedback"] if row["feedback_id"] == "tweets:2")
    assert json.loads(undated["attributes"]) == {"created_at": "22-02-2015 11.32"}

    assert not pending(workspace).any
    (workspace.settings.inbox / "tweets" / "a.csv").unlink()  # the value is kept: the file need not be
    format_ = {"created_at_format": "%d-%m-%Y %H.%M", "timezone": "Europe/Paris"}
    dated = with_settings(workspace, sources={"tweets": format_})
    asked = pending(dated)
    assert (asked.any, asked.redatable, asked.new_files) == (True, 1, ())
    assert asked.run_key != pending(with_settings(workspace, sources={"tweets": {"created_at_format": "%Y"}})).run_key
    assert accepted(dated) == []
    assert not pending(dated).any
    with dated.warehouse.reading() as db:
        moments = db.execute("SELECT created_at, attributes FROM feedback WHERE feedback_id = 'tweets:2'").fetchall()
    assert [(moment.astimezone(UTC), rest) for moment, rest in moments] == [
        (datetime(2015, 2, 22, 10, 32, tzinfo=UTC), "{}")
    ]
    assert state(dated)["feedback_undated"] == []


def test_times_that_stay_unreadable_are_tried_once_under_each_setting(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"text": "so late", "created_at": "early"}, {"text": "", "created_at": ""}])
    assert accepted(workspace) == [(1, 0, 1, 1)]
    (workspace.settings.inbox / "a.csv").unlink()
    changed = with_settings(workspace, sources={"default": {"created_at_format": "%d-%m-%Y"}})
    assert pending(changed).redatable == 1
    take_in(changed)
    assert not pending(changed).any  # although the rejected row of the file can no longer be read again


def test_rows_dated_later_are_known_when_their_export_grows(workspace: Workspace) -> None:
    rows = [{"text": "so late", "created_at": "24-02-2015 11.35"}]
    drop_csv(workspace, "a.csv", rows)
    assert accepted(workspace) == [(1, 0, 0, 1)]
    dated = with_settings(workspace, sources={"default": {"created_at_format": "%d-%m-%Y %H.%M"}})
    drop_csv(dated, "a.csv", [*rows, {"text": "so early", "created_at": "25-02-2015 10.00"}])
    assert accepted(dated) == [(1, 1, 0, 0)]


def test_a_source_is_read_as_its_settings_say(workspace: Workspace) -> None:
    path = workspace.settings.inbox / "app_store" / "r.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes("Review Text;Review Link;Millis\ncaf\xe9;https://x/1;1790841600000\n".encode("cp1252"))
    stated = {
        "columns": {"text": "review text", "id": "Review Link", "created_at": "Millis"},
        "created_at_format": "epoch_ms",
        "encoding": "cp1252",
        "delimiter": ";",
    }
    mapped = with_settings(workspace, sources={"app_store": stated})
    assert accepted(mapped) == [(1, 0, 0, 0)]
    (row,) = state(mapped)["feedback"]
    assert (row["feedback_id"], row["text"], row["attributes"]) == ("app_store:https://x/1", "caf\xe9", "{}")


def test_every_other_column_is_kept_in_attributes(workspace: Workspace) -> None:
    drop_jsonl(workspace, "a.jsonl", [{"text": "one", "stars": 5, "who": {"name": "Zoë"}, "tags": [1, None]}])
    take_in(workspace)
    (row,) = state(workspace)["feedback"]
    assert json.loads(row["attributes"]) == {"stars": 5, "who": {"name": "Zoë"}, "tags": [1, None]}


def test_a_quarantined_file_rests_until_the_reading_settings_change(workspace: Workspace, tmp_path) -> None:
    workspace.settings.inbox.mkdir(parents=True)
    (workspace.settings.inbox / "a.csv").write_bytes("text\ncafé\n".encode("cp1252"))
    (file,) = take_in(workspace).new
    assert file.status == "quarantined"
    assert take_in(workspace).new == ()
    other = Workspace(world.settings(tmp_path / "home", encoding="cp1252"))
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
    check_books(workspace)


def check_books(workspace: Workspace) -> None:
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
