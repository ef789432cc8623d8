"""JSONL: one JSON object (RFC 8259) per line.

Belongs here: what JSON allows and Python's parser does not refuse by itself: half surrogates, nesting without end, keys
named twice (kept as ``key_2``), NaN and infinite numbers (kept as null); in labelled rows the last two are refused.
Does not belong here: what the values mean.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, BinaryIO, NoReturn

from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.lines import first_filled, numbered_lines
from emotion_assets.forms.problems import (
    MAX_DEPTH,
    Reason,
    Rejected,
    RowProblem,
    check_characters,
    check_sizes,
)
from emotion_assets.settings.feedback import ReadingSettings

MAX_KNOWN_KEYS = 1000
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


class JsonLines(Form):
    """One JSON object on each line."""

    title = "JSON Lines"
    suffixes = (".jsonl", ".ndjson")

    def claims(self, first_line: bytes, suffix: str, reading: ReadingSettings, columns: Columns) -> bool:
        start = first_line.strip()
        return start.startswith(b"{") or (suffix in self.suffixes and not start.startswith(b"["))

    def records(self, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
        lines = numbered_lines(stream, reading.encoding, reading.max_row_bytes)
        rename = renamer(columns)
        for number, content, _ in chain([first_filled(lines)], lines):
            if not content or content.isspace():
                continue
            try:
                yield Record(number, rename(_object(content, reading, columns)), content)
            except RowProblem as problem:
                yield problem.at(number, content)


def renamer(columns: Columns) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that gives an object's keys the names of the columns wanted."""
    if not columns.loosely:
        return lambda values: values
    known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def rename(values: dict[str, Any]) -> dict[str, Any]:
        keys = tuple(values)
        names = known.get(keys)
        if names is None:
            names = columns.rename(keys)
            if len(known) < MAX_KNOWN_KEYS:
                known[keys] = names
        return values if names == keys else dict(zip(names, values.values(), strict=True))

    return rename


def _object(content: bytes, settings: ReadingSettings, columns: Columns) -> dict[str, Any]:
    if len(content) > settings.max_row_bytes:
        raise RowProblem(Reason.ROW_TOO_LONG, f"longer than max_row_bytes {settings.max_row_bytes}")
    if b"\0" in content:
        raise RowProblem(Reason.NUL)
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH and _depth(content) > MAX_DEPTH:
        raise RowProblem(Reason.TOO_DEEP, f"nested more than {MAX_DEPTH} levels deep")
    try:
        values = (LENIENT if columns.loosely else STRICT).decode(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowProblem(
            Reason.BAD_ENCODING, f"byte 0x{content[error.start]:02x} at position {error.start + 1} is no character"
        ) from None
    except json.JSONDecodeError as error:
        raise RowProblem(Reason.INVALID_JSON, f"{error.msg} at position {error.pos + 1}") from None
    except ValueError:
        raise RowProblem(Reason.INVALID_JSON, "a number with thousands of digits") from None
    return check_object(values, content, settings)


def check_object(values: Any, raw: str | bytes, settings: ReadingSettings) -> dict[str, Any]:
    """A JSON value as a row, given with its text.

    Raises:
        RowProblem: it is no object, too large, or holds what is no character.
    """
    if not isinstance(values, dict):
        raise RowProblem(Reason.NOT_AN_OBJECT, f"a {type(values).__name__}, not an object with a text")
    if len(raw) > settings.max_row_bytes:
        raise RowProblem(Reason.ROW_TOO_LONG, f"longer than max_row_bytes {settings.max_row_bytes}")
    if len(values) > settings.max_columns:
        raise RowProblem(Reason.TOO_MANY_COLUMNS, f"{len(values)} keys, max_columns is {settings.max_columns}")
    if (b"\\u" in raw) if isinstance(raw, bytes) else ("\\u" in raw or "\0" in raw):
        check_characters(values)
    if len(raw) * (1 if isinstance(raw, bytes) else 4) > settings.max_field_bytes:
        check_sizes(values, settings.max_field_bytes)
    return values


def _depth(content: bytes) -> int:
    deepest = depth = 0
    for byte in _STRING.sub(b"", content):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise RowProblem(Reason.DUPLICATE_KEY, f"the key {repeated[:40]!a} is given twice")
    return values


def _numbered_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    values = {}
    for key, value in pairs:
        values[
            next(name for name in (key, *(f"{key}_{n}" for n in range(2, len(pairs) + 2))) if name not in values)
        ] = value
    return values


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RowProblem(Reason.NOT_A_NUMBER, f"{digits[:20]} is too large for a number")
    return number


def _finite_or_none(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _refuse(name: str) -> NoReturn:
    raise RowProblem(Reason.NOT_A_NUMBER, f"{name} is not JSON; leave the key out or use null")


STRICT = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_float=_finite, parse_constant=_refuse)
LENIENT = json.JSONDecoder(
    object_pairs_hook=_numbered_keys, parse_float=_finite_or_none, parse_constant=lambda name: None
)
