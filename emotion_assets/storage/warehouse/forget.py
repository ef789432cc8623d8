"""The statements of forgetting: whose rows, what goes with them, and the hashes by which they are refused later.

Every function takes an open connection; those that write belong inside ``Warehouse.writing``. A hash in ``forgotten``
is of a row's identity, of its place ``at:<file>:<row>`` (a row without an id has another identity once its source is
read otherwise, but stands where it stood), or of the place ``excerpt:<file>:<row>`` of a rejected row whose excerpt is
not to be kept.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import count

SALT_BYTES = 16
_HASH = "sha256((SELECT any_value(salt) FROM forgotten) || {0})"
_HELD = f"({_HASH} IN (SELECT identity_hash FROM forgotten WHERE {{1}}))"


def is_forgotten(source: str, identity: str, sha256: str, row_number: str) -> str:
    """The SQL of whether a row was forgotten, by its identity in its source or by its place; given as expressions."""
    place = f"'at:' || {sha256} || ':' || {row_number}"
    return f"({_HELD.format(identity, f'source = {source}')} OR {_HELD.format(place, 'true')})"


def kept_excerpt(excerpt: str, sha256: str, row_number: str) -> str:
    """The SQL of a rejected row's excerpt, empty where the row or the excerpt was forgotten."""
    places = (f"'{kind}:' || {sha256} || ':' || {row_number}" for kind in ("at", "excerpt"))
    return f"CASE WHEN {' OR '.join(_HELD.format(place, 'true') for place in places)} THEN '' ELSE {excerpt} END"


