"""Lines of ``text;label``, as published datasets of emotions come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.lines import first_filled, numbered_lines
from emotion_assets.forms.problems import Reason, Rejected, RowProblem
from emotion_assets.settings.feedback import ReadingSettings


class LabelledLines(Form):
    """A text and, after the last semicolon, its label on each line."""

    title = "lines of text;label"
    suffixes = (".txt",)
    in_inbox = False

    def records(self, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
        lines = numbered_lines(stream, reading.encoding, reading.max_row_bytes)
        first = first_filled(lines)
        for number, content, _ in (first, *lines):
            if not content.strip():
                continue
            try:
                text, separator, label = content.decode("utf-8").rstrip("\r").rpartition(";")
            except UnicodeDecodeError:
                yield RowProblem(Reason.BAD_ENCODING, "not UTF-8").at(number, content)
                continue
            if separator:
                yield Record(number, {"text": text, "label": label}, content)
            else:
                problem = RowProblem(Reason.WRONG_COLUMN_COUNT, "no ';' between text and label")
                yield problem.at(number, content)
