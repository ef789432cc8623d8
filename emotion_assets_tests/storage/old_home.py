"""Make a database as it was before its schema had a version, by the statements of then (``version_1.sql``)."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb

STATEMENTS = Path(__file__).parent / "version_1.sql"
ROWS = """
INSERT INTO class_balance VALUES ('train', 'joy', 3, 0.75), ('train', 'fear', 1, 0.25);
INSERT INTO evaluation BY NAME
SELECT 'tfidf_svm' AS model, 'none' AS base_model, 'tfidf_svm' AS method, 'embedded' AS profile, 'sample' AS dataset,
    split, 'rows of ' || split AS split_fingerprint, 4 AS n_rows, 'aaaaaaaaaaaa' AS model_version, 0.75 AS accuracy,
    0.3 AS accuracy_low, 0.95 AS accuracy_high, 0.7 AS macro_f1, 0.72 AS weighted_f1, 0.5 AS log_loss, 0.1 AS ece,
    TIMESTAMPTZ '2026-10-01 12:00:00+00' AS evaluated_at, 'run 1' AS run_id, repeat('a', 64) AS model_digest
FROM unnest(['validation', 'test']) t(split);
INSERT INTO evaluation_by_class VALUES
    ('tfidf_svm', 'test', 'aaaaaaaaaaaa', 'joy', 3, 1.0, 0.66, 0.8, 'rows of test'),
    ('tfidf_svm', 'test', 'aaaaaaaaaaaa', 'fear', 1, 0.5, 1.0, 0.66, 'rows of test');
INSERT INTO confusion VALUES ('tfidf_svm', 'test', 'aaaaaaaaaaaa', 'joy', 'joy', 2, 'rows of test');
INSERT INTO evaluation VALUES
    ('bigru', 'none', 'bigru', 'embedded', 'sample', 'test', 'rows of test', 4, 'bbbbbbbbbbbb', 0.5, 0.1, 0.9, 0.4, 0.4,
     0.9, 0.2, 10, 10, 1.5, 99.0, NULL, TIMESTAMPTZ '2026-10-01 12:00:00+00', 'run 1', repeat('b', 64), 0.1, 0.8, 1.1,
     0.8, 0.1, 50.0);
INSERT INTO model_comparison VALUES
    ('test', 'bigru', 'tfidf_svm', -0.25, -0.8, 0.3, 0.6, 'bbbbbbbbbbbb', 'aaaaaaaaaaaa', 1, 2, 'rows of test');
INSERT INTO evaluation_current VALUES
    ('tfidf_svm', 'validation', 'aaaaaaaaaaaa', 'rows of validation', TIMESTAMPTZ '2026-10-01 12:00:00+00'),
    ('tfidf_svm', 'test', 'aaaaaaaaaaaa', 'rows of test', TIMESTAMPTZ '2026-10-01 12:00:00+00'),
    ('bigru', 'test', 'bbbbbbbbbbbb', 'rows of test', TIMESTAMPTZ '2026-10-01 12:00:00+00');
INSERT INTO champion_decisions VALUES
    (TIMESTAMPTZ '2026-10-01 12:01:00+00', 'run 1', 'first', false, 'tfidf_svm', 'aaaaaaaaaaaa', repeat('a', 64), NULL,
     NULL, NULL, 'rows of validation', 'tfidf_svm is the first champion', '[]', 'e');
INSERT INTO ingested_files VALUES
    ('f1', 'a.csv', 'ingested', NULL, 3, 2, 0, 1, TIMESTAMPTZ '2026-10-01 13:00:00+00', 'run 2', 100, 'r');
INSERT INTO feedback VALUES
    ('id-1', 'so happy', NULL, TIMESTAMPTZ '2026-10-01 13:00:00+00', 'f1', 1, '{}'),
    ('id-2', 'so afraid', TIMESTAMPTZ '2026-09-30 00:00:00+00', TIMESTAMPTZ '2026-10-01 13:00:00+00', 'f1', 2, '{}');
INSERT INTO feedback_rejects VALUES ('f1', 3, 'empty_text', 'the text is empty', ',');
INSERT INTO scoring_models VALUES
    ('aaaaaaaaaaaa', 'tfidf_svm', 1, ['joy', 'fear'], 1.0, 0.6, 0.99, 0.5, 4, TIMESTAMPTZ '2026-10-01 14:00:00+00');
INSERT INTO scored_feedback VALUES
    ('id-1', 'aaaaaaaaaaaa', 'joy', 0.9, [0.9, 0.1], 'ok', TIMESTAMPTZ '2026-10-01 14:00:00+00', 'run 3', false),
    ('id-2', 'aaaaaaaaaaaa', 'fear', 0.55, [0.45, 0.55], 'abstain', TIMESTAMPTZ '2026-10-01 14:00:00+00', 'run 3',
     false);
INSERT INTO review_queue VALUES ('id-2', 'so afraid', 'fear', 0.55, 'abstain', NULL, NULL, NULL, false);
"""


def make_old_database(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Make the database ``path`` with its manifest, as the code of then left it; returns the rows of each table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(path) as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(STATEMENTS.read_text(encoding="utf-8"))
        db.execute(ROWS)
        names = [name for (name,) in db.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall()]
        rows = {name: db.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall() for name in names}
        db.execute("CHECKPOINT")
    manifest = {"schema": "of the statements of then", "counts": {name: len(table) for name, table in rows.items()}}
    Path(f"{path}.manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return rows
