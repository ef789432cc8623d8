"""Forget a person: remove their rows from the database, its file, the exports and the page, and say what is left.

The hashes are committed with the removal; all that follows (the file written anew, the exports, the page) can be done
again. A run that was cut off between is finished by the next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.cli.rebuild import kept_copies, remove_unfinished
from emotion_assets.forms.problems import EXCERPT_CHARACTERS
from emotion_assets.ingest.holding import Holding, find_holding
from emotion_assets.ingest.redating import count_undated_again
from emotion_assets.ingest.sources import DEFAULT
from emotion_assets.reports.feedback_page import PAGE, write_feedback_page
from emotion_assets.reports.pending import record_shown_reviews
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.exports import SETS_KEPT, export_sets, export_tables
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.storage.store import MANIFEST
from emotion_assets.storage.warehouse.database import Warehouse, WarehouseError, count
from emotion_assets.storage.warehouse.feedback import fill_identities
from emotion_assets.storage.warehouse.forget import Person, Removed, remove_person
from emotion_assets.storage.warehouse.tables import Forgotten

if TYPE_CHECKING:
    from emotion_assets.storage.workspace import Workspace

NAMED = 20  # files that were not looked through; of more than these the number alone is said


def make_person(source: str | None, row_id: str | None, where: str | None) -> Person:
    """Whose rows the options of the command name.

    Raises:
        UserError: neither an id nor an attribute is given, or both, or one of them is not usable.
    """
    if (row_id is None) == (where is None):
        raise UserError("nothing to forget; give --id ID (and --source S), or --where ATTRIBUTE=VALUE")
    if where is None:
        if not row_id:
            raise UserError("--id: is empty; give the id as it stands in the file")
        return Person(source or DEFAULT, row_id)
    name, equals, value = where.partition("=")
    if not (name and equals and value):
        raise UserError(f"--where {where}: not of the form ATTRIBUTE=VALUE, as in --where email=ann@example.org")
    return Person(source, attribute=(name, value))


def forget(workspace: Workspace, person: Person) -> Iterator[str]:
    """Remove the rows of a person; each line says what was done, once it is, or what is left to do by hand.

    Raises:
        UserError: there is nothing of that person, the database cannot be used, or the disk is full: after the removal
            was committed, the next run finishes it.
    """
    warehouse = workspace.warehouse
    with warehouse.writing() as db:
        fill_identities(db)
        removed = remove_person(db, person, datetime.now(UTC), EXCERPT_CHARACTERS)
        count_undated_again(db, removed.undated_files)
    failpoint("forget.after_removal")
    if not removed.any and _is_finished(warehouse):
        hint = "give the id as it stands in the file, and its source by --source" if person.id is not None else ""
        raise UserError(f"{person}: no such row; {hint or 'give an attribute and its value as the exports show them'}")
    yield from _say_removed(person, removed)
    yield from _rewrite_database(warehouse)
    yield from _rewrite_page(workspace)
    yield from _export_anew(warehouse)  # last of what is written: by the exports the next run knows that it is done
    yield from _say_inbox(workspace, removed)
    yield from _say_datasets(workspace.store.root / "datasets", removed.reviewed)
    if removed.any:
        yield from _say_models(workspace.store.root / "models")
    for copy in kept_copies(warehouse):
        yield f"{copy}: the database of before a rebuild, which may hold them; delete it"
    yield (
        "not looked through: Dagster's history, which shows the beginnings of the newest texts of each run, and files "
        "that score and export have written elsewhere"
    )


def _is_finished(warehouse: Warehouse) -> bool:
    """Whether the exports are of after all that was forgotten, so that no earlier run was cut off."""
    with warehouse.reading() as db:
        hashes = count(db, "SELECT count(*) FROM forgotten")
    sets = export_sets(warehouse)
    return not hashes or bool(sets and all(_exported_hashes(folder) == hashes for folder in sets))


def _exported_hashes(folder: Path) -> int:
    try:
        return int(pq.read_metadata(folder / f"{Forgotten.table}.parquet").num_rows)
    except (OSError, pa.ArrowException):
        return 0


def _say_removed(person: Person, removed: Removed) -> Iterator[str]:
    if not removed.any:
        yield f"{person}: no such row; an earlier run of forget was cut off and is finished"
        return
    counts = removed.counts
    yield (
        f"{person}: removed {counts['feedback']} rows of feedback, {counts['scored_feedback']} of scored_feedback, "
        f"{counts['review_queue']} of review_queue; a salted hash of each is kept, so that they are not taken in again"
    )
    if counts["excerpts"]:
        yield f"feedback_rejects: {counts['excerpts']} excerpts of rejected rows emptied"
    if counts["cut"]:
        yield (
            f"feedback_rejects: {counts['cut']} excerpts of other rejected rows are cut off at {EXCERPT_CHARACTERS} "
            "characters; whether these rows are of the same person cannot be told"
        )
    if without := sum(row.identity.startswith("row:") for row in removed.rows):
        yield (
            f"{without} rows have no id and are known by their content: if another file holds them too, a change of "
            "the source's settings lets them in from there"
        )


def _rewrite_database(warehouse: Warehouse) -> list[str]:
    with warehouse.exclusively():
        remove_unfinished(warehouse)
    try:
        warehouse.rewrite()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        return [f"{warehouse.path}: not written anew ({first}); its free space may still hold the texts"]
    return [f"{warehouse.path}: written anew, so that its free space holds nothing of them"]


def _export_anew(warehouse: Warehouse) -> list[str]:
    """Write as many sets as are kept: each older one goes, and the newest has another to stand in for it."""
    sets = [export_tables(warehouse).folder.name for _ in range(SETS_KEPT)]
    return [f"exports: written anew ({', '.join(sets)}), older sets deleted"]


def _rewrite_page(workspace: Workspace) -> list[str]:
    page = workspace.settings.reports / PAGE
    if not page.exists():
        return []
    try:
        with record_shown_reviews(workspace.settings, workspace.warehouse):
            write_feedback_page(workspace.settings, workspace.store, workspace.warehouse)
    except WarehouseError:
        raise
    except UserError as error:
        return [f"{page}: may show them and cannot be written anew ({error}); delete it"]
    return [f"{page}: written anew"]


def _say_inbox(workspace: Workspace, removed: Removed) -> Iterator[str]:
    settings = workspace.settings
    holding: Holding = find_holding(settings.inbox, settings.feedback, removed.rows, removed.excerpt_files, time.time())
    yield from (f"{settings.inbox / name}: still holds them; delete it, or the rows in it" for name in holding.sure)
    yield from (f"{settings.inbox / name}: may hold them in a rejected row; look there" for name in holding.perhaps)
    if holding.unknown:
        more = len(holding.unknown) - NAMED
        names = ", ".join(holding.unknown[:NAMED]) + (f" and {more} more" if more > 0 else "")
        yield f"{settings.inbox}: files that cannot be read were not looked through: {names}"


def _say_datasets(folder: Path, texts: Collection[str]) -> Iterator[str]:
    """The stored datasets whose training rows have reviewed texts that were removed."""
    reviewed = pa.array({text.strip() for text in texts}, pa.string())
    if not len(reviewed):
        return
    for train in sorted(folder.glob("*/train.parquet")):
        try:
            rows = pq.read_table(train, columns=["text"])
        except (OSError, pa.ArrowException):
            continue
        if n := len(set(rows["text"].to_pylist()) & set(reviewed.to_pylist())):
            yield (
                f"{train.parent}: {n} reviewed texts joined its training rows; materialise raw_emotion_dataset and "
                "what follows it, then delete this folder and the reports, tokens and models made from it"
            )


def _say_models(folder: Path) -> Iterator[str]:
    """The stored models that learned from texts of the feedback."""
    for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
        try:
            texts = json.loads(manifest.read_text(encoding="utf-8"))["info"].get("feedback_texts")
        except (OSError, ValueError, KeyError):
            continue
        if texts:
            yield (
                f"{manifest.parent}: holds no text, but learned from {texts} texts of the feedback, maybe theirs; "
                "materialise the distilled model and what follows it, then delete this folder"
            )
