"""Bad and odd feedback files, each with the outcome that the readers promise for it.

The files are made here, from nothing but this code. ``quarantined`` states the reason for which a file is set aside
whole; otherwise ``rows`` states, per row number, ``ok`` or the reason code of its rejection.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

OK = "ok"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class BadFile:
    kind: str
    file_name: str
    content: bytes
    rows: dict[int, str] | None = None
    quarantined: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)


def parquet(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("feedback.csv", "text\nhello\n")
    return buffer.getvalue()


def csv_files() -> list[BadFile]:
    def case(kind: str, content: str | bytes, rows: dict[int, str] | None = None, quarantined: str | None = None,
             settings: dict[str, Any] | None = None, texts: dict[int, str] | None = None) -> BadFile:  # fmt: skip
        raw = content.encode() if isinstance(content, str) else content
        return BadFile(f"csv: {kind}", "feedback.csv", raw, rows, quarantined, settings or {}, texts or {})

    wide = ",".join(f"c{place}" for place in range(99))
    return [
        case("semicolons", "id;text\n1;fine, really\n", {2: OK}, texts={2: "fine, really"}),
        case("tabs", "id\ttext\n1\tfine\n", {2: OK}),
        case("bars", "id|text\n1|fine\n", {2: OK}),
        case("another delimiter than configured", "id;text\n1;fine\n", quarantined="missing_text_column",
             settings={"delimiter": ","}),
        case("a delimiter that is not among the four", "id^text\n1^fine\n", quarantined="missing_text_column"),
        case("a header that splits in two ways", "a;text;b,text\n1;x;2,y\n", quarantined="ambiguous_delimiter"),
        case("rows with too few and too many fields", "id,text\n1\n2,fine\n3,a,b\n",
             {2: "wrong_column_count", 3: OK, 4: "wrong_column_count"}),
        case("an unquoted comma in the only column", "text\nwell, no\nfine\n", {2: "wrong_column_count", 3: OK}),
        case("a quote never closed", 'id,text\n1,fine\n2,"oops\n3,lost?\n',
             {2: OK, 3: "unclosed_quote", 4: "unclosed_quote"}),
        case("a quote closed by the next quoted row", 'id,text\n1,"oops\n2,plain\n3,"fine"\n4,fine\n',
             {2: "bad_quote", 3: "bad_quote", 4: "bad_quote", 5: OK}),
        case("a quote open for longer than a row may be", 'id,text\n1,"oops\n' + "2,plain text here\n" * 99,
             quarantined="unclosed_quote", settings={"max_row_bytes": 1000}),
        case("a quote in an unquoted field", 'id,text\n1,a 6" pipe\n2,fine\n', {2: "bad_quote", 3: OK}),
        case("text after a closing quote", 'id,text\n1,"so" he said\n2,fine\n', {2: "bad_quote", 3: OK}),
        case("backslash escapes", 'id,text\n1,"a \\"b\\" c"\n2,fine\n', {2: "bad_quote", 3: OK}),
        case("doubled quotes", 'id,text\n1,"a ""b"" c"\n', {2: OK}, texts={2: 'a "b" c'}),
        case("a quoted text over several lines", 'id,text\n1,"a\n\nb, c\r\nd"\n2,fine\n', {2: OK, 6: OK},
             texts={2: "a\n\nb, c\r\nd"}),
        case("a text over several lines in a row too wide", 'id,text\n1,"a\nb,c\nd",x\n2,fine\n',
             {2: "wrong_column_count", 3: "wrong_column_count", 4: "wrong_column_count", 5: OK}),
        case("a NUL", "id,text\n1,a\0b\n2,\"a\n\0b\"\n3,fine\n", {2: "nul", 3: "nul", 5: OK}),
        case("a NUL in the header", "id,te\0xt,text\n1,b,c\n", quarantined="bad_header"),
        case("mixed line ends", "id,text\r\n1,fine\n2,fine\r\n", {2: OK, 3: OK}, texts={2: "fine", 3: "fine"}),
        case("lines that end in CR alone", "id,text\r1,fine\r2,fine\r", quarantined="bare_cr"),
        case("a CR inside a row", "id,text\n1,a\rb\n2,fine\n", {2: "bare_cr", 3: OK}),
        case("line separators that are no line ends", "id,text\n1,a\u2028b\x0bc\x85d\n", {2: OK},
             texts={2: "a\u2028b\x0bc\x85d"}),
        case("UTF-16 with a mark", "id,text\n1,na\u00efve \U0001f600\n".encode("utf-16"), {2: OK},
             texts={2: "na\u00efve \U0001f600"}),
        case("UTF-16 with a mark, another encoding configured", "id,text\n1,fine\n".encode("utf-16"), {2: OK},
             settings={"encoding": "cp1252"}),
        case("big-endian UTF-16 with a mark", b"\xfe\xff" + "id,text\n1,fine\n".encode("utf-16-be"), {2: OK}),
        case("UTF-8 with a mark, another encoding configured", "\ufeffid,text\n1,caf\xe9\n".encode(), {2: OK},
             settings={"encoding": "utf-16"}, texts={2: "caf\xe9"}),
        case("UTF-8, another encoding configured", "id,text\n1,caf\xe9\n".encode(), {2: OK},
             settings={"encoding": "cp1252"}, texts={2: "caf\xe9"}),
        case("UTF-16 without a mark", "id,text\n1,fine\n".encode("utf-16-le"), quarantined="wrong_encoding"),
        case("UTF-16 as configured", "id,text\n1,naïve 😀\n".encode("utf-16"), {2: OK}, settings={"encoding": "utf-16"},
             texts={2: "naïve 😀"}),
        case("UTF-16 as configured and cut in a character", "id,text\n1,fine\n".encode("utf-16")[:-1],
             quarantined="damaged", settings={"encoding": "utf-16"}),
        case("Latin-1", "id,text\n1,caf\xe9\n2,fine\n".encode("latin-1"), quarantined="wrong_encoding"),
        case("Latin-1 in a quoted text", 'id,text\n1,"un\ncaf\xe9\nun"\n2,fine\n'.encode("latin-1"),
             quarantined="wrong_encoding"),
        case("Latin-1 as configured", "id,text\n1,caf\xe9\n".encode("latin-1"), {2: OK},
             settings={"encoding": "latin-1"}, texts={2: "café"}),
        case("a byte that the configured encoding lacks", b"id,text\n1,a\x81\n2,fine\n", quarantined="wrong_encoding",
             settings={"encoding": "cp1252"}),
        case("Latin-1 in the header", "text,gr\xf6\xdfe\nfine,1\n".encode("latin-1"), quarantined="wrong_encoding"),
        case("a byte order mark", b"\xef\xbb\xbftext,id\nfine,1\n", {2: OK}),
        case("a byte order mark and nothing else", b"\xef\xbb\xbf", quarantined="empty_file"),
        case("overlong UTF-8", b"id,text\n1,a\xc0\xafb\n2,fine\n", quarantined="wrong_encoding"),
        case("a lone surrogate as bytes", b"id,text\n1,a\xed\xa0\x80b\n2,fine\n", quarantined="wrong_encoding"),
        case("a field of 1 MB", f"id,text\n1,{'x' * MEGABYTE}\n2,fine\n", {2: "field_too_long", 3: OK}),
        case("a field of 1 MB where that is allowed", f"id,text\n1,{'x' * MEGABYTE}\n", {2: OK},
             settings={"max_field_bytes": MEGABYTE}),
        case("a row of 5 MB", f"id,text\n1,{'x' * 5 * MEGABYTE}\n2,fine\n", {2: "row_too_long", 3: OK}),
        case("a quoted text of 5 MB over many lines", 'id,text\n1,"' + 'say ""x"" so\n' * 500_000 + '"\n2,fine\n',
             {2: "row_too_long", 500_003: OK}),
        case("a row of 5 MB that leaves a quote open", f'id,text\n1,"{"x" * 5 * MEGABYTE}\n2,fine\n',
             quarantined="unclosed_quote"),
        case("100 columns", f"text,{wide}\nfine,{wide}\n", {2: OK}),
        case("more columns than allowed", f"text,{wide}\nfine,{wide}\n", quarantined="too_many_columns",
             settings={"max_columns": 99}),
        case("no column named text", "id,comment\n1,fine\n", quarantined="missing_text_column"),
        case("a column named Text", "id,Text\n1,fine\n", {2: OK}),
        case("a column name with blanks", 'id," TEXT "\n1,fine\n', {2: OK}),
        case("a column twice", "id,text,text\n1,a,b\n", {2: OK}, texts={2: "a"}),
        case("another column twice", "text,Response,Response\na,Yes,\n", {2: OK}),
        case("a declared delimiter", "sep=;\r\nid;text\r\n1;well, fine\r\n", {3: OK}, texts={3: "well, fine"}),
        case("a declared delimiter after a mark", b"\xef\xbb\xbfsep=|\nid|text\n1|a,b;c\n", {3: OK},
             texts={3: "a,b;c"}),
        case("a column without a name", ",text\n0,fine\n", {2: OK}),
        case("no header", "1,fine\n2,fine\n", quarantined="missing_text_column"),
        case("a header with a broken quote", '"id,text\n1,fine\n', quarantined="bad_header"),
        case("an empty file", b"", quarantined="empty_file"),
        case("blank lines and nothing else", "\n\r\n \n", quarantined="empty_file"),
        case("a header and nothing else", "id,text\n", {}),
        case("blank lines between rows", "\nid,text\n\n1,fine\n\r\n2,fine\n\n", {4: OK, 6: OK}),
        case("a torn last line", "id,text,x\n1,fine,2\n2,fi", {2: OK, 3: "wrong_column_count"}),
        case("a torn last line in a quote", 'id,text\n1,fine\n2,"fi', {2: OK, 3: "unclosed_quote"}),
        case("no line end at the end", "id,text\n1,fine", {2: OK}),
        case("a tail of NULs as a crash leaves it", b"id,text\n1,fine\n" * 9 + b"\0" * 30,
             {2: OK, **dict.fromkeys(range(4, 19, 2), OK), **dict.fromkeys(range(3, 18, 2), OK), 19: "nul"}),
        case("empty text", 'id,text\n1,\n2,"  "\n3,fine\n', {2: "empty_text", 3: "empty_text", 4: OK}),
        case("text that is invisible",
             "id,text\n1,\u200b\u200d\ufeff\n2,\u2800\u3164\n3,\x07\x1b\n4,\u202e\n5,a\u200b\n",
             {2: "empty_text", 3: "empty_text", 4: "empty_text", 5: "empty_text", 6: OK}),
        case("emoji", "id,text\n1,\U0001f469\u200d\U0001f467\n2,\u2764\ufe0f\n", {2: OK, 3: OK},
             texts={2: "\U0001f469\u200d\U0001f467", 3: "\u2764\ufe0f"}),
        case("right to left", "id,text\n1,שלום\n2,\u202eabc\u202c\n", {2: OK, 3: OK}, texts={3: "\u202eabc\u202c"}),
        case("formulas", "id,text\n1,=1+1\n2,@SUM(A1)\n3,-2\n", {2: OK, 3: OK, 4: OK}, texts={2: "=1+1"}),
        case("nan as a text", "id,text\n1,nan\n2,NULL\n", {2: OK, 3: OK}),
        case("dates", "text,created_at\na,2026-01-31\nb,2026-01-31T09:00:00+02:00\nc,\nd,31.01.2026\ne,2026-02-30\n"
             "f,1769850000\ng,0001-01-01T00:00:00+14:00\n",
             dict.fromkeys(range(2, 9), OK)),
        case("a zip archive named csv", _archive(), quarantined="unknown_form"),
        case("gzip named csv", gzip.compress(b"text\nfine\n"), {2: OK}),
        case("gzip cut off", gzip.compress(b"text\nfine\n")[:-9], quarantined="damaged"),
        case("gzip that unpacks to too much", gzip.compress(b"text\n" + b"a\n" * 50_000),
             quarantined="too_large_uncompressed", settings={"max_unpacked_bytes": 50_000}),
        case("HTML named csv", "<html><body>Please log in</body></html>\n", quarantined="unknown_form"),
        case("an old Excel workbook", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600,
             quarantined="unknown_form"),
        case("random bytes", bytes((n * 73 + n // 7) % 251 + 1 for n in range(3000)), quarantined="wrong_encoding"),
    ]  # fmt: skip


def jsonl_files() -> list[BadFile]:
    def case(kind: str, content: str | bytes, rows: dict[int, str] | None = None, quarantined: str | None = None,
             settings: dict[str, Any] | None = None, texts: dict[int, str] | None = None) -> BadFile:  # fmt: skip
        raw = content.encode() if isinstance(content, str) else content
        return BadFile(f"jsonl: {kind}", "feedback.jsonl", raw, rows, quarantined, settings or {}, texts or {})

    def every(key: str, *values: str) -> str:
        return "".join(f'{{"text": "a", "{key}": {value}}}\n' for value in values)

    fine = '{"text": "fine"}\n'
    return [
        case("not JSON", fine + "{'text': 'a'}\n" + fine, {1: OK, 2: "invalid_json", 3: OK}),
        case("a torn last line", fine + '{"text": "fi', {1: OK, 2: "invalid_json"}),
        case("two objects on a line", fine + '{"text": "a"} {"text": "b"}\n', {1: OK, 2: "invalid_json"}),
        case("a trailing comma", '{"text": "a",}\n' + fine, {1: "invalid_json", 2: OK}),
        case("one array", '[{"text": "a"},\n{"text": "b"}]\n', {1: OK, 2: OK}),
        case("one array, pretty-printed", json.dumps([{"id": 1, "text": "a"}, {"text": None}, 5], indent=2),
             {1: OK, 2: "missing_text", 3: "not_an_object"}),
        case("one array with NaN", '[{"text": "a", "x": NaN}, {"text": "b", "text": "c"}]', {1: OK, 2: OK},
             texts={2: "b"}),
        case("one array cut off", '[{"text": "a"}, {"text": "b', quarantined="invalid_json"),
        case("one array with a comma missing", '[{"text": "a"} {"text": "b"}]', quarantined="invalid_json"),
        case("an empty array", "[]", {}),
        case("values that are no objects", '3\n"text"\n[1]\nnull\n' + fine,
             {1: "not_an_object", 2: "not_an_object", 3: "not_an_object", 4: "not_an_object", 5: OK}),
        case("a key twice", '{"text": "a", "text": "b"}\n' + fine, {1: OK, 2: OK}, texts={1: "a"}),
        case("a key twice inside", '{"text": "a", "x": {"y": 1, "y": 2}}\n', {1: OK}),
        case("no text in some", '{"id": 1}\n{"text": null}\n{}\n', dict.fromkeys((1, 2, 3), "missing_text")),
        case("no text in any", '{"body": "a"}\n{"body": "b"}\n', quarantined="missing_text_column"),
        case("a key in capitals", '{"Text": "a"}\n', {1: OK}),
        case("text that is no string", '{"text": 5}\n{"text": ["a"]}\n{"text": {"a": 1}}\n{"text": true}\n',
             dict.fromkeys(range(1, 5), "text_not_string")),
        case("NaN and infinity",
             '{"text": "a", "x": NaN}\n{"text": "a", "x": [-Infinity]}\n{"text": "a", "x": 1e999}\n',
             {1: OK, 2: OK, 3: OK}),
        case("an integer of 5,000 digits", f'{{"text": "a", "x": {"9" * 5000}}}\n' + fine, {1: "invalid_json", 2: OK}),
        case("nested 100,000 deep", '{"text": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}\n" + fine,
             {1: "too_deep", 2: OK}),
        case("brackets in a text", json.dumps({"text": "[" * 100}) + "\n", {1: OK}),
        case("lone surrogates", '{"text": "a\\ud800"}\n{"text": "a", "x\\udc00": 1}\n{"text": "\\ud83d\\ude00"}\n',
             {1: "lone_surrogate", 2: "lone_surrogate", 3: OK}, texts={3: "😀"}),
        case("an escaped NUL", '{"text": "a\\u0000"}\n{"text": "a\\\\u0000"}\n', {1: "nul", 2: OK}),
        case("a raw NUL", b'{"text": "a\0"}\n', {1: "nul"}),
        case("a raw control character", '{"text": "a\x01"}\n', {1: "invalid_json"}),
        case("Latin-1", '{"text": "caf\xe9"}\n'.encode("latin-1") + fine.encode(), quarantined="wrong_encoding"),
        case("UTF-16", fine.encode("utf-16"), {1: OK}),
        case("a byte order mark", b"\xef\xbb\xbf" + fine.encode(), {1: OK}),
        case("mixed line ends and blank lines", '\n{"text": "a"}\r\n\n  \n{"text": "b"}\n', {2: OK, 5: OK}),
        case("a text of 1 MB", json.dumps({"text": "x" * MEGABYTE}) + "\n" + fine, {1: "field_too_long", 2: OK}),
        case("an attribute of 1 MB", json.dumps({"text": "a", "x": ["y"] * 150_000}) + "\n" + fine,
             {1: "field_too_long", 2: OK}),
        case("a line of 5 MB", json.dumps({"text": "x" * 5 * MEGABYTE}) + "\n" + fine, {1: "row_too_long", 2: OK}),
        case("more keys than allowed", json.dumps({"text": "a", **{f"k{n}": n for n in range(1000)}}) + "\n",
             {1: "too_many_columns"}),
        case("ids of every type", every("id", '"x"', "7", '""', "null", "1.5", "true", "[]"),
             dict.fromkeys(range(1, 8), OK)),
        case("dates", every("created_at", '"2026-01-31T09:00Z"', "null", "17", '"soon"'),
             {1: OK, 2: OK, 3: OK, 4: OK}),
        case("empty and invisible text", '{"text": ""}\n{"text": "\\u200b\\t"}\n', {1: "empty_text", 2: "empty_text"}),
        case("an empty file", b"", quarantined="empty_file"),
    ]  # fmt: skip


def parquet_files() -> list[BadFile]:
    def case(kind: str, content: bytes, rows: dict[int, str] | None = None, quarantined: str | None = None,
             settings: dict[str, Any] | None = None) -> BadFile:  # fmt: skip
        return BadFile(f"parquet: {kind}", "feedback.parquet", content, rows, quarantined, settings or {})

    sound = parquet({"text": ["a", "b"], "id": [1, 2]})
    broken_utf8 = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    far = pa.array([0, 10**15], pa.timestamp("s", "UTC"))
    flat = {"text": pa.array(["x"], pa.large_string()), "n": [None], "b": [True], "d": [Decimal("1.50")],
            "t": [datetime(2026, 1, 1, tzinfo=UTC)], "c": pa.array(["x"]).dictionary_encode(),
            "s": pa.array([1], pa.duration("ns")), "h": pa.array([1], pa.time64("ns"))}  # fmt: skip
    big = pa.table({"text": pa.array(["x" * 900_000] * 3 + ["fine"])})
    return [
        case("sound", sound, {1: OK, 2: OK}),
        case("cut off", sound[:-20], quarantined="corrupt_parquet"),
        case("only the magic bytes", b"PAR1", quarantined="corrupt_parquet"),
        case("a footer longer than the file", sound[:-8] + b"\xff\xff\xff\x7fPAR1", quarantined="corrupt_parquet"),
        case("a footer of zeros", sound[:-60] + b"\0" * 52 + sound[-8:], quarantined="corrupt_parquet"),
        case("damaged pages", sound[:4] + b"\xff" * 40 + sound[44:], quarantined="corrupt_parquet"),
        case("a CSV file by that name", b"id,text\n1,fine\n", {2: OK}),
        case("another file by that name", b"%PDF-1.7 something\n", quarantined="unknown_form"),
        case("text by that name", b"nothing of the kind\n", quarantined="corrupt_parquet"),
        case("no rows", parquet({"text": pa.array([], pa.string())}), {}),
        case("no text column", parquet({"comment": ["a"]}), quarantined="missing_text_column"),
        case("text of numbers", parquet({"text": [1, 2]}), quarantined="unsupported_type"),
        case("text of bytes", parquet({"text": [b"a"]}), quarantined="unsupported_type"),
        case("ids of floats", parquet({"text": ["a", "b"], "id": [1.0, None]}), {1: OK, 2: OK}),
        case("dates as numbers", parquet({"text": ["a"], "created_at": [17]}), {1: OK}),
        case("nested columns", parquet({"text": ["a"], "tags": [["x", "y"]], "who": [{"name": "x"}]}), {1: OK}),
        case("nested ids and dates", parquet({"text": ["a"], "id": [["x"]], "created_at": [{"y": 1}]}), {1: OK}),
        case("bytes in an attribute", parquet({"text": ["a"], "image": [b"\xff\0"]}), {1: OK}),
        case("a column twice", parquet(pa.table([["a"], ["b"]], names=["text", "text"])), {1: OK}),
        case("nulls, empty and invisible text", parquet({"text": [None, "", "\u200b", "a"]}),
             {1: "missing_text", 2: "empty_text", 3: "empty_text", 4: OK}),
        case("NaN in an attribute", parquet({"text": ["a", "b"], "x": [float("nan"), 1.0]}),
             {1: OK, 2: OK}),
        case("bytes that are not UTF-8", parquet({"text": broken_utf8}), {1: OK, 2: "bad_encoding"}),
        case("a NUL", parquet({"text": ["a\0", "b"]}), {1: "nul", 2: OK}),
        case("a date beyond the year 9999", parquet({"text": ["a", "b"], "created_at": far}),
             {1: OK, 2: OK}),
        case("every flat type", parquet(flat), {1: OK}),
        case("strings of 1 MB", parquet(big), {1: "field_too_long", 2: "field_too_long", 3: "field_too_long", 4: OK}),
        case("rows that all point to one long string",
             parquet({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 3_000), pa.array(["x" * 100_000]))}),
             dict.fromkeys(range(1, 3001), OK)),
        case("a decompression bomb",
             parquet({"text": ["\0" * 30_000_000] * 5}, use_dictionary=False, compression="zstd"),
             quarantined="too_large_uncompressed", settings={"max_unpacked_bytes": 100_000_000}),
        case("a page of 150 MB", parquet({"text": ["x" * 150_000_000]}, use_dictionary=False, compression="zstd"),
             {1: "field_too_long"}),
        case("a hundred million rows in a few bytes", parquet({"text": pa.array([None] * 3_000_000, pa.string())}),
             quarantined="too_large_uncompressed", settings={"max_unpacked_bytes": 40_000_000}),
    ]  # fmt: skip


def other_files() -> list[BadFile]:
    return [
        BadFile("jsonl named csv", "feedback.csv", b'{"text": "a"}\n{"te\n', {1: OK, 2: "invalid_json"}),
        BadFile("csv named jsonl", "feedback.jsonl", b"id,text\n1,fine\n", {2: OK}),
        BadFile("parquet named csv", "feedback.csv", parquet({"text": ["a"]}), {1: OK}),
        BadFile("a name with a newline and brackets", "run=5 [1]*\n'x'.csv", b"text\nfine\n", {2: OK}),
        BadFile("a name that is not UTF-8", "caf\udce9.csv", b"text\nfine\n", {2: OK}),
        BadFile("a name with a direction mark", "gnp.\u202evsc.csv", b"text\nfine\n", {2: OK}),
    ]


MAKERS: tuple[Callable[[], list[BadFile]], ...] = (csv_files, jsonl_files, parquet_files, other_files)


def all_files() -> list[BadFile]:
    return [file for make in MAKERS for file in make()]
