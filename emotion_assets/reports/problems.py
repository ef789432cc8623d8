"""What is wrong with feedback and its scores: lists of problems, empty when all is well.

Counts, shares and names of sources alone: nothing that a customer wrote.
"""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from emotion_assets.evaluation.predictions import Problems
from emotion_assets.reports.drift import share_difference
from emotion_assets.reports.feedback_figures import RECENT, SAMPLE, measure_drift
from emotion_assets.reports.pending import find_backlog
from emotion_assets.scoring.calibration import Calibration, calibrate
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.store import Store
from emotion_assets.storage.warehouse import feedback_report as ask
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.feedback import rejects_by_source

REJECTED = 0.05
"""Of the rows of a source: more than a slip here and there, so its files or its settings have changed."""

MORE_ABSTAINED = 0.10
"""By how much the share of abstentions may be above that on validation."""

ANSWERS = frozenset({"few_abstentions", "no_drift"})


def feedback_problems(
    settings: Settings, store: Store, warehouse: Warehouse, now: float, asked: Collection[str]
) -> dict[str, Problems]:
    """Problems by kind, of the kinds that are asked for.

    few_rejects: a source of which more than ``REJECTED`` of the rows were rejected, in the files read within a week of
    the newest; no_backlog: as ``find_backlog``; few_abstentions: of the last weeks' rows clearly more abstain than on
    validation, by ``MORE_ABSTAINED`` or more; no_drift: a strong drift of the last weeks' rows (``drift.STRONG``).
    Fewer rows than ``drift_min_rows`` tell nothing of the last two.

    Args:
        now: ``time.time()``.

    Raises:
        UserError: the database cannot be used, or answers are asked about and there is no champion.
    """
    problems: dict[str, Problems] = {}
    if "few_rejects" in asked:
        with warehouse.reading() as db:
            sources = rejects_by_source(db)
        problems["few_rejects"] = [
            {"source": source, "read": read, "rejected": rejected, "share": rejected / read}
            for source, read, rejected in sources
            if rejected > REJECTED * read
        ]
    if "no_backlog" in asked:
        problems["no_backlog"] = find_backlog(settings, store, warehouse, now, {})[0]
    if ANSWERS.intersection(asked):
        calibration = calibrate(settings, store)
        recent = _recent_rows(warehouse)
        enough = recent if recent is not None and len(recent) >= settings.feedback.drift_min_rows else None
        if "few_abstentions" in asked:
            problems["few_abstentions"] = [] if enough is None else _abstentions(calibration, enough)
        if "no_drift" in asked:
            problems["no_drift"] = [] if enough is None else _drift(settings, store, calibration, enough)
    return problems


def _recent_rows(warehouse: Warehouse) -> pa.Table | None:
    with warehouse.reading() as db:
        ask.prepare(db)
        last = ask.overview(db)["last"]
        return ask.recent_rows(db, last - RECENT, SAMPLE) if last else None


def _abstentions(calibration: Calibration, recent: pa.Table) -> Problems:
    n, rows = len(recent), calibration.validation_rows
    now = pc.sum(pc.equal(recent["status"], "abstain")).as_py()
    before = rows - round(calibration.coverage * rows)
    difference, low, _ = share_difference(now, n, before, rows, 0.95)
    if difference < MORE_ABSTAINED or low <= 0:
        return []
    return [{"rows": n, "abstained": now / n, "on validation": before / rows}]


def _drift(settings: Settings, store: Store, calibration: Calibration, recent: pa.Table) -> Problems:
    drifts, _ = measure_drift(settings, store, calibration, recent)
    return [
        {"what": drift.what, "against": drift.reference, "rows": drift.n, "psi": drift.psi, "now": drift.now}
        | {"before": drift.before}
        for drift in drifts
        if drift.verdict == "strong"
    ]
