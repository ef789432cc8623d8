"""Why a file is not read or a row is refused, each reason with its code, and the checks that every form shares.

Belongs here: what readers and the ledger of feedback both name. Does not belong here: how bytes become values (the
forms) and what a value must be (``ingest.rows``, ``dataset.splits``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from emotion_assets.settings.errors import UserError

MAX_DEPTH = 32
EXCERPT_CHARACTERS = 200
_NO_CHARACTER = re.compile("[\x00\ud800-\udfff]")


class Reason(StrEnum):
    """Why a file of the inbox is not opened, a file is quarantined, or a row rejected. ``explain`` is for a person."""

    explain: str

    def __new__(cls, code: str, explain: str) -> Reason:
        member = str.__new__(cls, code)
        member._value_ = code
        member.explain = explain
        return member

    # Files of the inbox that are not opened.
    LINK = "link", "a symbolic link: only regular files are read"
    NOT_REGULAR = "not_regular", "a FIFO, socket or device: only regular files are read"
    HIDDEN = "hidden", "a name that starts with a dot: rename it when it is ready"
    TEMPORARY = "temporary", "a name that copying programs give to unfinished files: rename it when it is ready"
    ARCHIVE = "archive", "an archive or a compressed file that is not read: unpack it"
    UNKNOWN_EXTENSION = "unknown_extension", "not named .csv, .tsv, .jsonl, .ndjson, .json, .xlsx or .parquet"
    UNREADABLE = "unreadable", "the file or folder cannot be opened: check its permissions"
    TOO_DEEP_FOLDER = "too_deep_folder", "folders nested too deeply below the inbox"
    STILL_WRITTEN = "still_written", "changed a moment ago: it is left for the next tick"

    # Files that are quarantined whole.
    EMPTY_FILE = "empty_file", "the file holds nothing"
    WRONG_ENCODING = "wrong_encoding", "the file is not in the configured encoding"
    BAD_HEADER = "bad_header", "the header line cannot be read"
    MISSING_TEXT_COLUMN = "missing_text_column", "no column is named text"
    DUPLICATE_COLUMN = "duplicate_column", "two columns have one name"
    TOO_MANY_COLUMNS = "too_many_columns", "more columns than max_columns"
    AMBIGUOUS_DELIMITER = "ambiguous_delimiter", "the header can be split in two ways: state the delimiter"
    UNCLOSED_QUOTE = "unclosed_quote", "a quote opens and is not closed, so that rows cannot be told apart"
    CORRUPT_PARQUET = "corrupt_parquet", "the Parquet file is damaged"
    UNSUPPORTED_TYPE = "unsupported_type", "a Parquet column has a type that cannot be kept"
    TOO_LARGE_UNCOMPRESSED = "too_large_uncompressed", "the file unpacks to more than is allowed"
    DAMAGED = "damaged", "the file is damaged or cut off"
    UNKNOWN_FORM = "unknown_form", "the file is of a form that is not read"

    # Rows that are rejected.
    BAD_ENCODING = "bad_encoding", "bytes that are not in the configured encoding"
    NUL = "nul", "a NUL character"
    LONE_SURROGATE = "lone_surrogate", "half of a surrogate pair, which is no character"
    BAD_QUOTE = "bad_quote", "a quote inside an unquoted field, or text after a closing quote"
    BARE_CR = "bare_cr", "a carriage return that ends no line"
    WRONG_COLUMN_COUNT = "wrong_column_count", "more or fewer fields than the header has"
    ROW_TOO_LONG = "row_too_long", "longer than max_row_bytes"
    FIELD_TOO_LONG = "field_too_long", "a field longer than max_field_bytes"
    INVALID_JSON = "invalid_json", "the line is not JSON"
    NOT_AN_OBJECT = "not_an_object", "the line is JSON but not an object"
    DUPLICATE_KEY = "duplicate_key", "an object names a key twice"
    NOT_A_NUMBER = "not_a_number", "NaN or an infinite number"
    TOO_DEEP = "too_deep", "values nested too deeply"
    MISSING_TEXT = "missing_text", "no text is given"
    TEXT_NOT_STRING = "text_not_string", "text is a number, a list or another value that is not a string"
    EMPTY_TEXT = "empty_text", "text without a visible character"
    BAD_ID = "bad_id", "id is neither a string nor a whole number"
    BAD_CREATED_AT = "bad_created_at", "created_at is not an ISO 8601 date or time"
    FORGOTTEN = "forgotten", "removed by the command forget, and not taken in again"


class Quarantine(UserError):  # noqa: N818
    """A file that as a whole cannot be read: nothing of it is kept, also of rows that were already yielded."""

    def __init__(self, reason_code: Reason, detail: str) -> None:
        super().__init__(f"{reason_code}: {detail}")
        self.reason_code = reason_code
        self.detail = detail


def reason_without_content(reason: str) -> str:
    """A quarantined file's reason as a log may hold it: what the code says, nothing that stood in the file."""
    code = reason.partition(":")[0]
    known = {str(kind): kind.explain for kind in Reason}
    return f"{code}: {known[code]}" if code in known else "of another reason than there are today"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row not to keep. ``raw_excerpt`` is its beginning, at most 200 characters, always valid Unicode without NUL."""

    row_number: int
    reason_code: Reason
    detail: str
    raw_excerpt: str


class RowProblem(Exception):  # noqa: N818
    """Raised inside a reader for a row to reject; readers turn it into ``Rejected``."""

    def __init__(self, reason_code: Reason, detail: str = "") -> None:
        super().__init__(reason_code, detail)
        self.reason_code = reason_code
        self.detail = detail or reason_code.explain

    def at(self, row_number: int, raw: str | bytes) -> Rejected:
        return Rejected(row_number, self.reason_code, self.detail, excerpt(raw))


def check_characters(value: Any) -> None:
    """Every string in a JSON value, keys too, consists of characters.

    Raises:
        RowProblem: one holds a NUL or a lone surrogate.
    """
    if isinstance(value, str):
        if found := _NO_CHARACTER.search(value):
            raise RowProblem(Reason.NUL if found.group() == "\0" else Reason.LONE_SURROGATE)
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_characters(key)
            check_characters(inner)
    elif isinstance(value, list):
        for inner in value:
            check_characters(inner)


def check_sizes(values: dict[str, Any], max_field_bytes: int) -> None:
    """Raises RowProblem for a field above the limit; a value that is no string counts as its JSON."""
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if len(text) > max_field_bytes or len(text.encode("utf-8", "replace")) > max_field_bytes:
            raise RowProblem(Reason.FIELD_TOO_LONG, f"{excerpt(key)[:40]!r} is longer than {max_field_bytes} bytes")


def excerpt(raw: str | bytes) -> str:
    """The beginning of a row as Unicode without NUL, what is neither being shown as an escape."""
    text = raw[: EXCERPT_CHARACTERS * 4].decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    text = text[:EXCERPT_CHARACTERS].replace("\0", "\\x00")
    return text.encode("utf-8", "backslashreplace").decode()[:EXCERPT_CHARACTERS]


def summary(values: dict[str, Any]) -> str:
    """The values of a row that has no text of its own, for an excerpt."""
    return ", ".join(f"{name}={str(value)[:200]}" for name, value in list(values.items())[:20])
