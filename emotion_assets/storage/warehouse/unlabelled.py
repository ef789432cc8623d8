"""Texts of the feedback that a training may learn from without labels: a sample that changes as little as can be.

Reads only; nothing here keeps a text.
"""

from __future__ import annotations

from emotion_assets.storage.warehouse.database import Warehouse, fetch


def draw_texts(warehouse: Warehouse, n: int) -> list[str]:
    """At most ``n`` distinct texts of the feedback, always the same ones of the same feedback.

    They are those whose md5 comes first (bottom-k sampling): a uniform sample of the distinct texts, in which a new
    row of feedback replaces one text at most. Texts that were forgotten are not in it.

    Raises:
        UserError: the database cannot be read.
    """
    if n == 0 or warehouse.is_new:
        return []
    query = """
        WITH chosen AS (SELECT DISTINCT md5(text) AS hash FROM feedback ORDER BY hash LIMIT $n)
        SELECT any_value(text) AS text FROM feedback JOIN chosen ON md5(text) = hash GROUP BY hash ORDER BY hash
    """
    with warehouse.reading() as db:
        texts: list[str] = fetch(db, query, {"n": n})["text"].to_pylist()
    return texts
