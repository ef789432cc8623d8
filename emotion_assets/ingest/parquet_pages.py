"""The sizes that the pages inside a Parquet file state, read without unpacking one.

A file's footer says how much its column chunks unpack to, but readers allocate what each page's own header says, and
nothing makes the two agree. So the headers are walked first: they are Thrift structs in the compact protocol
(https://github.com/apache/parquet-format, parquet.thrift: PageHeader), of which two numbers are needed here.
"""

from __future__ import annotations

from typing import BinaryIO

import pyarrow.parquet as pq

_HEADER_BYTES = 1 << 14
_MAX_HEADER_BYTES = 1 << 22
_MAX_NESTING = 16


class PageError(Exception):
    """The pages are not where the footer says, or their headers cannot be read."""


def largest_page(stream: BinaryIO, metadata: pq.FileMetaData, file_size: int) -> int:
    """The number of bytes that the largest page of the file unpacks to, by the pages' own headers.

    Raises:
        PageError: the file is damaged.
    """
    largest = 0
    for group in filled_groups(metadata):
        for place in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(place)
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                starts.append(chunk.dictionary_page_offset)
            position, end = min(starts), min(starts) + chunk.total_compressed_size
            if position < 4 or chunk.total_compressed_size < 0 or end > file_size:
                raise PageError("a column chunk lies outside the file")
            while position < end:
                header_bytes, unpacked, packed = _page_header(stream, position)
                if unpacked < 0 or packed < 0:
                    raise PageError("a page has a negative size")
                largest = max(largest, unpacked)
                position += header_bytes + packed
    return largest


def filled_groups(metadata: pq.FileMetaData) -> list[int]:
    """The row groups that have rows; what others state about their pages means nothing."""
    return [place for place in range(metadata.num_row_groups) if metadata.row_group(place).num_rows]


def _page_header(stream: BinaryIO, position: int) -> tuple[int, int, int]:
    """Length of the header itself, the page's size unpacked and packed, in bytes."""
    size = _HEADER_BYTES
    while True:
        stream.seek(position)
        data = stream.read(size)
        try:
            fields, length = _struct(data, 0, 0)
            return length, fields[2], fields[3]
        except IndexError:
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise PageError("a page header is cut off") from None
            size *= 8
        except KeyError:
            raise PageError("a page header states no size") from None


def _struct(data: bytes, at: int, nesting: int) -> tuple[dict[int, int], int]:
    """The whole-number fields of the struct that starts at ``at``, and where it ends."""
    if nesting > _MAX_NESTING:
        raise PageError("a page header is nested too deeply")
    numbers: dict[int, int] = {}
    name = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return numbers, at
        if head >> 4:
            name += head >> 4
        else:
            name, at = _zigzag(data, at)
        value, at = _value(data, at, head & 15, nesting)
        if value is not None:
            numbers[name] = value


def _value(data: bytes, at: int, kind: int, nesting: int) -> tuple[int | None, int]:
    """A value of the compact protocol's type ``kind``: its number if it is one, and where it ends."""
    if kind in (1, 2):  # true, false: the type is the value
        return None, at
    if kind == 3:  # byte
        return data[at], at + 1
    if kind in (4, 5, 6):  # i16, i32, i64
        return _zigzag(data, at)
    if kind == 7:  # double
        return None, at + 8
    if kind == 8:  # binary
        length, at = _varint(data, at)
        if at + length > len(data):
            raise IndexError
        return None, at + length
    if kind in (9, 10):  # list, set
        head, at = data[at], at + 1
        count = head >> 4
        if count == 15:
            count, at = _varint(data, at)
        for _ in range(count):
            inner = head & 15
            _, at = (None, at + 1) if inner in (1, 2) else _value(data, at, inner, nesting + 1)
            if at > len(data):
                raise IndexError
        return None, at
    if kind == 12:
        _, at = _struct(data, at, nesting + 1)
        return None, at
    raise PageError("a page header holds an unknown type")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise PageError("a page header holds an endless number")
