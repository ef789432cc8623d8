"""What a row of feedback is: its text, id and time, and every other column as attributes.

Does not belong here: how bytes become values (``forms``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from emotion_assets.forms.form import Columns
from emotion_assets.forms.problems import Reason, RowProblem, excerpt

FEEDBACK_COLUMNS = Columns(required=(("text",),), types={"text": "string", "id": "id", "created_at": "moment"})

# White space, controls, format characters (zero-width, direction marks), fillers and selectors: Unicode's categories
# Cc, Cf, Z*, Cs and Default_Ignorable_Code_Point, and the blank Braille pattern. (Unicode 15.1, DerivedCoreProperties)
_INVISIBLE = (
    "\x00-\x20\x7f-\xa0\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680"
    "\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ud800-\udfff"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_VISIBLE = re.compile(f"[^{_INVISIBLE}]")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A row to keep. ``row_number`` is the line it starts on (a CSV's header is line 1); in Parquet the row, from 1.

    ``id`` is None where the file gives none. ``created_at`` is in UTC. ``attributes`` holds every other column as
    values that ``json.dumps(..., allow_nan=False)`` takes.
    """

    row_number: int
    id: str | None
    text: str
    created_at: datetime | None
    attributes: dict[str, Any]


def accept(row_number: int, values: dict[str, Any]) -> Accepted:
    """The row of these values, of which text, id and created_at are taken out: the rest are its attributes.

    Raises:
        RowProblem: the text, id or created_at is not usable.
    """
    text = values.pop("text", None)
    if not isinstance(text, str):
        if text is None:
            raise RowProblem(Reason.MISSING_TEXT)
        raise RowProblem(Reason.TEXT_NOT_STRING, f"text is a {type(text).__name__}, not a string")
    if not _VISIBLE.search(text):
        raise RowProblem(Reason.EMPTY_TEXT)
    row_id = values.pop("id", None)
    if row_id is not None and type(row_id) is not str:
        if type(row_id) is not int:
            raise RowProblem(Reason.BAD_ID, f"id is a {type(row_id).__name__}, not a string or a whole number")
        row_id = str(row_id)
    created_at = values.pop("created_at", None)
    if created_at is not None:
        created_at = _as_utc(created_at)
    return Accepted(row_number, row_id if row_id and not row_id.isspace() else None, text, created_at, values)


def _as_utc(value: Any) -> datetime | None:
    """ISO 8601 with a date at least; without an offset it is taken as UTC. Blank is none."""
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, date):
            moment = datetime(value.year, value.month, value.day)
        elif not isinstance(value, str):
            raise RowProblem(Reason.BAD_CREATED_AT, f"created_at is a {type(value).__name__}, not an ISO 8601 string")
        elif not value or value.isspace():
            return None
        else:
            moment = datetime.fromisoformat(value.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        shown = excerpt(str(value))[:40]
        raise RowProblem(
            Reason.BAD_CREATED_AT, f"{shown!r} is no ISO 8601 date or time such as 2026-01-31T09:00:00Z"
        ) from None
