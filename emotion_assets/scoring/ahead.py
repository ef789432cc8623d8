"""A step of a pipeline in a thread of its own: it works ahead of whoever takes its results, but only a little."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
_END = object()


def work_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The items in their order, each made in another thread while those before it are used.

    At most ``depth`` finished items wait, so memory does not grow with them. What ``items`` raises is raised here,
    after the items before it. When this iterator is closed the thread ends, after the item that it is at; closing waits
    for it, and closes ``items`` where that is a generator.
    """
    waiting: queue.Queue[object] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    break
            else:
                put(_END)
        except BaseException as error:
            put(_Failed(error))
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, name="scoring ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error
