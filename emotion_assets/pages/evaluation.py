"""The evaluation page: what the evaluation tables, the predictions and the dataset report say, for a person to read."""

from __future__ import annotations

from pathlib import Path

from emotion_assets.pages.render import write_page
from emotion_assets.settings import Settings
from emotion_assets.store import Store
from emotion_assets.warehouse.database import Warehouse
from emotion_assets.warehouse.evaluation import leaderboard

PAGE = "evaluation.html"


def write_evaluation_page(settings: Settings, store: Store, warehouse: Warehouse) -> Path:
    """Write ``reports/evaluation.html`` and return its path."""
    with warehouse.reading() as db:
        board = leaderboard(db)
    return write_page(settings.reports / PAGE, "evaluation.html", {"leaderboard": board})
