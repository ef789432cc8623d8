"""``emotion-assets score`` as a person types it: what is a path, what is never written over, what is rejected."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emotion_assets.cli.scoring import check_targets, feedback_file, lines_of
from emotion_assets.forms.problems import Rejected
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import TINY_PROFILE, Terminal


@pytest.fixture
def champion(workspace: Workspace) -> Terminal:
    """A home with a champion and nothing else."""
    return Terminal(workspace.settings.home, {"EMOTION_PROFILE": str(TINY_PROFILE)})


@pytest.mark.parametrize(
    "name",
    [
        "missing.json",
        "missing.txt",
        "missing.csv.gz",
        "missing.xlsx",
        "missing.XLS",
        "./nope/missing",
        "nope/missing",
        "/nope/missing",
        "my missing reviews.csv",
        "my folder/missing reviews",
        "data/2026/11",
        "missing.csv ",
    ],
)
def test_what_looks_like_a_path_and_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(UserError) as error:
        feedback_file(name)
    assert str(error.value).startswith(f"{name}: cannot be opened (No such file or directory); give the path of a ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["good", "10/10, open 24/7", "It is slow. Very.", "node.js", "first.\nsee a/b.txt", "x" * 300, "v1.2 e.g. fine"],
)
def test_a_text_is_no_path(text: str) -> None:
    assert feedback_file(text) is None


def test_a_file_is_found_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("what I think").write_text("text\ngood\n")
    assert feedback_file("what I think") == Path("what I think")


@pytest.mark.parametrize("option", ["output", "rejects"])
@pytest.mark.parametrize("how", ["same", "other spelling", "hard link", "symbolic link", "through a linked folder"])
def test_the_file_that_is_read_is_never_written_over(tmp_path: Path, option: str, how: str) -> None:
    source = tmp_path / "r.csv"
    source.write_text("text\ngood\n")
    target = {
        "same": source,
        "other spelling": tmp_path / "x" / ".." / "r.csv",
        "hard link": tmp_path / "hard.csv",
        "symbolic link": tmp_path / "soft.csv",
        "through a linked folder": tmp_path / "folder" / "r.csv",
    }[how]
    (tmp_path / "x").mkdir()
    os.link(source, tmp_path / "hard.csv")
    (tmp_path / "soft.csv").symlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(UserError) as error:
        check_targets(source, **{option: target})
    assert str(error.value) == f"--{option} {target}: is the file that is read; give another name"
    with source.open("rb") as stream, pytest.raises(UserError, match="is the file that is read"):
        check_targets(stream, **{option: target})
    check_targets(source, output=tmp_path / "scores.csv", rejects=tmp_path / "rejects.csv")


def test_scores_and_rejected_rows_do_not_go_to_one_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the file of --output too; give another name"):
        check_targets(io.BytesIO(), output=tmp_path / "a.csv", rejects=tmp_path / "x" / ".." / "a.csv")


def test_each_line_that_is_not_blank_is_a_text() -> None:
    rows = list(lines_of(io.BytesIO("\ufeffgood, very\r\n\n  \nbad: \u2028 yes\n".encode() + b"caf\xe9\n" + b"last")))
    (rejected,) = [row for row in rows if isinstance(row, Rejected)]
    texts = [(row.row_number, row.text) for row in rows if not isinstance(row, Rejected)]
    assert texts == [(1, "good, very"), (4, "bad: \u2028 yes"), (6, "last")]
    assert (rejected.row_number, rejected.reason_code) == (5, "bad_encoding")
    assert "0xe9" in rejected.detail


def test_lines_that_are_piped_in_are_scored_each(champion: Terminal, tmp_path: Path) -> None:
    done = champion.emotion_assets("score", "-", stdin="I am so happy\n\n[b]I am so angry\n")
    assert done.returncode == 0, done.stderr
    (happy,) = [line for line in done.stdout.splitlines() if "I am so happy" in line]
    (angry,) = [line for line in done.stdout.splitlines() if "[b]I am so angry" in line]
    assert happy.split()[1:4:2] == ["1", "joy"]
    assert angry.split()[1:4:2] == ["3", "anger"]
    assert "2 rows scored by tfidf_svm" in done.stdout
    done = champion.emotion_assets("score", "-", "--output", str(tmp_path / "out.csv"), stdin="I am so happy\noh no\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == ["I am so happy", "oh no"]


def test_one_line_piped_in_is_shown_as_a_text_is(champion: Terminal) -> None:
    text = "he/she was so kind to us, see thanks.txt"
    assert champion.emotion_assets("score", text).returncode == 2
    done = champion.emotion_assets("score", "-", stdin=f"{text}\n")
    assert done.returncode == 0, done.stderr
    assert all(label in done.stdout for label in ("joy", "anger", "surprise"))


@pytest.mark.parametrize(("arguments", "stdin"), [(["-"], " \n\n"), (["-"], "")])
def test_standard_input_without_a_text_is_one_line(champion: Terminal, arguments: list[str], stdin: str) -> None:
    done = champion.emotion_assets("score", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "standard input: nothing scored, it holds no text; give one with rows\n"


def test_a_file_that_is_redirected_in_is_not_written_over(champion: Terminal, tmp_path: Path) -> None:
    source = tmp_path / "r.csv"
    source.write_text("so happy\n")
    environment = os.environ | {"EMOTION_HOME": str(champion.home)} | champion.environment
    with source.open() as stream:
        command = [sys.executable, "-m", "emotion_assets.cli", "score", "-", "--output", str(source)]
        done = subprocess.run(command, stdin=stream, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr == f"--output {source}: is the file that is read; give another name\n"
    assert source.read_text() == "so happy\n"


def test_rejected_rows_are_named_with_row_reason_and_detail(champion: Terminal, tmp_path: Path) -> None:
    path, rejects = tmp_path / "[b]r.csv", tmp_path / "rejects.csv"
    path.write_text("text,stars\n" + "so happy,5\n" + "more,fields,than\n" * 12)
    done = champion.emotion_assets("score", str(path))
    assert done.returncode == 0, done.stderr
    summary, *named, more = done.stdout.splitlines()
    assert summary.endswith("; 12 rejected as wrong_column_count")
    assert named == [f"row {n}: wrong_column_count, 3 fields, the header has 2" for n in range(3, 13)]
    assert more == "and 2 more rejected rows; --rejects FILE.csv writes all of them"
    done = champion.emotion_assets("score", str(path), "--rejects", str(rejects))
    assert done.stdout.splitlines()[-1] == f"and 2 more rejected rows; all are in {rejects}"
    assert len(rejects.read_text().splitlines()) == 13


def test_nothing_scored_is_exit_code_2_and_leaves_the_scores_of_before(champion: Terminal, tmp_path: Path) -> None:
    path, output, rejects = tmp_path / "r.jsonl", tmp_path / "o.csv", tmp_path / "rejects.csv"
    path.write_text('{"text": " "}\n{"stars": 5}\n{"stars": 4}\n')
    output.write_text("scores of before")
    done = champion.emotion_assets("score", str(path), "--output", str(output), "--rejects", str(rejects))
    assert done.returncode == 2
    expected = f"{path}: nothing scored, 2 rejected as missing_text, 1 rejected as empty_text; mend the rows as their "
    assert done.stderr == expected + "details say\n"
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        "row 1: empty_text",
        "row 2: missing_text",
        "row 3: missing_text",
    ]
    assert output.read_text() == "scores of before"
    assert len(rejects.read_text().splitlines()) == 4
