"""The forms there are, and which one a file is of: by its bytes, so that its outcome does not depend on its name.

Parquet, Excel and gzip start with their magic bytes, a JSON list with a bracket, JSON Lines with a brace, a CSV file's
first line names the required columns. Only where the bytes say none of these does the name decide what the file was
meant to be, and so what is reported about it. What is not read is named for what it is.
"""

from __future__ import annotations

import gzip
import importlib
import inspect
import pkgutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, BinaryIO

from emotion_assets import forms
from emotion_assets.forms.encoding import find_encoding, is_wide, marked_encoding
from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.lines import first_filled, numbered_lines
from emotion_assets.forms.problems import Quarantine, Reason, Rejected
from emotion_assets.settings.feedback import ReadingSettings

GZIP, GZIP_MAGIC = ".gz", b"\x1f\x8b"
_HEAD_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_NOT_READ = (
    (GZIP_MAGIC, "compressed twice with gzip; compress it once"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "compressed with bzip2; compress it with gzip, or not at all"),
    (b"\xfd7zXZ\x00", "compressed with xz; compress it with gzip, or not at all"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; compress it with gzip, or not at all"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Office file (.xls, .doc), or one with a password; save it as .xlsx without a password, or as .csv",
    ),
    (b"%PDF", "a PDF; export the table as .csv or .xlsx"),
    (b"SQLite format 3", "an SQLite database; export the table as .csv or .parquet"),
    (b"ARROW1", "an Arrow (Feather) file; write it as .parquet"),
    (b"ORC", "an ORC file; write it as .parquet"),
    (b"Obj\x01", "an Avro file; write it as .parquet or .jsonl"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"{\\rtf", "a Rich Text document; save the table as .csv or .xlsx"),
)


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
    stream: BinaryIO,
    suffix: str,
    reading: ReadingSettings,
    columns: Columns,
    opened: Callable[[BinaryIO], None] = lambda plain: None,
) -> Iterator[Record | Rejected]:
    """Every row of a file in whatever form feedback may come in.

    Args:
        suffix: ending of the file's name, in lower case; of a compressed file the one before ``.gz``.
        opened: is given a text file, unpacked, before its rows: its position then moves on with them, up to
            ``READ_AHEAD_BYTES`` ahead. A binary form is read in another order, by another process.

    Raises:
        Quarantine, OSError: see ``Form.records``.
    """
    with unpacked(stream, reading.max_unpacked_bytes) as plain:
        form, encoding = recognise(plain, suffix, reading, columns)
        plain.seek(0)
        if not form.magic:
            opened(plain)
        yield from form.records(plain, reading.model_copy(update={"encoding": encoding}), columns)


@contextmanager
def unpacked(stream: BinaryIO, max_bytes: int) -> Iterator[BinaryIO]:
    """The file itself, or where it is compressed with gzip what it holds, at most ``max_bytes``.

    Raises:
        Quarantine: it unpacks to more, or is damaged.
    """
    stream.seek(0)
    if stream.read(2) != GZIP_MAGIC:
        yield stream
        return
    with tempfile.TemporaryFile() as plain:
        _unpack(stream, plain, max_bytes)
        yield plain  # type: ignore[misc]  # a BinaryIO in all but name


def recognise(stream: BinaryIO, suffix: str, reading: ReadingSettings, columns: Columns) -> tuple[Form, str]:
    """The form of a file that is not compressed, and its encoding (of a binary form without meaning).

    Raises:
        Quarantine: it is of no form that is read, or not in the encoding it should be in.
    """
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    candidates = [form for form in all_forms() if form.in_inbox]
    for form in candidates:
        if form.magic and head.startswith(form.magic):
            return form, reading.encoding
    _refuse_what_is_not_read(head, reading.encoding, columns.settings)
    encoding = find_encoding(stream, reading.encoding, columns.settings)
    first = first_filled(numbered_lines(stream, encoding, reading.max_row_bytes))
    for form in candidates:
        if form.claims(first.content, suffix, reading, columns):
            return form, encoding
    meant = form_of_suffix(suffix)
    if meant is not None and meant.magic:
        reason = Reason.CORRUPT_PARQUET if suffix == ".parquet" else Reason.DAMAGED
        raise Quarantine(reason, f"does not start as a {suffix[1:]} file; export it again")
    if first.content.lstrip()[:1] == b"<":
        raise Quarantine(Reason.UNKNOWN_FORM, "HTML or XML, whatever its name; export the table as .csv or .xlsx")
    csv = form_of_suffix(".csv")
    assert csv is not None
    return csv, encoding  # what its header lacks is what is reported


def _refuse_what_is_not_read(head: bytes, encoding: str, settings: str) -> None:
    if not head:
        raise Quarantine(Reason.EMPTY_FILE, "0 bytes; deliver it again with its rows")
    for magic, what in _NOT_READ:
        if head.startswith(magic):
            raise Quarantine(Reason.UNKNOWN_FORM, f"{what} (whatever its name)")
    if head[257:262] == b"ustar":
        raise Quarantine(Reason.UNKNOWN_FORM, "a tar archive, whatever its name; unpack it")
    if marked_encoding(head) is None and not is_wide(encoding) and head.count(0) * 4 > len(head):
        raise Quarantine(
            Reason.WRONG_ENCODING,
            f"looks like UTF-16 without a byte order mark, or like binary data; set {settings}.encoding "
            "(utf-16-le, as Windows writes it), or save it as UTF-8",
        )


def _unpack(stream: BinaryIO, target: IO[bytes], max_bytes: int) -> None:
    """Decompress a gzip file into ``target``, which takes at most ``max_bytes``."""
    stream.seek(0)
    written = 0
    try:
        with gzip.GzipFile(fileobj=stream) as packed:
            while block := packed.read(_CHUNK_BYTES):
                written += len(block)
                if written > max_bytes:
                    raise Quarantine(
                        Reason.TOO_LARGE_UNCOMPRESSED,
                        f"unpacks to more than max_unpacked_bytes {max_bytes}; split the file",
                    )
                target.write(block)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Quarantine(Reason.DAMAGED, "a gzip file that is damaged or cut off; deliver it again") from None
    target.flush()
