"""Reading one feedback file, whatever its format: the only entrance is ``read_feedback``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emotion_assets.feedback.rows import Accepted, Quarantine, Reason, Rejected
from emotion_assets.settings import FeedbackSettings

__all__ = ["Accepted", "Quarantine", "Reason", "Rejected", "read_feedback"]


def read_feedback(path: Path, settings: FeedbackSettings) -> Iterator[Accepted | Rejected]:
    """Every row of a CSV, JSONL or Parquet file in order, accepted or rejected, in bounded memory."""
    raise NotImplementedError
    yield
