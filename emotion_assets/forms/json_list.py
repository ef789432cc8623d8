"""One JSON list of objects: labelled rows alone, since the whole file is parsed at once.

JSON Lines under this name (``Dataset.to_json`` and pandas with ``lines=True`` write that) are read as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.jsonl import JsonLines
from emotion_assets.forms.problems import Quarantine, Reason, Rejected, RowProblem
from emotion_assets.settings.schema import ReadingSettings


class JsonList(Form):
    """One JSON list of objects, or one object on each line."""

    suffixes = (".json",)
    in_inbox = False

    def records(self, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
        try:
            content = stream.read()
            text = content.decode("utf-8-sig")
            records = json.loads(text) if text.strip() else []
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise Quarantine(Reason.WRONG_ENCODING, f"line {line} is not UTF-8; save the file as UTF-8") from None
        except json.JSONDecodeError as error:
            if error.msg == "Extra data" and text.lstrip().startswith("{"):
                stream.seek(0)
                yield from JsonLines().records(stream, reading, columns)
                return
            raise Quarantine(
                Reason.INVALID_JSON, f"not JSON (line {error.lineno}: {error.msg}); give a list of objects"
            ) from None
        if isinstance(records, dict) and columns.present_in(tuple(records)) and not _nested(records):
            records = [records]  # a single line
        if not isinstance(records, list):
            raise Quarantine(Reason.INVALID_JSON, "holds no list; give a list of objects")
        for number, record in enumerate(records, 1):
            if isinstance(record, dict):
                yield Record(number, record)
            else:
                yield RowProblem(Reason.NOT_AN_OBJECT, f"a {type(record).__name__}, not an object").at(number, "")


def _nested(record: dict[str, Any]) -> bool:
    """Whether the object holds objects, as one that is written column by column does."""
    return any(isinstance(value, dict) for value in record.values())
