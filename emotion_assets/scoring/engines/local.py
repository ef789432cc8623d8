"""The engine on this machine."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING

import pyarrow as pa

from emotion_assets.scoring.ahead import work_ahead
from emotion_assets.scoring.engines.engine import Engine, encode_scores
from emotion_assets.settings.scoring import ScoringSettings

if TYPE_CHECKING:
    from emotion_assets.scoring.calibration import Calibration

AHEAD = 2  # blocks


class LocalEngine(Engine):
    """The model in this process. One thread reads and tokenises, one runs the model, the caller's writes."""

    def __init__(self, settings: ScoringSettings) -> None:
        self._workers = settings.workers

    def answers(
        self, calibration: Calibration, blocks: Iterable[pa.RecordBatch]
    ) -> Generator[pa.RecordBatch, None, None]:
        champion = calibration.load()
        prepared = work_ahead((champion.prepare(block["text"].to_pylist()) for block in blocks), AHEAD)
        answered = work_ahead((encode_scores(champion.answer(one)) for one in prepared), AHEAD)
        with closing(answered):
            yield from answered
