"""Rows whose time could not be read: counted by form with the setting that reads it, and dated once that is there.

The value stands among a row's attributes, so that the file need not be there any more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from emotion_assets.ingest.moments import UnreadableMoment, form_of, read_moment, suggest_formats
from emotion_assets.ingest.sources import Source, make_source
from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.undated import (
    record_redated,
    recount_undated,
    undated_files,
    undated_forms,
    undated_rows,
    undated_values,
)

MOST_VALUES = 1000  # that are looked at for a suggestion


def redate(warehouse: Warehouse, settings: FeedbackSettings) -> int:
    """Try the undated rows of every file that was read under other settings than its source has now; returns how many
    have a date now.

    Raises:
        WarehouseError: the database cannot be used.
    """
    with warehouse.reading() as db:
        waiting = find_redatable(db, settings)
    if not waiting:
        return 0
    with warehouse.writing() as db:
        return sum(_redate_file(db, sha256, source) for sha256, source in waiting)


def find_redatable(db: duckdb.DuckDBPyConnection, settings: FeedbackSettings) -> list[tuple[str, Source]]:
    """sha256 and source of the files with undated rows that today's settings of their source were not tried on."""
    return [
        (sha256, source)
        for sha256, name, tried in undated_files(db)
        if (source := make_source(settings, name)).fingerprint != tried
    ]


def count_undated_again(db: duckdb.DuckDBPyConnection, files: Iterable[tuple[str, str]]) -> None:
    """Count the rows without a readable time anew in files, given by sha256 and source, that have lost rows."""
    for sha256, source in files:
        forms = Counter(form_of(json.loads(attributes)["created_at"]) for _, attributes in undated_rows(db, sha256))
        recount_undated(db, sha256, source, forms)


def undated_by_form(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """``source``, ``form``, ``rows`` and the ``setting`` that would read them, the most frequent first."""
    values: dict[tuple[str, str], list[str]] = {}
    forms = undated_forms(db)
    for source in {source for source, _, _ in forms}:
        for value in undated_values(db, source, MOST_VALUES):
            values.setdefault((source, form_of(value)), []).append(value)
    return [
        {"source": source, "form": form, "rows": n, "setting": suggest_setting(source, values.get((source, form), []))}
        for source, form, n in forms
    ]


def suggest_setting(source: str, values: Sequence[str]) -> str:
    """The setting that reads these times of a source, or what to look for where several would or none is known."""
    key = f"feedback.sources.{source}.created_at_format"
    patterns = suggest_formats(values) if values else []
    if len(patterns) == 1:
        return f'{key}: "{patterns[0]}"'
    if patterns:
        return f"{key}: " + " or ".join(f'"{pattern}"' for pattern in patterns[:3]) + ", whichever it is"
    return f"{key}: the strptime pattern of these times"


def _redate_file(db: duckdb.DuckDBPyConnection, sha256: str, source: Source) -> int:
    dated: list[tuple[str, object, str]] = []
    forms: Counter[str] = Counter()
    for feedback_id, attributes in undated_rows(db, sha256):
        values = json.loads(attributes)
        try:
            moment = read_moment(values.pop("created_at"), source.formats, source.zone)
        except UnreadableMoment as unreadable:
            forms[unreadable.form] += 1
            continue
        dated.append((feedback_id, moment, json.dumps(values, ensure_ascii=False, allow_nan=False)))
    columns = list(zip(*dated, strict=True)) or [(), (), ()]
    table = pa.table(
        {
            "feedback_id": pa.array(columns[0], pa.string()),
            "created_at": pa.array(columns[1], pa.timestamp("us", "UTC")),
            "attributes": pa.array(columns[2], pa.string()),
        }
    )
    record_redated(db, sha256, source.name, source.fingerprint, table, dict(forms))
    return len(dated)
