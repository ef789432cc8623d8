"""The terminal commands: one line for what a user can fix, and figures from the same library as the graph."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import duckdb
import pytest

from emotion_assets.profiles.reader import load_settings
from emotion_assets_tests.conftest import PROJECT, TINY_PROFILE, Terminal

LABELS = load_settings(str(TINY_PROFILE), environ={}).labels


@pytest.fixture
def finished(demo: tuple[Terminal, object], tmp_path: Path) -> Terminal:
    """A copy of the materialised home, to be changed at will."""
    terminal, _ = demo
    shutil.copytree(terminal.home, tmp_path / "home", symlinks=True)
    return Terminal(tmp_path / "home", terminal.environment)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["leaderboard"], "holds no evaluation yet; materialise evaluation_table first"),
        (["score", "hello"], "champion_model was not materialised yet"),
        (["export"], "nothing to export; give --scores FILE, --review FILE or --model NAME --to FOLDER"),
        (["export", "--model", "bert_base"], "--model, --to: belong together; give --model NAME --to FOLDER"),
        (["export", "--model", "x", "--to", "out"], "--model x: not a model of the profile; use llama3_lora_model,"),
        (["export", "--model", "bigru", "--to", "out"], "baseline_models/bigru was not materialised yet"),
        (["score", "x" * 300], "champion_model was not materialised yet"),
        (["score", " "], "nothing to score; give a line of text, or the path of a feedback file"),
        (["score", "emotion_assets"], "emotion_assets: is a folder; give one file of it"),
        (["score", "repoti.CSV"], "repoti.CSV: cannot be opened (No such file or directory); give the path of a"),
        (["score", f"{'x' * 300}.parquet"], "cannot be opened (File name too long); give the path of a feedback file"),
        (["score", "I am glad", "--output", "scores.csv"], "--output: only the scores of a file are written; leave it"),
        (["score", "I rate it 10/10, open 24/7. Thanks."], "champion_model was not materialised yet"),
        (
            ["score", "-", "--output", "x/y.csv", "--rejects", "x/y.csv"],
            "--rejects x/y.csv: is the file of --output too",
        ),
        (["score", "I am glad", "--rejects", "r.csv"], "--rejects: only the scores of a file are written; leave it"),
        (["export", "--review", "r.txt"], "r.txt: not a name for a review file; let it end in .csv or .xlsx"),
        (["export", "--scores", "/sys/x.csv"], "/sys/x.csv: cannot be written ("),
        (["export", "--review", "/sys/x.csv"], "/sys/x.csv: cannot be written ("),
        (
            ["import", "--review", "/sys"],
            "/sys: cannot be read (Is a directory); give the filled-in .xlsx or .csv file",
        ),
    ],
)
def test_a_command_before_the_graph_has_run_says_what_to_do_in_one_line(
    terminal: Terminal, arguments: list[str], said: str
) -> None:
    done = terminal.emotion_assets(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_profile_that_does_not_exist_is_one_line(terminal: Terminal) -> None:
    done = terminal.emotion_assets("leaderboard", EMOTION_PROFILE="nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("EMOTION_PROFILE=nothing: no such profile; use embedded, laptop, paper")


def test_doctor_finds_nothing_missing_for_the_profiles_that_need_nothing(terminal: Terminal) -> None:
    done = terminal.emotion_assets("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing" not in done.stdout


def test_a_home_that_cannot_be_made_is_one_line_of_each_command(terminal: Terminal) -> None:
    looked = terminal.emotion_assets("doctor", EMOTION_HOME="/sys/home", DAGSTER_HOME="/sys/home")
    assert looked.returncode == 1
    said = " ".join(looked.stdout.split())
    assert "missing EMOTION_HOME /sys/home: cannot be used (" in said
    assert "let this user write there, or set EMOTION_HOME to another folder" in said
    board = terminal.emotion_assets("leaderboard", EMOTION_HOME="/sys/home")
    assert board.returncode == 2
    assert board.stderr.startswith("/sys/home/emotion.duckdb.lock: cannot be made (")
    assert len(board.stderr.strip().splitlines()) == 1
    assert "Traceback" not in looked.stderr


def test_the_way_of_feedback_through_the_commands_and_back_after_a_loss(finished: Terminal, tmp_path: Path) -> None:
    """Score a file, export, label, import, lose the database, have it back: as a person does it."""
    asked: list[subprocess.CompletedProcess[str]] = []

    def ask(*arguments: str, ends: int = 0) -> str:
        asked.append(finished.emotion_assets(*arguments))
        assert asked[-1].returncode == ends, asked[-1].stdout + asked[-1].stderr
        return (asked[-1].stderr if ends == 2 else asked[-1].stdout).strip()

    folder = tmp_path / ("a_long_name_" * 6)  # rich would wrap it, and take [b] for markup
    folder.mkdir()
    scores, everything, review = (str(folder / f"{name}[b].csv") for name in ("scores", "everything", "review"))
    database = finished.home / "emotion.duckdb"

    answer = ask("score", "I am so glad that it came " * 40)  # too long for the name of a file
    assert all(label in answer for label in LABELS)
    scored = ask("score", str(PROJECT / "data/sample/feedback/web_form_2026_11.csv"), "--output", scores)
    assert scored.splitlines()[1] == "row 26: empty_text, text without a visible character"
    rows = len(_lines(scores))
    assert scored.startswith(f"{rows} rows scored by ")
    assert ask("export", "--scores", everything) == f"{len(_lines(everything))} rows written to {everything}"
    assert len(_lines(everything)) > rows > 0
    assert ask("export", "--review", review) == f"{len(_lines(review))} rows written to {review}"

    lines = _lines(review)
    lines[0] |= {"label": LABELS[0], "reviewer": "Anna"}
    lines[1] |= {"label": "[red]bored", "reviewer": "Anna"}
    with Path(review).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    said = ask("import", "--review", review).splitlines()
    assert said[0].startswith("1 texts labelled (")
    assert said[0].endswith(f" rows), {len(lines) - 2} without a label")
    assert said[1:] == [f"line 3: left out, label '[red]bored' is not known; use {', '.join(LABELS)}"]
    assert ask("export", "--review", review) == f"{len(lines) - 1} rows written to {review}"

    workbook = review.replace(".csv", ".xlsx")
    assert ask("export", "--review", workbook) == f"{len(lines) - 1} rows written to {workbook}"
    assert ask("import", "--review", workbook) == f"0 texts labelled (0 rows), {len(lines) - 1} without a label"

    board = ask("leaderboard")
    with duckdb.connect(database) as db:
        db.execute("CREATE TABLE notes AS SELECT 1 AS a")
    assert ask("leaderboard") == board
    database.unlink()
    lost = ask("leaderboard", ends=2)
    assert lost.startswith(f"{database}: is gone, and held ")
    assert lost.endswith("run `emotion-assets doctor --rebuild`")
    looked = "".join(ask("doctor", ends=1).split())
    assert "missing" + "database" + "".join(lost.split()) in looked
    restored = ask("doctor", "--rebuild").splitlines()
    assert restored[0].endswith(" rows restored")
    assert restored[-2].startswith(f"{database}: ")
    assert "review_queue" in restored[-2]
    assert restored[-1].startswith("materialise ")
    assert "missing" not in ask("doctor")
    assert ask("leaderboard") == board
    assert ask("export", "--review", review) == f"{len(lines) - 1} rows written to {review}"
    assert not any("Traceback" in done.stdout + done.stderr for done in asked)


def _lines(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_doctor_says_what_the_paper_profile_lacks_here_licence_and_token_included(terminal: Terminal) -> None:
    done = terminal.emotion_assets("doctor", EMOTION_PROFILE="paper", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "dataset dair-ai/emotion" in said
    for name in load_settings("paper", environ={}).bases:
        assert f"missing base {name}" in said
    assert "GPU" in said
    assert "accept its licence" in said
    assert "HF_TOKEN" in said
