"""Texts of the feedback that a training may learn from without labels: a sample that changes as little as can be.

Reads only; nothing here keeps a text.
"""

from __future__ import annotations

from emotion_assets.storage.warehouse.database import Warehouse, fetch
from emotion_assets.storage.warehouse.long_texts import read_in_slices


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
        SELECT md5(text) AS hash, min(rowid) AS place FROM feedback GROUP BY hash ORDER BY hash LIMIT $n
    """
    with warehouse.reading() as db:
        chosen = fetch(db, query, {"n": n})
        return [text for part in read_in_slices(db, "feedback", chosen) for text in part["text"].to_pylist()]
