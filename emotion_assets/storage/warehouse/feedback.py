"""The statements of feedback: files and rows in, rejects by reason.

Every function takes an open connection and works on whole tables of rows by joins; none loops over rows. Those that
write belong inside ``Warehouse.writing``, so that what they write is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import duckdb
import pyarrow as pa

from emotion_assets.storage.warehouse.database import count, fetch, insert_rows
from emotion_assets.storage.warehouse.forget import is_forgotten, kept_excerpt
from emotion_assets.storage.warehouse.long_texts import add_computed
from emotion_assets.storage.warehouse.memory import joins_as_written, windows
from emotion_assets.storage.warehouse.tables import IngestedFile

STAGED = pa.schema(
    [
        ("row_number", pa.int64()),
        ("reason_code", pa.string()),
        ("detail", pa.string()),
        ("raw_excerpt", pa.string()),
        ("id", pa.string()),
        ("text", pa.string()),
        ("created_at", pa.timestamp("us", "UTC")),
        ("attributes", pa.string()),
        ("undated", pa.string()),
    ]
)
"""A row as read: rejected where ``reason_code`` is given, else to be accepted if it is new."""


def content_of(text: str = "text", created_at: str = "created_at", attributes: str = "attributes") -> str:
    """The SQL of what makes a row without an id the same row: its text, time and attributes, given as expressions."""
    parts = f"chr(31), {text}, coalesce(epoch_us({created_at})::VARCHAR, ''), {attributes}"
    return f"left(sha256(concat_ws({parts})), 32)"


@dataclass(frozen=True)
class FileRecord:
    """What is known about a file before its rows are looked at. ``reading``: fingerprint of the source's settings."""

    sha256: str
    name: str
    source: str
    size: int
    reading: str
    run_id: str
    now: datetime


@dataclass(frozen=True)
class FileCounts:
    read: int = 0
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    undated: int = 0


class FileState(NamedTuple):
    """How a file content stands in the ledger."""

    status: str
    reading: str
    rejected: int


def file_states(db: duckdb.DuckDBPyConnection) -> dict[str, FileState]:
    """The state of every file content seen so far, by sha256."""
    rows = db.execute("SELECT file_sha256, status, reading, rows_rejected FROM ingested_files").fetchall()
    return {sha: FileState(*state) for sha, *state in rows}


def is_settled(states: Mapping[str, FileState], sha256: str, reading: str) -> bool:
    """Whether a file needs no reading: nothing of it was refused, or it was under the very settings of now."""
    state = states.get(sha256)
    if state is None:
        return False
    return state.reading == reading or (state.status == "ingested" and not state.rejected)


