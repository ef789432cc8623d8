"""``emotion-assets inspect`` as a person types it."""

from __future__ import annotations

from pathlib import Path

import yaml

from emotion_assets_tests.conftest import Terminal


def test_a_vendor_s_file_is_shown_with_the_lines_to_paste(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "inbox" / "shop" / "export.csv"
    file.parent.mkdir(parents=True)
    file.write_bytes("Case;Comment [b];Opened\n1;Café is [i]good;24.12.2026\n2; ;01.02.2026\n".encode("cp1252"))
    done = terminal.emotion_assets("inspect", str(file))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["source: shop", "form: CSV"]
    assert "encoding: line 2 is not utf-8; set feedback.sources.shop.encoding" in lines[2]
    assert "  cp1252 (taken below): 1;Café is [i]good;24.12.2026" in lines
    assert "delimiter: semicolons" in lines
    (row,) = [line for line in lines if "Comment [b]" in line and "could be text" in line]
    assert "Café is [i]good" in row
    assert "As the profile stands: set aside whole: wrong_encoding" in done.stdout
    start, end = lines.index("feedback:"), lines.index("It gives: 1 rows accepted")
    pasted = yaml.safe_load("\n".join(lines[start:end]))
    assert pasted["feedback"]["sources"]["shop"] == {"columns": {"text": "Comment [b]"}, "encoding": "cp1252"}
    assert lines[end + 1] == "  1 rejected: 1 empty_text (text without a visible character)"
    assert not (terminal.home / "emotion.duckdb").exists()


def test_undated_rows_are_shown_by_form_with_both_ways_to_read_them(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    file.write_text("text,created_at\ngood,1/5/2026\nbad,2/5/2026\nwell,soon\n")
    done = terminal.emotion_assets("inspect", str(file))
    assert done.returncode == 0, done.stderr
    assert "3 of them undated, by form (9 a digit, A a letter): 2 9/9/9999; 1 AAAA" in done.stdout
    assert '# created_at_format: "%d/%m/%Y"  # day first' in done.stdout
    assert '# created_at_format: "%m/%d/%Y"  # month first' in done.stdout
    assert "No date of the file tells days and months apart" in done.stdout
    assert "No usual pattern reads the dates AAAA" in done.stdout


def test_a_file_without_a_header_is_suspected(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    file.write_text("it was good;5\nit was so bad;1\n")
    assert "Its first line is taken for the names of columns" in terminal.emotion_assets("inspect", str(file)).stdout


def test_a_file_that_needs_nothing_says_so(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("text\ngood\n")
    done = terminal.emotion_assets("inspect", str(file))
    assert "As the profile stands: 1 rows accepted\nNothing to set: it is read as it is." in done.stdout
    assert "its name: left alone in the inbox, not named .csv" in done.stdout


def test_what_is_not_read_is_one_line(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"%PDF-1.7\n")
    for name, said in (
        ("a.csv", "a PDF; export the table as .csv or .xlsx"),
        ("", "is a folder; give one file of it"),
        ("gone.csv", "cannot be read (No such file or directory); give the path of a feedback file"),
    ):
        done = terminal.emotion_assets("inspect", str(tmp_path / name))
        assert done.returncode == 2
        assert done.stderr.startswith(f"{tmp_path / name}: {said}")
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
