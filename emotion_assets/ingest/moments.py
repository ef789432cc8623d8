"""Read the moment that a row was written, in every form that is unambiguous, or in the forms that a source states.

Unambiguous: ISO 8601 and year-first dates, with blanks, slashes, AM and PM, offsets or UTC after them; RFC 2822 and
what C's ctime, Java and JavaScript write; months by their English names, whatever the weekday before them; whole
numbers as an epoch in seconds, milliseconds or microseconds. 02/11/2026 may be February or November: it is no date
unless the source's ``created_at_format`` says which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"epoch_s": 1, "epoch_ms": 1_000, "epoch_us": 1_000_000}
EMPTY = frozenset({"", "-", "--", "null", "none", "nil", "nan", "nat", "n/a", "na", "\\n", "#n/a"})

_DIGITS = re.compile(r"-?\d+(\.\d+)?")
# 1973 to 2286 in each unit; in milliseconds from 1979, since before it 201502241135 may be a date written out.
_RANGES = ((10**8, 10**10, 1), (3 * 10**11, 10**13, 1_000), (10**14, 10**16, 1_000_000))
_ZONE = r"(?:\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)(?:(?<=\d) UTC)?)?(?:\[(?P<place>[\w/+-]+)\])?"
_TIME = (
    r"(?P<hour>\d{1,2})(?P<colon>[:.])(?P<minute>\d{2})"
    r"(?:(?P=colon)(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?(?:\s*(?P<half>[AP])\.?M\.?)?"
)
_YEAR_FIRST = re.compile(
    r"(?P<year>\d{4})(?P<separator>[-/.])(?P<month>\d{1,2})(?P=separator)(?P<day>\d{1,2})"
    rf"(?:(?:T|,?\s+){_TIME}{_ZONE})?",
    re.IGNORECASE,
)
_BEFORE_TIME = ("T", " ", "t", "")  # what may stand between day and time
_RFC_2822 = re.compile(
    r"(?:[A-Za-z]{3},\s*)?\d{1,2}\s+[A-Za-z]{3}\s+\d{4}\s+\d{1,2}:\d{2}(?::\d{2})?\s+"
    r"(?:[+-]\d{4}|UTC?|GMT|Z|[ECMP][SD]T)(?:\s*\([A-Za-z ]+\))?"
)
_WEEKDAY = re.compile(r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?,? ", re.IGNORECASE)
_COMMENT = re.compile(r" ?\([\w .+-]+\)$")  # the zone's name once more, after its offset
_DAYS = ("%b %d %Y", "%B %d %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%Y-%b-%d", "%Y %b %d")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", " %H:%M:%S %z")
_NAMED_MONTH = ("%b %d %H:%M:%S %z %Y", "%b %d %H:%M:%S %Y", *(day + time for day in _DAYS for time in _TIMES))
_PARTS = ("year", "month", "day", "hour", "minute", "second")  # of a datetime and of _NUMBERS, in this order
_NUMBERS = {
    "%Y": r"(?P<year>\d{4})",
    "%m": r"(?P<month>\d{1,2})",
    "%d": r"(?P<day>\d{1,2})",
    "%H": r"(?P<hour>\d{1,2})",
    "%M": r"(?P<minute>\d{1,2})",
    "%S": r"(?P<second>\d{1,2})",
}


class UnreadableMoment(ValueError):  # noqa: N818
    """Not a date, or one that can be read in two ways. ``form``: its digits as 9 and its letters as A."""

    def __init__(self, value: Any) -> None:
        self.form = form_of(value)
        super().__init__(self.form)


def read_moment(value: Any, formats: Sequence[str] = (), zone: tzinfo = UTC) -> datetime | None:
    """The moment in UTC; None for an empty value.

    Args:
        formats: the source's own forms, tried first: strptime patterns or the keys of ``UNITS``.
        zone: of values without an offset.

    Raises:
        UnreadableMoment: no form fits, or more than one could.
    """
    try:
        if type(value) is str and (moment := _frequent(value, formats, zone)):
            return moment
        if value is None or (isinstance(value, float) and value != value):
            return None
        if isinstance(value, datetime):
            return _in_utc(value, zone)
        if isinstance(value, date):
            return _in_utc(datetime(value.year, value.month, value.day), zone)
        if type(value) is int and formats and formats[0] in UNITS:
            return EPOCH + timedelta(microseconds=value * (1_000_000 // UNITS[formats[0]]))
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise UnreadableMoment(value)
        text = " ".join(str(value).split())
        if text.lower() in EMPTY:
            return None
        moment = _stated(text, formats)
        moment = moment or (_epoch(text) if _DIGITS.fullmatch(text) else _unambiguous(text))
        return _in_utc(moment, zone)
    except (ValueError, OverflowError):
        raise UnreadableMoment(value) from None


def form_of(value: Any) -> str:
    """A value's form, for counting values alike: ``24-02-2015 11.35`` is ``99-99-9999 99.99``."""
    if not isinstance(value, str):
        return "a number" if type(value) in (int, float) else type(value).__name__
    return re.sub(r"[^\W\d_]", "A", re.sub(r"\d", "9", value.strip()))[:40]


