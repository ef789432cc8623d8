"""The review queue on its way to a person and back, as a CSV file that a spreadsheet opens.

Each distinct text is one line of the file; its label goes to every queued row with that text. A line that cannot be
used is named and left out, the others count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from emotion_assets.forms.csv import Csv
from emotion_assets.forms.form import Columns
from emotion_assets.forms.problems import Quarantine, Rejected
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.feedback import ReadingSettings
from emotion_assets.storage.exports import export_tables, writing_rows
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.review import queued_texts, reviewed_texts, store_labels

REVIEW_COLUMNS = Columns(required=(("review_id", "label", "reviewer"),))
GUARD = "'"  # what a spreadsheet program, or our own export, may have put before a cell


@dataclass(frozen=True)
class ReviewOutcome:
    """What an import did: rows of the queue labelled, lines left without a label, and lines that cannot be used."""

    labelled_rows: int
    labelled_texts: int
    unlabelled: int
    rejected: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        lines = [f"{self.labelled_texts} texts labelled ({self.labelled_rows} rows), {self.unlabelled} without a label"]
        return "\n".join(lines + [f"line {line}: left out, {why}" for line, why in self.rejected])


def export_review(warehouse: Warehouse, path: Path) -> int:
    """Write the texts that wait for a person to a CSV file, the audit sample first; how many lines.

    Raises:
        UserError: the name does not end in .csv, or its folder is missing.
    """
    if path.suffix != ".csv":
        raise UserError(f"{path}: not a name for a review file; let it end in .csv")
    with warehouse.reading() as db:
        texts = queued_texts(db)
    with writing_rows(path, texts.schema) as write:
        return sum(write(batch) for batch in texts.to_batches())


def import_review(warehouse: Warehouse, path: Path, labels: Sequence[str]) -> ReviewOutcome:
    """Bring the labels of a review file into ``review_queue``, and into the exports, since they are a person's work.

    A line needs ``review_id``, ``label`` and ``reviewer``; ``reviewed_at`` (ISO 8601) is now where it is empty. A label
    that was given before is replaced.

    Raises:
        UserError: the file cannot be read, or a column is missing.
    """
    lines, rejected = _read(path)
    with warehouse.reading() as db:
        queued = set(queued_texts(db, reviewed=True)["review_id"].to_pylist())
    accepted: dict[str, dict[str, Any]] = {}
    unlabelled = 0
    for number, line in lines:
        label = line["label"].strip().removeprefix(GUARD)
        if not label:
            unlabelled += 1
            continue
        row, problem = _check_line(line, label, labels, queued, accepted)
        if row is None:
            rejected.append((number, problem))
        else:
            accepted[row["review_id"]] = row
    count = 0
    if accepted:
        with warehouse.writing() as db:
            count = store_labels(db, pa.Table.from_pylist(list(accepted.values())))
        export_tables(warehouse)
    return ReviewOutcome(count, len(accepted), unlabelled, tuple(rejected))


def reviewed_rows(warehouse: Warehouse, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Reviewed texts with their labels, each text once with its newest label, for joining the training rows.

    The audit sample is left out: it measures the live accuracy, and a model must not have seen it.
    """
    with warehouse.reading() as db:
        rows = reviewed_texts(db).to_pylist()
    return [(row["text"], row["label"]) for row in rows if row["label"] in labels]


def _check_line(
    line: Mapping[str, str], label: str, labels: Sequence[str], queued: set[str], accepted: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, str]:
    """The line as a row to store, or why it cannot be used."""
    identity = line["review_id"].strip()
    reviewer = line["reviewer"].strip()
    if identity not in queued:
        return None, f"review_id {identity!r} is not in the queue"
    if label not in labels:
        return None, f"label {label!r} is not known; use {', '.join(labels)}"
    if not reviewer:
        return None, "reviewer is empty"
    if identity in accepted and accepted[identity]["label"] != label:
        return None, f"review_id {identity!r} has the label {accepted[identity]['label']!r} in an earlier line"
    try:
        moment = datetime.fromisoformat(line.get("reviewed_at", "").strip() or datetime.now(UTC).isoformat())
    except ValueError:
        return None, f"reviewed_at {line['reviewed_at']!r} is no ISO 8601 time such as 2026-01-31T09:00:00Z"
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return {"review_id": identity, "label": label, "reviewer": reviewer, "reviewed_at": moment}, ""


def _read(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[tuple[int, str]]]:
    """The lines of the file with their numbers, and those that cannot be read, each with the reason.

    A spreadsheet may have saved it with semicolons or tabs.
    """
    lines: list[tuple[int, dict[str, str]]] = []
    unreadable: list[tuple[int, str]] = []
    try:
        with path.open("rb") as stream:
            for record in Csv().records(stream, ReadingSettings(), REVIEW_COLUMNS):
                if isinstance(record, Rejected):
                    unreadable.append((record.row_number, record.detail))
                elif any(value.strip() for value in record.values.values()):
                    lines.append((record.number, record.values))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write one with `emotion-assets export --review FILE`") from None
    except Quarantine as quarantine:
        raise UserError(f"{path}: {quarantine.detail}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the filled-in CSV file") from None
    return lines, unreadable
