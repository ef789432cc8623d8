"""Is there anything to do? The question that the schedule and the sensor ask at every tick, without doing any of it.

Labels brought back from review are work when they differ from those that the page was last written with; a file beside
the page says which, since neither a person's clock nor a count tells a label that replaced another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from emotion_assets.evaluation.predictions import Problems
from emotion_assets.ingest.inbox import InboxFile, Unavailable, list_inbox, sha256_of
from emotion_assets.ingest.redating import find_redatable
from emotion_assets.ingest.sources import Source, make_source, source_name
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.atomic import write_text_atomically
from emotion_assets.storage.keys import CHAMPION
from emotion_assets.storage.store import Store, fingerprint
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.feedback import file_states, is_settled, quarantine_codes
from emotion_assets.storage.warehouse.review import fingerprint_reviews
from emotion_assets.storage.warehouse.scores import count_waiting, waiting_since

REVIEWS_SHOWN, NO_REVIEWS = ".feedback_reviews", "0 0"
NAMED = 5  # quarantined files; of more than these the number alone is said
LATE_SECONDS = 2 * 3600.0  # the schedule has come by at least once in that time
TICK_WAIT_SECONDS = 10.0  # a tick must end soon; when a run has the database, the next tick looks again


@dataclass(frozen=True)
class Work:
    """What a feedback run would find. ``hashes``: the sha256 of each file by what tells it unchanged, for the next
    look. ``redatable``: files whose undated rows are to be tried under settings that are new. ``run_key``: equal for
    equal sets of new contents and settings. ``new_reviews``: the page does not show today's labels."""

    new_files: tuple[str, ...]
    redatable: int
    unscored: int
    new_reviews: bool
    summary: str
    run_key: str
    hashes: dict[str, str]

    @property
    def any(self) -> bool:
        return bool(self.new_files or self.redatable or self.unscored or self.new_reviews)


def find_pending_work(
    settings: Settings, store: Store, warehouse: Warehouse, now: float, hashes: Mapping[str, str]
) -> Work:
    """New files in the inbox, rows to date, rows without a score, labels that the page does not show.

    ``hashes`` is what an earlier look returned; a file of the same name, size, times and inode is not read again to
    know its hash.

    Raises:
        UserError: the database cannot be read, or a run keeps it for longer than a tick should wait.
    """
    sources: dict[str, Source] = {}
    with replace(warehouse, wait_seconds=min(warehouse.wait_seconds, TICK_WAIT_SECONDS)).reading() as db:
        states, codes = file_states(db), quarantine_codes(db)
        redatable = find_redatable(db, settings.feedback)
        unscored = count_waiting(db) if store.has(CHAMPION) else 0
        new_reviews = store.has(CHAMPION) and fingerprint_reviews(db) != _read_shown_reviews(settings)
    remembered: dict[str, str] = {}
    new: dict[str, str] = {}
    seen: set[str] = set()
    readings = {f"{sha256} {source.fingerprint}" for sha256, source in redatable}
    left = 0
    quarantined: list[str] = []
    files = list_inbox(settings.inbox, settings.feedback.settle_seconds, now)
    for file in files:
        if file.problem is not None:
            left += 1
            continue
        identity = _identity(file)
        try:
            sha256 = hashes.get(identity) or sha256_of(file)
        except Unavailable:
            left += 1
            continue
        remembered[identity] = sha256
        name = source_name(file.name)
        source = sources.setdefault(name, make_source(settings.feedback, name))
        if sha256 not in seen and not is_settled(states, sha256, source.fingerprint):
            new[sha256] = file.name
            readings.add(source.fingerprint)
        elif sha256 in codes:
            quarantined.append(f"{file.name}: {codes[sha256]}")
        seen.add(sha256)
    summary = f"nothing new in {settings.inbox}: {len(files) - left - len(quarantined)} files are ingested, "
    summary += f"{_count_quarantined(quarantined)}{left} left alone"
    if not store.has(CHAMPION):
        summary += "; no champion_model yet, so nothing is scored"
    key = fingerprint(sorted(new), sorted(readings))
    return Work(tuple(new.values()), len(redatable), unscored, new_reviews, summary, key, remembered)


def find_backlog(
    settings: Settings, store: Store, warehouse: Warehouse, now: float, hashes: Mapping[str, str]
) -> tuple[Problems, dict[str, str]]:
    """What has waited for more than ``LATE_SECONDS``: files that lie in the inbox unread, accepted rows without a
    score. An inbox that is quiet has no backlog. With it the hashes, which are as in ``find_pending_work``.

    Raises:
        UserError: as ``find_pending_work``.
    """
    work = find_pending_work(settings, store, warehouse, now, hashes)
    new, late = set(work.new_files), now - LATE_SECONDS
    came = [
        max(file.mtime_ns, file.ctime_ns) / 1e9
        for file in list_inbox(settings.inbox, settings.feedback.settle_seconds, now)
        if file.name in new
    ]
    with warehouse.reading() as db:
        rows, oldest = waiting_since(db, datetime.fromtimestamp(late, UTC))
    problems: Problems = []
    if waiting := [moment for moment in came if moment < late]:
        problems.append({"waiting": "files in the inbox", "n": len(waiting), "hours": (now - min(waiting)) / 3600})
    if oldest is not None:
        problems.append({"waiting": "rows without a score", "n": rows, "hours": (now - oldest.timestamp()) / 3600})
    return problems, work.hashes


@contextmanager
def record_shown_reviews(settings: Settings, warehouse: Warehouse) -> Iterator[None]:
    """Around the writing of the page: the labels from before it count as shown once it is written, later ones do not.

    Raises:
        UserError: the database cannot be read.
    """
    with warehouse.reading() as db:
        shown = fingerprint_reviews(db)
    yield
    write_text_atomically(settings.reports / REVIEWS_SHOWN, f"{shown}\n")


def _count_quarantined(files: list[str]) -> str:
    if not files:
        return ""
    more = f", and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return f"{len(files)} quarantined ({', '.join(files[:NAMED])}{more}), "


def _read_shown_reviews(settings: Settings) -> str:
    try:
        return (settings.reports / REVIEWS_SHOWN).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return NO_REVIEWS


def _identity(file: InboxFile) -> str:
    return f"{file.name}|{file.size}|{file.mtime_ns}|{file.ctime_ns}|{file.inode}"
