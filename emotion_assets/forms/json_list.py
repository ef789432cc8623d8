"""JSON lists of objects, pretty-printed or not, or such objects one after the other, read in bounded memory.

Python's own decoder reads each object, so that what is JSON, and what of NaN and keys given twice becomes, is the same
as in JSON Lines; ijson would refuse a list with a NaN in it, which ``json.dump`` writes. JSON Lines under this name
(``Dataset.to_json`` and pandas with ``lines=True`` write that) are read as such.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.jsonl import LENIENT, STRICT, JsonLines, check_object, renamer
from emotion_assets.forms.lines import READ_AHEAD_BYTES, first_filled, numbered_lines
from emotion_assets.forms.problems import Quarantine, Reason, Rejected, RowProblem
from emotion_assets.settings.feedback import ReadingSettings

_LONGEST_OBJECT = 16  # times max_row_bytes: a longer one is not looked for the end of


class JsonList(Form):
    """A JSON list of objects, objects over several lines, or one object on each line."""

    title = "a JSON list"
    suffixes = (".json",)

    def claims(self, first_line: bytes, suffix: str, reading: ReadingSettings, columns: Columns) -> bool:
        return first_line.strip()[:1] == b"[" or first_line.strip() == b"{"  # no whole object ends on such a line

    def records(self, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
        first = first_filled(numbered_lines(stream, reading.encoding, reading.max_row_bytes)).content.strip()
        stream.seek(0)
        if first.startswith(b"{") and first != b"{":
            yield from JsonLines().records(stream, reading, columns)
            return
        objects = _Objects(stream, reading, LENIENT if columns.loosely else STRICT)
        rename = renamer(columns)
        for number, found in enumerate(objects, 1):
            yield _row(number, found, reading, rename)


def _row(number: int, found: Any, reading: ReadingSettings, rename: Callable[..., Any]) -> Record | Rejected:
    if isinstance(found, RowProblem):
        return found.at(number, "")
    values, raw = found
    try:
        return Record(number, rename(check_object(values, raw, reading)))
    except RowProblem as problem:
        return problem.at(number, raw)


class _Objects:
    """Each object of a list with its text as it stands in the file, or the problem that it is."""

    def __init__(self, stream: BinaryIO, reading: ReadingSettings, decoder: json.JSONDecoder) -> None:
        self._stream, self._decoder = stream, decoder
        self._bytes = codecs.getincrementaldecoder(reading.encoding)()
        self._limit = reading.max_row_bytes * _LONGEST_OBJECT
        self._text, self._at, self._lines, self._ended = "", 0, 1, False

    def __iter__(self) -> Iterator[tuple[Any, str] | RowProblem]:
        while start := self._next_character():  # lists one after the other are the pages of one export
            if start == "[":
                self._at += 1
                yield from self._list()
            elif start == "{":
                yield self._object()
            else:
                raise self._problem("not JSON (neither a list nor an object begins here); give a list of objects")

    def _list(self) -> Iterator[tuple[Any, str] | RowProblem]:
        if self._next_character() == "]":
            self._at += 1
            return
        while True:
            yield self._object()
            separator = self._next_character()
            if not separator:
                raise self._problem("the list has no end: cut off; deliver it again")
            self._at += 1
            if separator == "]":
                return
            if separator != ",":
                raise self._problem("not JSON (no comma between two objects); give a list of objects")
            self._next_character()

    def _object(self) -> tuple[Any, str] | RowProblem:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RowProblem as problem:  # what JSON has, and labelled rows may not have
                return problem
            except RecursionError:
                raise self._problem("nested too deeply; give a flat list of objects") from None
            except ValueError as error:
                if not self._read_more():
                    raise self._problem(f"not JSON ({str(error).split(':')[0]}); give a list of objects") from None
                continue
            if end == len(self._text) and not self._ended and self._read_more():
                continue  # a number may go on in what was not read yet
            raw, self._at = self._text[self._at : end], end
            return value, raw

    def _next_character(self) -> str:
        """The next character that is not blank, which stays where it is; empty at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n\ufeff":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """Whether there was more; what was read before is let go."""
        if len(self._text) - self._at > self._limit:
            return False
        try:
            chunk = self._stream.read(READ_AHEAD_BYTES)
            text = self._bytes.decode(chunk, final=not chunk)
        except UnicodeDecodeError:
            raise Quarantine(
                Reason.WRONG_ENCODING, f"line {self._line()} is not UTF-8; save the file as UTF-8"
            ) from None
        self._ended = not chunk
        self._lines += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(text) or not self._ended

    def _line(self) -> int:
        return self._lines + self._text.count("\n")

    def _problem(self, what: str) -> Quarantine:
        return Quarantine(Reason.INVALID_JSON, f"line {self._lines + self._text.count(chr(10), 0, self._at)}: {what}")