def quarantine_codes(db: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Why each file content that is quarantined is, as a code, by sha256."""
    rows = db.execute("SELECT file_sha256, reason FROM ingested_files WHERE status = 'quarantined'").fetchall()
    return {sha: str(reason).partition(":")[0] for sha, reason in rows}


def rejects_by_source(db: duckdb.DuckDBPyConnection) -> list[tuple[str, int, int]]:
    """Source, rows read and rows rejected of the files that were read within a week of the newest one."""
    rows = db.execute(
        """
        SELECT source, sum(rows_read)::BIGINT, sum(rows_rejected)::BIGINT FROM ingested_files
        WHERE status = 'ingested' AND ingested_at > (SELECT max(ingested_at) FROM ingested_files) - INTERVAL 7 DAY
        GROUP BY source ORDER BY source
        """
    ).fetchall()
    return [(source, read, rejected) for source, read, rejected in rows]


def store_file(db: duckdb.DuckDBPyConnection, file: FileRecord, staged: pa.RecordBatchReader) -> FileCounts | None:
    """Judge and store all rows of a file; None if another run has stored the file meanwhile.

    Rows of the file that were accepted when it was read before stay as they are. Of the others a row is accepted if its
    identity is new in the source, as a further version if the identity is known with other texts, and is a duplicate if
    it is known with this text. A row that was forgotten is rejected.
    """
    if is_settled(file_states(db), file.sha256, file.reading):
        return None
    fill_identities(db)
    db.register("_staged", staged)
    db.execute("CREATE OR REPLACE TEMP TABLE staged AS SELECT *, row_number() OVER () AS place FROM _staged")
    db.unregister("_staged")
    _judge(db, file)
    _insert_judged(db, file)
    judged, accepted, duplicate, forgotten, read = db.execute(
        """
        SELECT count(*), count(*) FILTER (outcome IN ('accepted', 'kept')), count(*) FILTER (outcome = 'duplicate'),
            count(*) FILTER (outcome = 'forgotten'), (SELECT count(*) FROM staged)
        FROM judged
        """
    ).fetchall()[0]
    undated = _record_undated(db, file)
    counts = FileCounts(read, accepted, duplicate, read - judged + forgotten, undated)
    db.execute("DROP TABLE judged")
    db.execute("DROP TABLE staged")
    _record_file(db, file, "ingested", None, counts)
    return counts


def fill_identities(db: duckdb.DuckDBPyConnection) -> None:
    """Give the rows of before there were identities theirs."""
    if not count(db, "SELECT count(*) FROM feedback WHERE identity = ''"):
        return
    db.execute(
        f"""
        UPDATE feedback SET identity = filled.identity
        FROM (
            SELECT feedback_id, CASE WHEN regexp_full_match(feedback_id, 'file:[0-9a-f]{{16}}:[0-9]+')
                THEN 'row:' || content || ':'
                    || row_number() OVER (PARTITION BY source_sha256, content ORDER BY row_number)
                ELSE 'id:' || feedback_id END AS identity
            FROM (SELECT *, {content_of()} AS content FROM feedback WHERE identity = '')
        ) filled
        WHERE feedback.feedback_id = filled.feedback_id
        """
    )


def _judge(db: duckdb.DuckDBPyConnection, file: FileRecord) -> None:
    """Make the table ``judged``: each row of ``staged`` that is not rejected yet, with its outcome.

    Texts are compared by their md5 and not copied: joins and groups of long ones do not fit in the database's memory.
    """
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE given AS
        WITH readable AS (
            SELECT place, row_number, id, undated, md5(text) AS text_hash,
                CASE WHEN id IS NULL THEN {content_of()} END AS content
            FROM staged WHERE reason_code IS NULL
        )
        SELECT *, 'id:' || id AS identity FROM readable WHERE id IS NOT NULL
        UNION ALL
        SELECT *, 'row:' || content || ':' || row_number() OVER (PARTITION BY content ORDER BY row_number) AS identity
        FROM readable WHERE id IS NULL
        """
    )
    db.register("_known", _known_texts(db, file))
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE judged AS
        WITH repeated AS (SELECT identity FROM given GROUP BY identity HAVING count(*) > 1),
        versions AS (SELECT identity, max(version) AS last, list(text_hash) AS hashes FROM _known GROUP BY identity),
        mine AS (SELECT row_number FROM feedback WHERE source_sha256 = $sha),
        compared AS (
            SELECT given.*, coalesce(last, 0) AS last,
                coalesce(list_contains(hashes, given.text_hash), false) AS known,
                given.identity IN (FROM repeated) AS is_repeated,
                row_number IN (SELECT row_number FROM mine) AS kept,
                {is_forgotten("$source", "given.identity", "$sha", "row_number")} AS is_forgotten
            FROM given LEFT JOIN versions USING (identity)
        ),
        ranked AS (
            SELECT *, 1 AS nth FROM compared WHERE NOT is_repeated
            UNION ALL
            SELECT *, row_number() OVER (PARTITION BY identity, text_hash ORDER BY row_number) AS nth
            FROM compared WHERE is_repeated
        ),
        outcomes AS (
            SELECT place, row_number, id, identity, undated, last, is_repeated,
                CASE WHEN kept THEN 'kept' WHEN is_forgotten THEN 'forgotten' WHEN known OR nth > 1 THEN 'duplicate'
                    ELSE 'accepted' END AS outcome
            FROM ranked
        )
        SELECT * EXCLUDE (last, is_repeated), last + (outcome = 'accepted')::INTEGER AS version
        FROM outcomes WHERE NOT is_repeated
        UNION ALL
        SELECT * EXCLUDE (last, is_repeated),
            last + sum((outcome = 'accepted')::INTEGER) OVER (PARTITION BY identity ORDER BY row_number) AS version
        FROM outcomes WHERE is_repeated
        """,
        {"source": file.source, "sha": file.sha256},
    )
    db.unregister("_known")
    db.execute("DROP TABLE given")


def _known_texts(db: duckdb.DuckDBPyConnection, file: FileRecord) -> pa.Table:
    """``identity``, ``version`` and ``text_hash`` of the rows of ``feedback`` that have an identity of ``given``.

    They are looked for between the least and the greatest: so only the parts of ``feedback`` that can hold them are
    read.
    """
    least, greatest = db.execute("SELECT min(identity), max(identity) FROM given").fetchall()[0]
    query = """
        SELECT rowid AS place, identity, version FROM feedback SEMI JOIN given USING (identity)
        WHERE source = $source AND identity BETWEEN $least AND $greatest
    """
    known = fetch(db, query, {"source": file.source, "least": least, "greatest": greatest})
    return add_computed(db, "feedback", known, "text_hash", "md5(text)")


def _name_accepted(db: duckdb.DuckDBPyConnection, file: FileRecord) -> None:
    """Make the table ``named``: the ``feedback_id`` of each accepted row of ``judged``. A name that is taken, in
    ``feedback`` or by an earlier row of the file, gets an ending.

    One statement does one thing: what a statement of several joins and sorts holds at once grows with the rows.
    """
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE wished AS
        SELECT place, row_number, identity, version, CASE WHEN $source = 'default' THEN '' ELSE $source || ':' END
            || coalesce(id, identity) || CASE WHEN version > 1 THEN '@' || version ELSE '' END AS name
        FROM judged WHERE outcome = 'accepted'
        """,
        {"source": file.source},
    )
    db.execute("CREATE OR REPLACE TEMP TABLE repeated AS SELECT name FROM wished GROUP BY name HAVING count(*) > 1")
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE taken AS
        SELECT place FROM wished SEMI JOIN feedback ON feedback_id = name
        UNION
        SELECT place FROM wished WHERE name IN (FROM repeated)
        QUALIFY row_number() OVER (PARTITION BY name ORDER BY row_number) > 1
        """
    )
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE named AS
        SELECT place, identity, version, CASE WHEN place IN (FROM taken)
            THEN name || '~' || left(sha256($source || chr(31) || identity || chr(31) || version), 8)
            ELSE name END AS feedback_id
        FROM wished
        """,
        {"source": file.source},
    )
    for table in ("wished", "repeated", "taken"):
        db.execute(f"DROP TABLE {table}")


