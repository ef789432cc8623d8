"""One JSON list of objects: labelled rows alone, since the whole file is parsed at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.problems import Quarantine, Reason, Rejected, RowProblem
from emotion_assets.settings.schema import ReadingSettings


class JsonList(Form):
    """One JSON list of objects."""

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
            raise Quarantine(
                Reason.INVALID_JSON, f"not JSON (line {error.lineno}: {error.msg}); give a list of objects"
            ) from None
        if not isinstance(records, list):
            raise Quarantine(Reason.INVALID_JSON, "holds no list; give a list of objects")
        for number, record in enumerate(records, 1):
            if isinstance(record, dict):
                yield Record(number, record)
            else:
                yield RowProblem(Reason.NOT_AN_OBJECT, f"a {type(record).__name__}, not an object").at(number, "")
