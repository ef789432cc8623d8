"""Parquet through pyarrow, a batch of rows at a time, in a process of its own that may crash or run out of memory.

Belongs here: which column types are taken, and what is checked before pyarrow unpacks anything. Does not belong here:
the process (``parquet_process``), and what the values mean.

Columns of strings are read as dictionaries, so that one long string that a million rows point to is there once; a batch
has 1,024 rows. A few bytes of a nested column can stand for any number of values, and what a page unpacks to is not
known before: the memory of the process bounds both. In labelled rows nested columns are refused, but as labels.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from emotion_assets.forms.csv import check_columns
from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.parquet_process import read_apart
from emotion_assets.forms.problems import Quarantine, Reason, Rejected, RowProblem, check_characters, summary
from emotion_assets.settings.feedback import ReadingSettings

_BATCH_ROWS = 1024
_BUFFER_BYTES = 1 << 20
_MAX_FOOTER_BYTES = 1 << 24
MAGIC = b"PAR1"
HUGGING_FACE = "huggingface"
"""The key of a schema's metadata under which ``datasets`` says what the columns are."""
_LEAST_ROW_BYTES = 16  # what a row counts for against max_unpacked_bytes, however little it takes in the file
_TYPED: dict[str, Any] = {"id": (int, float), "moment": (date, int, float), "label": object}
_NOT_FINITE = RowProblem(Reason.NOT_A_NUMBER)
_FLAT = (pt.is_integer, pt.is_floating, pt.is_boolean, pt.is_decimal, pt.is_temporal, pt.is_null)