def _insert_judged(db: duckdb.DuckDBPyConnection, file: FileRecord) -> None:
    """Store the accepted rows of ``judged``, and as rejects the forgotten ones and the rejected rows of ``staged``."""
    _name_accepted(db, file)
    with joins_as_written(db):
        for window in windows(1, count(db, "SELECT count(*) FROM staged")):
            db.execute(
                """
                INSERT INTO feedback BY NAME
                SELECT feedback_id, text, created_at, $now AS received_at, $sha AS source_sha256, row_number,
                    attributes, $source AS source, identity, version
                FROM (FROM staged WHERE place BETWEEN $first AND $last)
                JOIN (FROM named WHERE place BETWEEN $first AND $last) USING (place)
                """,
                {"now": file.now, "sha": file.sha256, "source": file.source, **window},
            )
    db.execute("DROP TABLE named")
    db.execute("DELETE FROM feedback_rejects WHERE source_sha256 = ?", [file.sha256])
    db.execute(
        f"""
        INSERT INTO feedback_rejects BY NAME
        SELECT $sha AS source_sha256, row_number, reason_code, detail,
            {kept_excerpt("raw_excerpt", "$sha", "row_number")} AS raw_excerpt
        FROM (
            SELECT row_number, reason_code, detail, raw_excerpt FROM staged WHERE reason_code IS NOT NULL
            UNION ALL
            SELECT row_number, 'forgotten', 'removed by the command forget, and not taken in again', ''
            FROM judged WHERE outcome = 'forgotten'
        ) ORDER BY row_number
        """,
        {"sha": file.sha256},
    )


