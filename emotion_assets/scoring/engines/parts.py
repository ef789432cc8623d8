"""What engines of several workers have in common: blocks cut into parts that come back whole, and threads."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa

PART_ROWS = 512  # of a block that goes to one worker
TRIES = 3
"""How often a part is scored whose worker is killed: a text that kills each of them must not go on for ever."""


def join_parts(
    blocks: Iterable[pa.RecordBatch],
    score_parts: Callable[[Iterable[pa.RecordBatch]], Generator[pa.RecordBatch, None, None]],
) -> Generator[pa.RecordBatch, None, None]:
    """Score parts of blocks, and give the answers of whole blocks, in order. ``score_parts`` keeps the order too."""
    sizes: deque[int] = deque()  # in parts, of the blocks that are under way

    def parts() -> Iterator[pa.RecordBatch]:
        for block in blocks:
            starts = range(0, block.num_rows, PART_ROWS)
            sizes.append(len(starts))
            yield from (block.slice(start, PART_ROWS) for start in starts)

    done: list[pa.RecordBatch] = []
    with closing(score_parts(parts())) as answered:
        for answers in answered:
            done.append(answers)
            if len(done) == sizes[0]:
                sizes.popleft()
                yield pa.concat_batches(done)
                done = []


def limit_threads(threads: int) -> None:
    """Let numeric libraries take so many cores in this process, a worker among others on the same machine."""
    for variable in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(threads)
    torch: Any = sys.modules.get("torch")
    if torch is not None:  # it has read the variable already
        torch.set_num_threads(threads)
