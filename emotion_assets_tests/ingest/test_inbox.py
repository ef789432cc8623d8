"""Which files of the inbox are read, which are left alone and why, and that a file which changes is left for later."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path

import pytest

from emotion_assets.ingest.inbox import InboxFile, Unavailable, check_unchanged, list_inbox, sha256_of
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.settings.feedback import FeedbackSettings

LATER = 3600.0


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def put(inbox: Path, name: str, content: bytes = b"text\nfine\n") -> Path:
    path = inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def listed(inbox: Path) -> dict[str, InboxFile]:
    files = list_inbox(inbox, 5, time.time() + LATER)
    assert len({file.name for file in files}) == len(files)
    return {file.name: file for file in files}


def problems(inbox: Path) -> dict[str, str | None]:
    return {name: file.problem for name, file in listed(inbox).items()}


def test_an_inbox_that_is_not_there_or_empty_has_no_files(inbox: Path) -> None:
    assert list_inbox(inbox, 5, time.time()) == []
    assert list_inbox(inbox / "none", 5, time.time()) == []


def test_an_inbox_that_is_a_file_is_an_error_the_user_can_fix(inbox: Path) -> None:
    with pytest.raises(Unavailable, match="not a folder"):
        list_inbox(put(inbox, "a.csv"), 5, time.time())


def test_files_are_found_in_folders_and_listed_by_name(inbox: Path) -> None:
    for name in ("b.CSV", "2026/01/a.jsonl", "run=5/[1]*?.parquet", "c.tsv", "d.ndjson"):
        put(inbox, name)
    assert problems(inbox) == dict.fromkeys(
        ["2026/01/a.jsonl", "b.CSV", "c.tsv", "d.ndjson", "run=5/[1]*?.parquet"], None
    )


def test_links_are_not_followed_to_files_or_folders(inbox: Path, tmp_path: Path) -> None:
    outside = put(tmp_path, "outside/secret.csv")
    (inbox / "link.csv").symlink_to(outside)
    (inbox / "folder").symlink_to(outside.parent)
    (inbox / "gone.csv").symlink_to(tmp_path / "nothing")
    (inbox / "loop").symlink_to(inbox)
    assert problems(inbox) == dict.fromkeys(["link.csv", "folder", "gone.csv", "loop"], "link")
    with pytest.raises(Unavailable, match="symbolic link"):
        list(read_feedback(inbox / "link.csv", FeedbackSettings()))


def test_a_fifo_and_a_socket_are_reported_and_never_waited_for(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(inbox / "pipe.csv")
    monkeypatch.chdir(inbox)  # the address of a socket must be short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.csv")
    assert problems(inbox) == {"pipe.csv": "not_regular", "socket.csv": "not_regular"}
    with pytest.raises(Unavailable, match="FIFO"):
        list(read_feedback(inbox / "pipe.csv", FeedbackSettings()))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (".hidden.csv", "hidden"),
        ("..csv", "hidden"),
        (".folder/a.csv", "hidden"),
        ("a.csv.part", "temporary"),
        ("a.csv.crdownload", "temporary"),
        ("a.csv~", "temporary"),
        ("~$a.csv", "temporary"),
        ("a.zip", "archive"),
        ("a.tar.GZ", "archive"),
        ("a.ods", "archive"),
        ("a.txt", "unknown_extension"),
        ("csv", "unknown_extension"),
    ],
)
def test_a_file_not_to_be_read_is_reported_with_the_reason(inbox: Path, name: str, problem: str) -> None:
    put(inbox, name)
    ((shown, file),) = listed(inbox).items()
    assert (file.problem, name.startswith(shown)) == (problem, True)
    assert file.detail.startswith(shown)


def test_folders_without_end_are_not_entered(inbox: Path) -> None:
    put(inbox, "/".join(["d"] * 20) + "/a.csv")
    assert list(problems(inbox).values()) == ["too_deep_folder"]


def test_names_are_shown_on_one_line_and_stay_different(inbox: Path) -> None:
    names = ["a\nb.csv", "a\\nb.csv", "\u202egnp.csv", "caf\udce9.csv", "a\x1b[31m.csv", "é 😀.csv"]
    for name in names:
        put(inbox, name)
    shown = listed(inbox)
    assert len(shown) == len(names)
    assert all(name.isprintable() and name.encode() for name in shown)
    assert "é 😀.csv" in shown
    for file in shown.values():
        assert len(list(read_feedback(file.path, FeedbackSettings()))) == 1


def test_a_file_changed_a_moment_ago_waits_until_it_has_settled(inbox: Path) -> None:
    path = put(inbox, "a.csv")
    changed = path.stat().st_ctime
    assert [file.problem for file in list_inbox(inbox, 5, changed + 4.9)] == ["still_written"]
    assert [file.problem for file in list_inbox(inbox, 5, changed + 5.1)] == [None]
    assert [file.problem for file in list_inbox(inbox, 0, changed)] == [None]


def test_a_copy_that_sets_an_old_time_has_still_just_been_written(inbox: Path) -> None:
    path = put(inbox, "a.csv")
    os.utime(path, (0, 0))
    assert [file.problem for file in list_inbox(inbox, 5, time.time())] == ["still_written"]


def test_a_time_in_the_future_does_not_keep_a_file_waiting_for_ever(inbox: Path) -> None:
    path = put(inbox, "a.csv")
    os.utime(path, (4e9, 4e9))
    assert problems(inbox) == {"a.csv": None}


def test_a_clock_set_back_makes_a_file_late_and_loses_nothing(inbox: Path) -> None:
    path = put(inbox, "a.csv")
    changed = path.stat().st_ctime
    assert [file.problem for file in list_inbox(inbox, 5, changed - LATER)] == ["still_written"]
    assert [file.problem for file in list_inbox(inbox, 5, changed + 6)] == [None]


def test_the_sha256_is_that_of_the_bytes(inbox: Path) -> None:
    content = b"text\n" + b"fine\n" * 500_000
    put(inbox, "a.csv", content)
    file = listed(inbox)["a.csv"]
    assert sha256_of(file) == hashlib.sha256(content).hexdigest()
    check_unchanged(file)


@pytest.mark.parametrize("change", ["appended", "same size and time", "replaced", "removed", "made a link"])
def test_a_file_changed_since_it_was_listed_is_unavailable(inbox: Path, tmp_path: Path, change: str) -> None:
    path = put(inbox, "a.csv")
    file = listed(inbox)["a.csv"]
    if change == "appended":
        path.write_bytes(path.read_bytes() + b"more\n")
    elif change == "same size and time":
        time.sleep(0.02)  # file times move in steps of some milliseconds
        path.write_bytes(b"text\nFINE\n")
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
    elif change == "replaced":
        put(tmp_path, "new.csv").replace(path)
    else:
        path.unlink()
        if change == "made a link":
            path.symlink_to(put(tmp_path, "elsewhere.csv"))
    with pytest.raises(Unavailable):
        sha256_of(file)
    with pytest.raises(Unavailable):
        check_unchanged(file)


def test_reading_never_touches_the_inbox(inbox: Path) -> None:
    path = put(inbox, "a.csv")
    inbox.chmod(0o555)
    path.chmod(0o444)
    before = path.stat()
    file = listed(inbox)["a.csv"]
    sha256_of(file)
    assert len(list(read_feedback(path, FeedbackSettings()))) == 1
    assert (path.stat().st_mtime_ns, path.stat().st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    assert [file.name for file in inbox.iterdir()] == ["a.csv"]
    inbox.chmod(0o755)
