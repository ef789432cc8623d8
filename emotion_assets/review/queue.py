"""The review queue on its way to a person and back, as a file that a spreadsheet opens (``sheets``).

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

from emotion_assets.review.sheets import read_lines, write_workbook
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.exports import export_tables, writing_rows
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.review import QUEUE, queued_ids, queued_texts, reviewed_texts, store_labels

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


def export_review(warehouse: Warehouse, path: Path, labels: Sequence[str]) -> int:
    """Write the texts that wait for a person to a ``.csv`` or ``.xlsx`` file, the audit sample first; how many lines.

    In a ``.xlsx`` file the labels are a drop-down list in the column to fill in.

    Raises:
        UserError: the name has another ending, its folder is missing, or a sheet does not hold so many lines.
    """
    if path.suffix not in (".csv", ".xlsx"):
        raise UserError(f"{path}: not a name for a review file; let it end in .csv or .xlsx")
    with warehouse.reading() as db:
        lines, texts = queued_texts(db)
        if path.suffix == ".xlsx":
            write_workbook(path, lines, texts, labels)
        else:
            with writing_rows(path, QUEUE) as write:
                for part in texts:
                    for batch in part.to_batches():
                        write(batch)
    return lines


def import_review(warehouse: Warehouse, path: Path, labels: Sequence[str]) -> ReviewOutcome:
    """Bring the labels of a review file into ``review_queue``, and into the exports, since they are a person's work.

    A line needs ``review_id``, ``label`` and ``reviewer``; ``reviewed_at`` (ISO 8601) is now where it is empty. A label
    that was given before is replaced.

    Raises:
        UserError: the file cannot be read, or a column is missing.
    """
    lines, rejected = read_lines(path)
    with warehouse.reading() as db:
        queued = queued_ids(db)
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