def suggest_formats(values: Sequence[str]) -> list[str]:
    """The strptime patterns that read every one of these values; more than one where days and months cannot be told
    apart, none where no usual pattern does."""
    fitting = []
    for pattern in _USUAL:
        try:
            for value in values:
                datetime.strptime(" ".join(value.split()), pattern)
        except ValueError:
            continue
        fitting.append(pattern)
    return fitting


_USUAL = (
    *(f"{first}{separator}{second}{separator}{year}{time}"
      for separator in "/-."
      for first, second in (("%d", "%m"), ("%m", "%d"))
      for year in ("%Y", "%y")
      for time in ("", " %H:%M", " %H:%M:%S", " %H.%M", " %H.%M.%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M",
                   ", %H:%M:%S")),
    "%Y%m%d", "%Y%m%d%H%M%S", "%Y-%m",
)  # fmt: skip


def _stated(text: str, formats: Sequence[str]) -> datetime | None:
    for pattern in formats:
        try:
            if pattern in UNITS:
                if _DIGITS.fullmatch(text):
                    return EPOCH + timedelta(seconds=float(text) / UNITS[pattern])
            else:
                moment = _by_numbers(text, pattern)
                return moment.replace(tzinfo=None) if moment else datetime.strptime(text, pattern)
        except ValueError:
            continue
    return None