class Parquet(Form):
    """Parquet. pyarrow is imported by the process that reads alone."""

    title = "Parquet"
    suffixes = (".parquet",)
    magic = MAGIC

    def records(self, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
        return read_apart(parquet_records, stream, reading, columns)


def parquet_records(stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
    """The file's rows, read in this process; ``number`` counts them from 1.

    Raises:
        Quarantine: the file is damaged, unpacks to too much, or has columns that cannot be kept. A damaged page is
            found when it is reached, so this may come after rows.
    """
    size = stream.seek(0, os.SEEK_END)
    _check_frame(stream, size)
    number = 0
    try:
        names, batches, declared = _open(stream, reading, columns)
        for batch in batches:
            arrays = [_values(column, reading.max_field_bytes) for column in batch.columns]
            for values in zip(*arrays, strict=True):
                number += 1
                yield _record(number, dict(zip(names, values, strict=True)), reading, columns)
            if number > declared:
                break
    except OSError as error:
        if error.errno:
            raise  # the disk, not the file
        raise _corrupt(error) from None
    except (pa.lib.ArrowMemoryError, MemoryError):
        raise Quarantine(
            Reason.TOO_LARGE_UNCOMPRESSED, "unpacks to more than fits into memory; write pages of about 1 MB"
        ) from None
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise _corrupt(error) from None
    if number != declared:
        raise Quarantine(Reason.CORRUPT_PARQUET, f"states {declared} rows, {number} are there; export it again")


class Schema(NamedTuple):
    """What a file says about its columns: their names, and what ``datasets`` left about them."""

    columns: tuple[str, ...]
    metadata: dict[str, str]


def read_schema(stream: BinaryIO, reading: ReadingSettings) -> Schema:
    """The schema alone.  Raises as ``Form.records`` does."""
    (record,) = read_apart(schema_records, stream, reading, Columns(required=()))
    assert isinstance(record, Record)
    return Schema(record.values["columns"], record.values["metadata"])


def schema_records(stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record]:
    """The fields of ``Schema`` as one record, read in this process."""
    _check_frame(stream, stream.seek(0, os.SEEK_END))
    stream.seek(0)
    try:
        schema = pq.read_schema(stream)
    except OSError as error:
        if error.errno:
            raise
        raise _corrupt(error) from None
    except (pa.ArrowException, ValueError) as error:
        raise _corrupt(error) from None
    told = (schema.metadata or {}).get(HUGGING_FACE.encode())
    metadata = {} if told is None else {HUGGING_FACE: told.decode("utf-8", "replace")}
    yield Record(0, {"columns": tuple(schema.names), "metadata": metadata})


def _check_frame(stream: BinaryIO, size: int) -> None:
    stream.seek(max(0, size - 8))
    tail = stream.read(8)
    if size < 12 or tail[4:] != MAGIC:
        raise Quarantine(Reason.CORRUPT_PARQUET, "does not end as a Parquet file: cut off; deliver it again")
    footer = int.from_bytes(tail[:4], "little")
    if footer > min(size - 12, _MAX_FOOTER_BYTES):
        raise Quarantine(Reason.CORRUPT_PARQUET, f"states a footer of {footer} bytes; export it again")


def _open(
    stream: BinaryIO, reading: ReadingSettings, wanted: Columns
) -> tuple[tuple[str, ...], Iterator[pa.RecordBatch], int]:
    stream.seek(0)
    metadata = pq.read_metadata(stream)
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    unpacked = max(sum(group.total_byte_size for group in groups), metadata.num_rows * _LEAST_ROW_BYTES)
    if unpacked > reading.max_unpacked_bytes:
        raise Quarantine(
            Reason.TOO_LARGE_UNCOMPRESSED,
            f"unpacks to {unpacked} bytes, max_unpacked_bytes is {reading.max_unpacked_bytes}; split the file",
        )
    schema = metadata.schema.to_arrow_schema()
    names = check_columns(schema.names, reading.max_columns, wanted)
    required = wanted.present_in(names)
    if required is None:
        raise Quarantine(Reason.MISSING_TEXT_COLUMN, wanted.describe_missing(schema.names))
    read = names if wanted.others else required
    strings = [
        given
        for given, name, field in zip(schema.names, names, schema, strict=True)
        if name in read and _is_kept(name, field.type, wanted)
    ]
    stream.seek(0)
    file = pq.ParquetFile(
        stream,
        read_dictionary=strings,
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
        arrow_extensions_enabled=False,
    )
    filled = [place for place, group in enumerate(groups) if group.num_rows]
    columns = None if wanted.others else [g for g, name in zip(schema.names, names, strict=True) if name in required]
    batches = file.iter_batches(_BATCH_ROWS, row_groups=filled, columns=columns, use_threads=False)
    return (names if wanted.others else tuple(name for name in names if name in required)), batches, metadata.num_rows


def _is_kept(name: str, kind: pa.DataType, wanted: Columns) -> bool:
    """Whether the column holds strings; raises Quarantine for a column of a type that cannot be taken."""
    if pt.is_dictionary(kind):
        kind = kind.value_type
    is_string: bool = pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)
    role = wanted.types.get(name)
    takes_nested = wanted.loosely or role == "label"
    is_flat = any(check(kind) for check in _FLAT)
    if not is_string and (role == "string" or not (is_flat or takes_nested)):
        raise Quarantine(Reason.UNSUPPORTED_TYPE, f"column {name[:80]!r} is {str(kind)[:80]}; write it as string")
    return is_string


def _values(column: pa.Array, max_field_bytes: int) -> list[Any]:
    """A column of a batch as Python values; where a value is a RowProblem, its row is to be rejected."""
    if pt.is_dictionary(column.type):
        used = pc.unique(column.indices).drop_null()
        values_of = dict(zip(used.to_pylist(), _strings(column.dictionary.take(used), max_field_bytes), strict=True))
        return [values_of.get(index) for index in column.indices.to_pylist()]
    if pt.is_timestamp(column.type):
        unit = "us" if column.type.unit == "ns" else column.type.unit
        column = pc.cast(column, pa.timestamp(unit, "UTC" if column.type.tz else None), safe=False)
    elif pt.is_time64(column.type):
        column = pc.cast(column, pa.time64("us"), safe=False)
    elif pt.is_duration(column.type) and column.type.unit == "ns":
        column = pc.cast(column, pa.duration("us"), safe=False)
    values = _each(column, RowProblem(Reason.BAD_CREATED_AT, "a date or time outside the years 1 to 9999"))
    if pt.is_floating(column.type):
        return [_NOT_FINITE if value is not None and not math.isfinite(value) else value for value in values]
    return values


def _strings(column: pa.Array, max_field_bytes: int) -> list[Any]:
    lengths = pc.binary_length(column).fill_null(0).to_pylist()
    too_long = RowProblem(Reason.FIELD_TOO_LONG, f"a field is longer than max_field_bytes {max_field_bytes}")
    if max(lengths, default=0) <= max_field_bytes:
        return _each(column, RowProblem(Reason.BAD_ENCODING, "a string is not UTF-8"))
    return [
        too_long if length > max_field_bytes else _one(column[place], RowProblem(Reason.BAD_ENCODING))
        for place, length in enumerate(lengths)
    ]


def _each(column: pa.Array, problem: RowProblem) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
        return values
    except (ValueError, OverflowError, pa.ArrowException):
        return [_one(scalar, problem) for scalar in column]


def _one(scalar: pa.Scalar, problem: RowProblem) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return problem


def _record(number: int, values: dict[str, Any], reading: ReadingSettings, columns: Columns) -> Record | Rejected:
    try:
        for name, value in values.items():
            role = columns.types.get(name)
            if isinstance(value, RowProblem):
                if role == "string" or not columns.loosely:
                    raise RowProblem(value.reason_code, value.detail)
                values[name] = value.detail if role == "moment" and value is not _NOT_FINITE else None
            elif isinstance(value, str):
                if "\0" in value:
                    check_characters(value)
            elif isinstance(value, Decimal) and role in ("id", "moment"):
                values[name] = int(value) if value == value.to_integral_value() else str(value)
            elif role not in _TYPED or not isinstance(value, _TYPED[role]):
                values[name] = _as_json(value, reading.max_field_bytes)
        if sum(len(value) for value in values.values() if isinstance(value, str)) > reading.max_row_bytes:
            raise RowProblem(Reason.ROW_TOO_LONG, f"longer than max_row_bytes {reading.max_row_bytes}")
        return Record(number, values)
    except RowProblem as problem:
        sound = {name: value for name, value in values.items() if not isinstance(value, RowProblem)}
        return problem.at(number, summary(sound))


def _as_json(value: Any, max_bytes: int) -> Any:
    """Dates, times and decimals as text, lists and structs as JSON text: attributes are JSON. Bytes are null, and so is
    JSON text longer than ``max_bytes``."""
    if isinstance(value, (list, dict)):
        text = json.dumps(_without_nan(value), ensure_ascii=False, default=str)
        return text if len(text.encode("utf-8", "replace")) <= max_bytes else None
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return None
    return str(value) if isinstance(value, (Decimal, timedelta)) else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _corrupt(error: Exception) -> Quarantine:
    lines = str(error).splitlines() or [type(error).__name__]
    return Quarantine(Reason.CORRUPT_PARQUET, f"damaged: {lines[0][:200]}; export it again")