def _record_undated(db: duckdb.DuckDBPyConnection, file: FileRecord) -> int:
    """Count the accepted rows of the file by the form of a time that could not be read; returns how many there are."""
    db.execute("DELETE FROM feedback_undated WHERE source_sha256 = ?", [file.sha256])
    db.execute(
        """
        INSERT INTO feedback_undated BY NAME
        SELECT $sha AS source_sha256, $source AS source, undated AS form, count(*) AS n
        FROM judged WHERE outcome IN ('accepted', 'kept') AND undated IS NOT NULL GROUP BY undated
        """,
        {"sha": file.sha256, "source": file.source},
    )
    return count(db, "SELECT coalesce(sum(n), 0)::BIGINT FROM feedback_undated WHERE source_sha256 = ?", [file.sha256])


def store_quarantine(db: duckdb.DuckDBPyConnection, file: FileRecord, reason: str) -> bool:
    """Note that a file cannot be read; False if another run has stored the file meanwhile.

    Of a file whose rows are here, from when it was read before, they stay, and so do their counts.
    """
    states = file_states(db)
    if is_settled(states, file.sha256, file.reading):
        return False
    if file.sha256 in states and states[file.sha256].status == "ingested":
        db.execute(
            "UPDATE ingested_files SET reading = ?, reason = ? WHERE file_sha256 = ?",
            [file.reading, reason, file.sha256],
        )
    else:
        _record_file(db, file, "quarantined", reason, FileCounts())
    return True


def _record_file(
    db: duckdb.DuckDBPyConnection,
    file: FileRecord,
    status: Literal["ingested", "quarantined"],
    reason: str | None,
    counts: FileCounts,
) -> None:
    db.execute("DELETE FROM ingested_files WHERE file_sha256 = ?", [file.sha256])
    row = IngestedFile(
        file_sha256=file.sha256,
        file_name=file.name,
        status=status,
        reason=reason,
        rows_read=counts.read,
        rows_accepted=counts.accepted,
        rows_duplicate=counts.duplicate,
        rows_rejected=counts.rejected,
        ingested_at=file.now,
        run_id=file.run_id,
        size_bytes=file.size,
        reading=file.reading,
        source=file.source,
        rows_undated=counts.undated,
    )
    insert_rows(db, [row])


def feedback_totals(db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What the UI shows of the table ``feedback``: rows and rejects by reason; nothing that a customer wrote."""
    rows = count(db, "SELECT count(*) FROM feedback")
    return {
        "rows": rows,
        "rejects": fetch(
            db, "SELECT reason_code, count(*) AS n FROM feedback_rejects GROUP BY ALL ORDER BY n DESC, reason_code"
        ).to_pylist(),
    }


def mean_text_bytes(db: duckdb.DuckDBPyConnection) -> int:
    """Of the accepted rows."""
    return count(db, "SELECT coalesce(avg(strlen(text)), 0)::BIGINT FROM feedback")


def table_rows(db: duckdb.DuckDBPyConnection, table: str, rows_per_batch: int) -> pa.RecordBatchReader:
    """All rows of a table. Streams; read it before using ``db`` again."""
    return db.sql(f'SELECT * FROM "{table}"').to_arrow_reader(rows_per_batch)
