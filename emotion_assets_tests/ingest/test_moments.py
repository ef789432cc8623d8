"""Times as vendors write them: what is unambiguous is read, what is not costs the time alone."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emotion_assets.ingest.moments import UnreadableMoment, read_moment
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.settings.feedback import FeedbackSettings

TEN = datetime(2026, 11, 2, 10, tzinfo=UTC)
DAY = TEN.replace(hour=0)
SECONDS = int(TEN.timestamp())


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-11-02T10:00:00Z", TEN),
        ("2026-11-02T10:00:00.000Z", TEN),
        ("2026-11-02T10:00:00,000000000Z", TEN),
        ("2026-11-02t10:00:00z", TEN),
        ("2026-11-02 10:00:00", TEN),
        ("2026-11-02 10:00", TEN),
        ("  2026-11-02   10:00:00 ", TEN),
        ("2026-11-02 10:00:00 UTC", TEN),
        ("2026-11-02 10:00:00 Z", TEN),
        ("2026-11-02 10:00:00 GMT", TEN),
        ("2026-11-02 10:00:00 +0000 UTC", TEN),  # Go
        ("2026-11-02 02:00:00 -0800", TEN),
        ("2026-11-02 02:00:00 -08:00", TEN),
        ("2026-11-02T02:00:00-08", TEN),
        ("2026-11-02T11:00:00+01:00[Europe/Paris]", TEN),  # Java
        ("2026-11-02T11:00:00[Europe/Paris]", TEN),
        ("20261102T100000Z", TEN),
        ("2026/11/02 10:00", TEN),
        ("2026/11/2", DAY),
        ("2026-11-2 10:00", TEN),
        ("2026.11.02", DAY),
        ("2026-11-02, 10:00", TEN),
        ("2026-11-02 10.00.00", TEN),
        ("2026-11-02 10:00 AM", TEN),
        ("2026-11-02 10:00:00 p.m.", TEN + timedelta(hours=12)),
        ("2026-11-02 12:00 AM", DAY),
        ("Mon, 02 Nov 2026 10:00:00 GMT", TEN),
        ("Mon, 2 Nov 2026 10:00:00 +0000", TEN),
        ("2 Nov 2026 02:00:00 -0800", TEN),
        ("Mon, 02 Nov 2026 10:00:00", TEN),
        ("Mon Nov  2 10:00:00 2026", TEN),
        ("Mon Nov 02 10:00:00 +0000 2026", TEN),
        ("Mon Nov 02 10:00:00 UTC 2026", TEN),
        ("Mon Nov 02 2026 11:00:00 GMT+0100 (Central European Standard Time)", TEN),
        ("Nov 2, 2026", DAY),
        ("November 2, 2026 at 10:00 AM", TEN),
        ("Nov 2, 2026, 10:00:00\u202fAM", TEN),
        ("Monday, 2 November 2026 10:00", TEN),
        ("02-Nov-2026 10:00:00", TEN),
        ("2026-Nov-02", DAY),
        (str(SECONDS), TEN),
        (f" {SECONDS} ", TEN),
        (f"{SECONDS}.5", TEN + timedelta(seconds=0.5)),
        (f"{SECONDS}.0", TEN),
        (f"{SECONDS}000", TEN),
        (f"{SECONDS}000.0", TEN),
        (f"{SECONDS}000000", TEN),
        (SECONDS, TEN),
        (float(SECONDS), TEN),
        (SECONDS * 1000, TEN),
        (SECONDS * 1000.0, TEN),
        (SECONDS * 10**6, TEN),
        (SECONDS * 1e6, TEN),
        (datetime(2026, 11, 2, 10), TEN),
        (datetime(2026, 11, 2, 11, tzinfo=timezone(timedelta(hours=1))), TEN),
        (date(2026, 11, 2), DAY),
    ],
)
def test_what_is_unambiguous_is_read(value: Any, moment: datetime) -> None:
    assert read_moment(value) == moment


@pytest.mark.parametrize("value", [None, "", "  ", "\u00a0", "null", "None", "NaN", "NaT", "N/A", "-", float("nan")])
def test_an_empty_value_is_no_time_and_no_problem(value: Any) -> None:
    assert read_moment(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "02/11/2026 10:00",
        "11/2/2026 10:00 AM",
        "02.11.2026",
        "24-02-2015 11.35",
        "2-Nov-26",
        "2026-02-30",
        "2026-13-01",
        "2026-11-02 25:00",
        "2026-11-02 10:00[Middle/Earth]",
        "2026-11-02 13:00 PM",
        "0000-00-00 00:00:00",
        "2026-11-02-10:00",  # a day with an offset in XML, a time elsewhere
        "20261102",
        "201502241135",
        "20261102100000",
        "170604011200",
        "45962",
        "0",
        "1e9",
        "2026",
        "2026-11",
        "yesterday",
        "unknown",
        45962,
        -SECONDS,
        10**30,
        float("inf"),
        True,
        [SECONDS],
        {"$date": "2026-11-02T10:00:00Z"},
    ],
)
def test_what_is_ambiguous_or_no_time_is_not_read(value: Any) -> None:
    with pytest.raises(UnreadableMoment):
        read_moment(value)


@pytest.mark.parametrize(
    ("value", "formats", "moment"),
    [
        ("02-11-2026 10.00", ("%d-%m-%Y %H.%M",), TEN),
        ("11/2/2026 10:00 AM", ("%m/%d/%Y %I:%M %p",), TEN),
        ("02/11/2026", ("%Y", "%d/%m/%Y"), DAY),
        ("2026-11-02 10:00:00 UTC", ("%d/%m/%Y",), TEN),
        ("20261102", ("%Y%m%d",), DAY),
        ("2.11.2026 10:00:00", ("%d.%m.%Y %H:%M:%S",), TEN),
        ("2 11  2026", ("%d %m %Y",), DAY),
        (SECONDS * 1000, ("epoch_ms",), TEN),
        (str(SECONDS * 1000), ("epoch_ms",), TEN),
        (0, ("epoch_s",), datetime(1970, 1, 1, tzinfo=UTC)),
        (86_400_000_000.0, ("epoch_us",), datetime(1970, 1, 2, tzinfo=UTC)),
    ],
)
def test_the_sources_own_forms_are_read(value: Any, formats: tuple[str, ...], moment: datetime) -> None:
    assert read_moment(value, formats) == moment


def test_a_time_without_an_offset_is_of_the_sources_zone() -> None:
    paris = ZoneInfo("Europe/Paris")
    assert read_moment("2026-11-02 11:00", (), paris) == read_moment(datetime(2026, 11, 2, 11), (), paris) == TEN
    assert read_moment("2026-07-01T12:00Z", (), paris) == datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "parquet", "xlsx"])
@pytest.mark.parametrize(
    ("value", "moment", "undated"),
    [
        ("2026-11-02 10:00:00 UTC", TEN, None),
        (SECONDS * 1000, TEN, None),
        ("2026-02-30", None, "9999-99-99"),
        ("02/11/2026", None, "99/99/9999"),
    ],
)
def test_every_form_of_file_gives_the_same_time_and_never_loses_the_text(
    form: str, value: Any, moment: datetime | None, undated: str | None, tmp_path: Path
) -> None:
    path = tmp_path / f"feedback.{form}"
    path.write_bytes(_file(form, value))
    (row,) = read_feedback(path, FeedbackSettings())
    assert isinstance(row, Accepted)
    assert (row.text, row.created_at, row.undated) == ("so happy", moment, undated)
    assert row.attributes == ({} if undated is None else {"created_at": value})


def _file(form: str, value: Any) -> bytes:
    buffer = io.BytesIO()
    if form == "csv":
        return f"text,created_at\nso happy,{value}\n".encode()
    if form in ("jsonl", "json"):
        row = {"text": "so happy", "created_at": value}
        return json.dumps(row if form == "jsonl" else [row]).encode()
    if form == "parquet":
        pq.write_table(pa.table({"text": ["so happy"], "created_at": [value]}), buffer)
    else:
        book = openpyxl.Workbook()
        book.active.append(["text", "created_at"])
        book.active.append(["so happy", value])
        book.save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([SECONDS], pa.timestamp("s")),
        pa.array([SECONDS * 1000], pa.timestamp("ms", "America/New_York")),
        pa.array([SECONDS * 10**9], pa.timestamp("ns")),
        pa.array([float(SECONDS)]),
        pa.array([Decimal(SECONDS)]),
        pa.array([str(SECONDS)]).dictionary_encode(),
    ],
)
def test_every_type_that_parquet_has_for_a_time_is_read(values: pa.Array, tmp_path: Path) -> None:
    path = tmp_path / "feedback.parquet"
    pq.write_table(pa.table({"text": ["so happy"], "created_at": values}), path)
    (row,) = read_feedback(path, FeedbackSettings())
    assert isinstance(row, Accepted)
    assert row.created_at == TEN


def test_what_the_first_pattern_of_a_source_cannot_be_is_read_by_the_next() -> None:
    patterns = ("%d-%m-%Y", "%m-%d-%Y")
    assert read_moment("02-24-2015", patterns) == datetime(2015, 2, 24, tzinfo=UTC)
    assert read_moment("03-02-2015", patterns) == datetime(2015, 2, 3, tzinfo=UTC)
    with pytest.raises(UnreadableMoment):
        read_moment("31-31-2015", patterns)
