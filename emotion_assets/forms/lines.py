"""A file's bytes as numbered lines of UTF-8, in memory that no file can exceed.

Belongs here: reading in chunks, other encodings, line ends, over-long lines. Does not belong here: what a line means.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from emotion_assets.forms.problems import Quarantine, Reason

READ_AHEAD_BYTES = 1 << 16  # read at a time, so at most so far ahead of a row
_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line without its newline (a carriage return before it stays). ``number`` counts from 1.

    A line longer than the limit is cut one byte above it, which tells that it was; ``quotes_cut`` is the number of
    quote characters in what was cut off.
    """

    number: int
    content: bytes
    quotes_cut: int = 0


def numbered_lines(stream: BinaryIO, encoding: str, max_bytes: int) -> Iterator[Line]:
    """The lines of a file, a byte order mark taken off. Only the newline ends a line: other Unicode separators and
    lone carriage returns do not. Bytes that are not in the encoding come through as bytes that are not UTF-8."""
    number, kept, quotes_cut = 1, b"", 0
    at_start = True
    for chunk in _utf8_chunks(stream, encoding):
        if at_start:
            chunk = chunk.removeprefix(_BOM)
            at_start = False
        first, *others = chunk.split(b"\n")
        if len(kept) + len(first) > max_bytes:
            room = max(0, max_bytes + 1 - len(kept))
            quotes_cut += first.count(b'"', room)
            kept += first[:room]
        else:
            kept += first
        for content in others:
            yield Line(number, kept, quotes_cut)
            number, quotes_cut = number + 1, 0
            kept = content
            if len(content) > max_bytes:
                quotes_cut = content.count(b'"', max_bytes + 1)
                kept = content[: max_bytes + 1]
    if kept:
        yield Line(number, kept, quotes_cut)


def _utf8_chunks(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    codec = codecs.lookup(encoding).name
    if codec == "utf-8":
        while chunk := stream.read(READ_AHEAD_BYTES):
            yield chunk
        return
    # What cannot be decoded becomes lone surrogates, and those bytes that are not UTF-8: a problem of the row alone.
    errors = "surrogatepass" if codec.startswith(("utf-16", "utf-32")) else "surrogateescape"
    decoder = codecs.getincrementaldecoder(codec)(errors)
    try:
        while chunk := stream.read(READ_AHEAD_BYTES):
            if text := decoder.decode(chunk):
                yield text.encode("utf-8", errors)
        if text := decoder.decode(b"", final=True):
            yield text.encode("utf-8", errors)
    except UnicodeError as error:
        raise Quarantine(Reason.WRONG_ENCODING, f"not {encoding}: {error}; set feedback.encoding") from None


def first_filled(lines: Iterator[Line]) -> Line:
    """The first line that is not blank; those before it are taken off ``lines``.

    Raises:
        Quarantine: there is none.
    """
    for line in lines:
        if line.content.strip():
            return line
    raise Quarantine(Reason.EMPTY_FILE, "holds nothing but blanks; deliver it again with its rows")