def _frequent(text: str, formats: Sequence[str], zone: tzinfo) -> datetime | None:
    """The moment in UTC of the forms that most rows have, read several times as fast as the others: ISO 8601, and the
    first of the source's own forms; None where the text has another."""
    if not formats:
        if text[4:5] != "-" or text[10:11] not in _BEFORE_TIME:
            return None
        try:
            return _in_utc(datetime.fromisoformat(text), zone)
        except ValueError:
            return None
    if formats[0] in UNITS:
        if not text.isdecimal():
            return None
        return EPOCH + timedelta(microseconds=int(text) * (1_000_000 // UNITS[formats[0]]))
    moment = _by_numbers(text, formats[0])
    return moment and (moment if zone is UTC else _in_utc(moment.replace(tzinfo=None), zone))


def _by_numbers(text: str, pattern: str) -> datetime | None:
    """The moment, as if it were in UTC, by a pattern of numbers alone; None where the pattern has more, or the text is
    no date by it."""
    numbers = _numbers_of(pattern)
    found = numbers.find(text) if numbers else None
    if not numbers or not found:
        return None
    parts = found.group(*numbers.names)
    try:
        return datetime.fromisoformat(numbers.iso % parts)
    except ValueError:  # numbers of one digit
        pass
    try:
        return datetime(*map(int, parts), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:  # such as a month 24: another pattern of the source may read it
        return None


class _Numbers(NamedTuple):
    """How a pattern of numbers is read. ``find`` matches the whole text, ``names`` are its groups in the order of a
    datetime, ``iso`` makes ISO 8601 in UTC of them."""

    find: Callable[[str], re.Match[str] | None]
    names: tuple[str, ...]
    iso: str


@cache
def _numbers_of(pattern: str) -> _Numbers | None:
    """How to read a pattern that has nothing but numbers, ten times as fast as strptime; else None."""
    directives = re.findall("%.", pattern)
    known = list(_NUMBERS)[: len(directives)]
    if len(directives) < 3 or set(directives) != set(known) or re.search(r"%.%|%.\d", pattern):
        return None
    find = re.compile(re.sub("%.", lambda found: _NUMBERS[found[0]], re.escape(pattern))).fullmatch
    iso = "%s-%s-%sT%s:%s:%s"
    for missing in range(len(directives), len(_PARTS)):
        iso = iso[: 3 * missing] + "00" + iso[3 * missing + 2 :]
    return _Numbers(find, _PARTS[: len(directives)], iso + "+00:00")


def _epoch(text: str) -> datetime:
    number = float(text)
    unit = next((unit for low, high, unit in _RANGES if low <= number < high), None)
    if unit is None:
        raise ValueError
    if unit == 1:
        return EPOCH + timedelta(seconds=number)
    return EPOCH + timedelta(microseconds=int(text.partition(".")[0]) * (1_000_000 // unit))


def _unambiguous(text: str) -> datetime:
    if found := _YEAR_FIRST.fullmatch(text):
        parts = found.groupdict()
        moment = datetime(int(parts["year"]), int(parts["month"]), int(parts["day"]))
        if parts["hour"] is None:
            return moment
        micro = int((parts["fraction"] or "0").ljust(6, "0")[:6])
        moment = moment.replace(
            hour=_hour(int(parts["hour"]), parts["half"]),
            minute=int(parts["minute"]),
            second=int(parts["second"] or 0),
            microsecond=micro,
        )
        if parts["zone"]:
            return moment.replace(tzinfo=_offset(parts["zone"]))
        return moment.replace(tzinfo=_zone(parts["place"])) if parts["place"] else moment
    if _RFC_2822.fullmatch(text):
        return parsedate_to_datetime(text.replace("UTC", "GMT").removesuffix("Z"))
    if re.match(r"\d{4}-\d{2}-\d{2}[^T ]", text):  # 2026-11-02-10:00 is a day with an offset in XML
        raise ValueError
    if not re.search("[A-Za-z]{3}", text):
        return datetime.fromisoformat(text)
    plain = _COMMENT.sub("", _WEEKDAY.sub("", text, count=1)).replace(",", " ").replace(" at ", " ")
    plain = re.sub(r"\b(?:UTC|GMT)(?=[+-]\d)", "", plain)
    plain = re.sub(r"\b(?:UTC|GMT)\b", "+0000", plain)
    plain = " ".join(plain.split())
    for pattern in _NAMED_MONTH:
        try:
            return datetime.strptime(plain, pattern)
        except ValueError:
            continue
    raise ValueError


def _hour(hour: int, half: str | None) -> int:
    """The hour of 24, of one with AM or PM after it (of which only A or P is given) or without."""
    if half is None:
        return hour
    if not 1 <= hour <= 12:
        raise ValueError
    return hour % 12 + (12 if half.upper() == "P" else 0)


def _offset(zone: str) -> tzinfo:
    if zone.upper() in ("Z", "UTC", "GMT"):
        return UTC
    return datetime.strptime(zone.replace(":", "").ljust(5, "0"), "%z").tzinfo or UTC


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError):  # no zone of that name
        raise ValueError from None


def _in_utc(moment: datetime, zone: tzinfo) -> datetime:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
