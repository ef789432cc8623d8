"""The feedback page: how customers feel, what changed, and whether the scores can be trusted."""

from __future__ import annotations

from pathlib import Path

from emotion_assets.pages.render import write_page
from emotion_assets.settings import Settings
from emotion_assets.store import Store
from emotion_assets.warehouse.database import Warehouse
from emotion_assets.warehouse.feedback import score_totals

PAGE = "feedback.html"


def write_feedback_page(settings: Settings, store: Store, warehouse: Warehouse) -> Path:
    """Write ``reports/feedback.html`` and return its path."""
    with warehouse.reading() as db:
        totals = score_totals(db)
    return write_page(settings.reports / PAGE, PAGE, {"totals": totals})
