"""Find out a text file's encoding from its bytes.

A byte order mark declares it. Without one a file is UTF-8 if it can be and has characters beyond ASCII, else in the
encoding that the settings name. ASCII alone is never UTF-16, in which each of its characters has a NUL byte; and
``utf-16`` without a mark is what Windows writes, the little end first. Every byte is looked at before a row is read,
so that a file is read whole or not at all.
"""

from __future__ import annotations

import codecs
from typing import BinaryIO

from emotion_assets.forms.problems import Quarantine, Reason

_CHUNK_BYTES = 1 << 17
_HEAD_BYTES = 4096
_USUAL = ("cp1252", "cp932", "gb18030", "cp949", "cp1251", "mac_roman")  # the last takes any byte
_CONTROLS = tuple(bytes([byte]) for byte in range(32) if byte not in b"\t\n\r\f")
_MARKS = (  # the longer first: UTF-32's begins as UTF-16's
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a byte order mark at the beginning declares, if there is one."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def is_wide(encoding: str) -> bool:
    """Whether every character takes two bytes or more."""
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def find_encoding(stream: BinaryIO, configured: str, settings: str) -> str:
    """The encoding of a whole file; the stream is left at its beginning.

    Args:
        configured: of files without a mark.
        settings: where that stands in the profile.

    Raises:
        Quarantine: some of its bytes are not in it; the line says which, and the key to set.
    """
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    encoding = marked_encoding(head)
    wanted = encoding or _WITHOUT_MARK.get(configured_name := codecs.lookup(configured).name, configured_name)
    if encoding is None:
        ascii_only, bad_line = _decodes(stream, "utf-8")
        narrow = is_wide(wanted) and b"\0" not in head
        if bad_line is None and (wanted == "utf-8" or narrow or not ascii_only):
            stream.seek(0)
            return "utf-8"
    else:
        bad_line = None
    if encoding is not None or wanted != "utf-8":
        _, bad_line = _decodes(stream, wanted)
    stream.seek(0)
    if bad_line is None:
        return wanted
    if encoding is not None:
        raise Quarantine(
            Reason.DAMAGED, f"line {bad_line} is not {encoding}, as its byte order mark says; export it again"
        )
    also = " (Excel in Western Europe and America saves cp1252)" if wanted == "utf-8" else ""
    raise Quarantine(Reason.WRONG_ENCODING, f"line {bad_line} is not {wanted}; set {settings}.encoding{also}")


def possible_encodings(stream: BinaryIO) -> list[str]:
    """Usual encodings that every byte of a file without a mark is in, the likeliest first; which of them it is, only a
    look at its text can say. There is none of what is no text. The stream is left at its beginning."""
    stream.seek(0)
    head = stream.read(_CHUNK_BYTES)
    usual: tuple[str, ...] = ("utf-8", *_USUAL)
    if head.count(0) * 4 > len(head):
        usual = ("utf-16-le",) if head[1::2].count(0) > head[::2].count(0) else ("utf-16-be",)
    elif sum(head.count(control) for control in _CONTROLS) * 100 > len(head):
        usual = ()
    fitting = [encoding for encoding in usual if _decodes(stream, encoding)[1] is None]
    stream.seek(0)
    return fitting


def _decodes(stream: BinaryIO, encoding: str) -> tuple[bool, int | None]:
    """Whether the file is nothing but ASCII, and the line of its first byte that is not in the encoding."""
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    ascii_only, line = True, 1
    while True:
        chunk = stream.read(_CHUNK_BYTES)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            start = getattr(error, "start", 0)
            good = getattr(error, "object", chunk)[:start]
            return False, line + good.decode(encoding, "ignore").count("\n")
        if not chunk:
            return ascii_only, None
        ascii_only = ascii_only and text.isascii()
        line += text.count("\n")
