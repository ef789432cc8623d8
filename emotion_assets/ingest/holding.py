"""Which files of the inbox still hold rows that were removed. Nothing in the inbox is ever changed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from emotion_assets.forms.problems import Quarantine
from emotion_assets.ingest.inbox import InboxFile, Unavailable, list_inbox, sha256_of
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.ingest.sources import source_name
from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets.storage.warehouse.forget import Row


@dataclass(frozen=True)
class Holding:
    """Names of files: those that hold a removed row, those of whose rejected rows one seems to be the person's, and
    those that could not be looked through."""

    sure: tuple[str, ...]
    perhaps: tuple[str, ...]
    unknown: tuple[str, ...]


def find_holding(
    inbox: Path, settings: FeedbackSettings, rows: Collection[Row], perhaps: Collection[str], now: float
) -> Holding:
    """Look through every file of the inbox for the removed rows: in the files that they came in, and in any other of
    the source, where they were duplicates.

    Args:
        perhaps: sha256 of the files whose rejected rows seem to be the person's.

    Raises:
        Unavailable: the inbox is there and cannot be listed.
    """
    hashes = {row.sha256 for row in rows}
    known = {(row.source, row.identity) for row in rows}
    known |= {(row.source, row.text) for row in rows if row.identity.startswith("row:")}
    found: dict[str, list[str]] = {"sure": [], "perhaps": [], "unknown": []}
    for file in list_inbox(inbox, 0, now):
        if file.problem is not None:
            found["unknown"].append(file.name)
            continue
        try:
            sha256 = sha256_of(file)
            if sha256 in hashes or _holds(file, settings, known):
                found["sure"].append(file.name)
            elif sha256 in perhaps:
                found["perhaps"].append(file.name)
        except (Quarantine, Unavailable):
            found["unknown"].append(file.name)
    return Holding(**{name: tuple(files) for name, files in found.items()})


def _holds(file: InboxFile, settings: FeedbackSettings, known: Collection[tuple[str, str]]) -> bool:
    source = source_name(file.name)
    if source not in {name for name, _ in known}:
        return False
    return any(
        (source, row.text if row.id is None else f"id:{row.id}") in known
        for row in read_feedback(file.path, settings, source)
        if isinstance(row, Accepted)
    )