@dataclass(frozen=True)
class Person:
    """Whose rows: those with an ``id`` of a source, or those with an attribute ``(name, value)``, of one source or of
    all (None)."""

    source: str | None
    id: str | None = None
    attribute: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        what = "=".join(self.attribute) if self.id is None else f"id {self.id}"
        return what if self.source is None else f"{what} in source {self.source}"

    @property
    def condition(self) -> tuple[str, dict[str, Any]]:
        """The SQL of whether a row of ``feedback`` is theirs, and its parameters."""
        if self.id is not None:
            # A row without an id is named by its content, as the exports show it.
            condition = (
                "source = $source AND (identity = 'id:' || $id OR (identity LIKE 'row:%' AND feedback_id = $id))"
            )
            return condition, {"source": self.source, "id": self.id}
        name, value = self.attribute
        path = "/" + name.replace("~", "~0").replace("/", "~1")
        condition = "json_extract_string(attributes, $path) = $value AND source = coalesce($source, source)"
        return condition, {"source": self.source, "path": path, "value": value}

    @property
    def pattern(self) -> str:
        """A regular expression that finds their id or value, as a whole word, in the excerpt of a row as it was."""
        value = self.attribute[1] if self.id is None else self.id
        forms = {value, value.replace('"', '""'), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
        return rf"(^|[^\pL\pN_])({'|'.join(re.escape(form) for form in sorted(forms))})($|[^\pL\pN_])"


@dataclass(frozen=True)
class Row:
    """A row of feedback that was removed."""

    source: str
    identity: str
    text: str
    sha256: str


@dataclass(frozen=True)
class Removed:
    """What went. ``reviewed``: texts that a person had labelled, which a training set may hold."""

    rows: tuple[Row, ...]
    counts: Mapping[str, int]
    reviewed: tuple[str, ...]
    excerpt_files: tuple[str, ...]
    """sha256 of the files whose rejected rows seem to hold the id or the attribute."""
    undated_files: tuple[tuple[str, str], ...]
    """sha256 and source of the files whose rows without a readable time are to be counted again."""

    @property
    def any(self) -> bool:
        return bool(self.rows or self.counts["excerpts"])


def remove_person(db: duckdb.DuckDBPyConnection, person: Person, now: datetime, cut_at: int) -> Removed:
    """Remove the rows of a person, all versions, from every table of feedback, and keep their hashes.

    In the books of their files they are rejected rows from then on. Every row of ``feedback`` needs its identity.

    Args:
        cut_at: characters of an excerpt that does not show its row whole; how many such there are is in the counts.
    """
    theirs, parameters = person.condition
    matches = "regexp_matches(raw_excerpt, $pattern) OR regexp_matches(detail, $pattern)"
    excerpts = f"source = coalesce($source, source) AND ({matches})"
    _mark(db, theirs, excerpts, {**parameters, "source": person.source, "pattern": person.pattern})
    _keep_hashes(db, person, now)
    cut = count(
        db,
        """
        SELECT count(*) FROM feedback_rejects ANTI JOIN excerpts USING (source_sha256, row_number)
        JOIN ingested_files ON source_sha256 = file_sha256
        WHERE length(raw_excerpt) >= $cut_at AND source = coalesce($source, source)
        """,
        {"cut_at": cut_at, "source": person.source},
    )
    return _remove_marked(db, cut)


def _remove_marked(db: duckdb.DuckDBPyConnection, cut: int = 0) -> Removed:
    rows = sorted(db.execute("SELECT source, identity, text, source_sha256 FROM going").fetchall())
    query = "SELECT text FROM review_queue SEMI JOIN going USING (feedback_id) WHERE label IS NOT NULL"
    reviewed = {text for (text,) in db.execute(query).fetchall()}
    excerpt_files = db.execute("SELECT DISTINCT source_sha256 FROM excerpts ORDER BY ALL").fetchall()
    undated = db.execute(
        """
        SELECT file_sha256, source FROM ingested_files
        WHERE rows_undated > 0 AND file_sha256 IN (SELECT source_sha256 FROM going)
        """
    ).fetchall()
    counts = {
        table: count(db, f"DELETE FROM {table} WHERE feedback_id IN (SELECT feedback_id FROM going)")
        for table in ("feedback", "scored_feedback", "review_queue")
    }
    counts |= {"excerpts": count(db, "SELECT count(*) FROM excerpts"), "cut": cut}
    _move_in_the_books(db)
    db.execute("DROP TABLE going")
    db.execute("DROP TABLE excerpts")
    return Removed(
        rows=tuple(Row(*row) for row in rows),
        counts=counts,
        reviewed=tuple(sorted(reviewed)),
        excerpt_files=tuple(sha256 for (sha256,) in excerpt_files),
        undated_files=tuple(undated),
    )


def _mark(db: duckdb.DuckDBPyConnection, rows: str, excerpts: str, parameters: Mapping[str, Any]) -> None:
    """Make the tables ``going``, rows of feedback in all their versions, and ``excerpts``, places of rejected rows, by
    the SQL of which they are."""

    def make(statement: str) -> None:
        db.execute(statement, {name: value for name, value in parameters.items() if f"${name}" in statement})

    make(
        f"""
        CREATE OR REPLACE TEMP TABLE going AS
        SELECT feedback_id, source, identity, text, source_sha256, row_number FROM feedback
        WHERE (source, identity) IN (SELECT (source, identity) FROM feedback WHERE {rows})
        """
    )
    make(
        f"""
        CREATE OR REPLACE TEMP TABLE excerpts AS
        SELECT source_sha256, row_number, source
        FROM feedback_rejects JOIN ingested_files ON source_sha256 = file_sha256 WHERE {excerpts}
        """
    )


def _keep_hashes(db: duckdb.DuckDBPyConnection, person: Person, now: datetime) -> None:
    salt = db.execute("SELECT any_value(salt) FROM forgotten").fetchall()[0][0] or secrets.token_hex(SALT_BYTES)
    db.execute(
        """
        INSERT INTO forgotten BY NAME
        WITH known AS (
            SELECT source, identity FROM going
            UNION SELECT source, 'at:' || source_sha256 || ':' || row_number FROM going
            UNION SELECT source, 'excerpt:' || source_sha256 || ':' || row_number FROM excerpts
            UNION SELECT source, 'id:' || $id FROM excerpts WHERE $id IS NOT NULL
        ),
        hashed AS (SELECT source, sha256($salt || identity) AS identity_hash FROM known)
        SELECT source, $salt AS salt, identity_hash, $now AS forgotten_at
        FROM hashed ANTI JOIN forgotten USING (source, identity_hash)
        """,
        {"salt": salt, "now": now, "id": person.id},
    )


def _move_in_the_books(db: duckdb.DuckDBPyConnection) -> None:
    """Count the rows of ``going`` as rejected in place of accepted, and empty what ``excerpts`` names."""
    db.execute(
        """
        UPDATE ingested_files SET rows_accepted = rows_accepted - n, rows_rejected = rows_rejected + n
        FROM (SELECT source_sha256, count(*) AS n FROM going GROUP BY ALL) gone WHERE file_sha256 = source_sha256
        """
    )
    db.execute(
        """
        UPDATE feedback_rejects SET raw_excerpt = '', detail = '' FROM excerpts
        WHERE feedback_rejects.source_sha256 = excerpts.source_sha256
            AND feedback_rejects.row_number = excerpts.row_number
        """
    )
    db.execute(
        """
        INSERT INTO feedback_rejects BY NAME
        SELECT source_sha256, row_number, 'forgotten' AS reason_code,
            'removed by the command forget, and not taken in again' AS detail, '' AS raw_excerpt
        FROM going ORDER BY source_sha256, row_number
        """
    )


def keep_forgotten(db: duckdb.DuckDBPyConnection, forgotten: pa.Table) -> Removed:
    """Take over the rows of another database's table ``forgotten``, and remove the rows that are forgotten by them."""
    db.register("_forgotten", forgotten)
    db.execute("INSERT INTO forgotten BY NAME FROM _forgotten ANTI JOIN forgotten USING (source, identity_hash)")
    db.unregister("_forgotten")
    excerpt = kept_excerpt("'kept'", "source_sha256", "row_number")
    _mark(
        db,
        is_forgotten("feedback.source", "identity", "source_sha256", "row_number"),
        f"raw_excerpt <> '' AND {excerpt} = ''",
        {},
    )
    return _remove_marked(db)
