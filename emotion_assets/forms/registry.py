"""The forms there are, and which one a file is of: by its bytes, so that its outcome does not depend on its name.

Parquet starts with its magic bytes, a CSV file's first line names the required columns, a JSON Lines file starts with
a brace. Only where the bytes say none of these does the name decide what the file was meant to be, and so what is
reported about it.
"""

from __future__ import annotations

import codecs
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

from emotion_assets import forms
from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.lines import first_filled, numbered_lines
from emotion_assets.forms.problems import Quarantine, Reason, Rejected
from emotion_assets.settings.schema import ReadingSettings

_HEAD_BYTES = 4096
_ARCHIVE_MAGIC = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf",
    b"Rar!",
)
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


@cache
def all_forms() -> tuple[Form, ...]:
    """Every form, from the modules of this package, in alphabetical order of the modules."""
    names = [f"{forms.__name__}.{info.name}" for info in pkgutil.iter_modules(forms.__path__)]
    modules = [importlib.import_module(name) for name in names]
    return tuple(
        value()
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Form)
        and not inspect.isabstract(value)
        and value.__module__ == module.__name__
    )


def form_of_suffix(suffix: str) -> Form | None:
    """The form whose files end so."""
    return next((form for form in all_forms() if suffix in form.suffixes), None)


def inbox_suffixes() -> frozenset[str]:
    """The endings of files that feedback may come in."""
    return frozenset(suffix for form in all_forms() if form.in_inbox for suffix in form.suffixes)


def read_records(
    stream: BinaryIO, suffix: str, reading: ReadingSettings, columns: Columns
) -> Iterator[Record | Rejected]:
    """Every row of a file in whatever form feedback may come in.  Raises as ``Form.records`` does."""
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    form = _recognise(stream, head, suffix, reading, columns)
    stream.seek(0)
    yield from form.records(stream, reading, columns)


def _recognise(stream: BinaryIO, head: bytes, suffix: str, reading: ReadingSettings, columns: Columns) -> Form:
    candidates = [form for form in all_forms() if form.in_inbox]
    for form in candidates:
        if form.magic and head.startswith(form.magic):
            return form
    _check_head(head, reading.encoding)
    first = first_filled(numbered_lines(stream, reading.encoding, reading.max_row_bytes))
    for form in candidates:
        if form.claims(first.content, suffix, reading, columns):
            return form
    meant = form_of_suffix(suffix)
    if meant is not None and meant.magic:
        raise Quarantine(Reason.CORRUPT_PARQUET, f"does not start as a {suffix[1:]} file; export it again")
    csv = form_of_suffix(".csv")
    assert csv is not None
    return csv  # what its header lacks is what is reported


def _check_head(head: bytes, encoding: str) -> None:
    if not head:
        raise Quarantine(Reason.EMPTY_FILE, "0 bytes; deliver it again with its rows")
    if head.startswith(_ARCHIVE_MAGIC):
        raise Quarantine(Reason.ARCHIVE, "an archive or compressed file whatever its name; unpack it into the inbox")
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return
    if head.startswith(_WIDE_MARKS) or head.count(0) * 4 > len(head):
        raise Quarantine(
            Reason.WRONG_ENCODING,
            f"looks like UTF-16 or binary data, not {encoding}; set feedback.encoding or save as UTF-8",
        )
