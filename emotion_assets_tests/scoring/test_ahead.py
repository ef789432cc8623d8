"""A step that works ahead in a thread: in order, only a little ahead, with its errors, and gone when it is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from emotion_assets.scoring.ahead import work_ahead


def threads() -> int:
    return sum(thread.name == "scoring ahead" for thread in threading.enumerate())


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(work_ahead(iter(range(100)), 3)) == list(range(100))
    assert list(work_ahead(iter([]), 3)) == []
    assert threads() == 0


def test_it_works_only_a_little_ahead() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    items = work_ahead(make(), 2)
    for expected in range(5):
        assert next(items) == expected
        time.sleep(0.05)
        assert len(made) <= expected + 1 + 2 + 1  # taken, waiting, and the one that finds no room
    items.close()
    assert len(made) < 10


def test_an_error_comes_after_the_items_before_it() -> None:
    def make() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("third")

    items = work_ahead(make(), 1)
    assert (next(items), next(items)) == (1, 2)
    with pytest.raises(ValueError, match="third"):
        next(items)
    assert threads() == 0


def test_leaving_a_chain_of_steps_ends_every_thread_and_closes_the_source() -> None:
    closed: list[str] = []

    def make() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append("source")

    first = work_ahead(make(), 1)
    second = work_ahead((i + 1 for i in first), 1)
    del first
    assert next(second) == 1
    second.close()
    assert closed == ["source"]
    assert threads() == 0


def test_steps_overlap() -> None:
    """Two steps that wait for each other would never both be at work."""
    both = threading.Barrier(2, timeout=20)

    def make() -> Iterator[int]:
        yield 0
        both.wait()
        yield 1

    items = work_ahead(make(), 2)
    assert next(items) == 0
    both.wait()  # the second item is being made while the first is used
    assert next(items) == 1
