"""What an engine is to the rest of scoring: blocks of texts in, a block of answers for each, in the same order.

An engine stores nothing and knows neither files nor the database. Whoever takes the answers is the single writer.

To add an engine: a file beside this one with a subclass, its line in ``registry``, and its name in
``settings.scoring``. Its library is imported in functions alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from emotion_assets.models.kind import Scores
    from emotion_assets.scoring.calibration import Calibration, Champion

B = TypeVar("B")
TEXTS = pa.schema([("text", pa.string())])
"""A block of texts."""


class Engine(ABC):
    """Scores blocks of texts with a champion, wherever that is."""

    @abstractmethod
    def answers(
        self, calibration: Calibration, blocks: Iterable[pa.RecordBatch]
    ) -> Generator[pa.RecordBatch, None, None]:
        """For each block, in the order of the blocks, what ``encode_scores`` gives for its texts.

        Probabilities are within 1e-5 of any other engine's. Work that is lost with a worker is done again; a block is
        answered once or not at all. Where the iterator is closed or fails, nothing goes on in the background.

        Args:
            calibration: names the champion; its ``load`` does the loading, in whatever process it is called.
            blocks: of ``TEXTS``, none empty. Only a few are taken ahead of the answers, perhaps by another thread,
                so that memory does not grow with the rows.

        Raises:
            StoreError: the model is not in the store any more, or was altered.
            UserError: no worker can be had, or workers are killed again and again.
            Exception: whatever ``blocks`` raises.
        """


def score_batches(
    engine: Engine, calibration: Calibration, batches: Iterable[B], texts_of: Callable[[B], Sequence[str]]
) -> Generator[tuple[B, Scores | None], None, None]:
    """Each batch, of whatever is scored, with the scores of its texts; None for a batch without a text.

    The engine reads ``batches`` ahead, in a thread of its own.

    Raises:
        StoreError: the model was written to meanwhile; the scores that came before are of the model as it was.
        Exception: as ``Engine.answers``.
    """
    read: deque[tuple[B, bool]] = deque()

    def blocks() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            texts = texts_of(batch)
            read.append((batch, bool(texts)))
            if texts:
                yield make_block(texts)

    with closing(engine.answers(calibration, blocks())) as answered:
        for answers in answered:
            calibration.require_unchanged()
            while not read[0][1]:
                yield read.popleft()[0], None
            yield read.popleft()[0], decode_scores(answers)
    while read:
        yield read.popleft()[0], None


def make_block(texts: Iterable[str]) -> pa.RecordBatch:
    """Texts as a block of ``TEXTS``."""
    return pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], schema=TEXTS)


def score_block(champion: Champion, block: pa.RecordBatch) -> pa.RecordBatch:
    """The answers to a block, as a worker computes them."""
    return encode_scores(champion.answers(block["text"].to_pylist()))


def encode_scores(scores: Scores) -> pa.RecordBatch:
    """A row for each text: ``probabilities``, calibrated, float32 in the order of the labels, ``truncated``, and of a
    cascade ``by_first``."""
    flat, labels = pa.array(scores.probabilities.ravel()), scores.probabilities.shape[1]
    columns = {
        "probabilities": pa.FixedSizeListArray.from_arrays(flat, labels),
        "truncated": pa.array(scores.truncated),
        **({} if scores.by_first is None else {"by_first": pa.array(scores.by_first)}),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def decode_scores(answers: pa.RecordBatch) -> Scores:
    """The opposite of ``encode_scores``."""
    from emotion_assets.models.kind import Scores

    flat = answers["probabilities"].flatten().to_numpy()
    flags = {
        name: np.asarray(answers[name].to_numpy(zero_copy_only=False), dtype=bool)
        for name in ("truncated", "by_first")
        if name in answers.schema.names
    }
    return Scores(flat.reshape(answers.num_rows, -1), flags["truncated"], flags.get("by_first"))
