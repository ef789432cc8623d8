"""A lock between processes, on a file that only the lock uses."""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from emotion_assets.settings.errors import UserError

WORD_SECONDS = 60.0
"""Who waits for a lock says so at once, and again after so long."""

WRITABLE_HOME = "let this user write there, or set EMOTION_HOME to another folder"


class BusyError(UserError):
    """Another process holds the lock."""


@contextmanager
def file_lock(
    path: Path,
    wait_seconds: float,
    what: str,
    shared: bool = False,
    holder: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[None]:
    """Hold the lock of ``path``; it is given up with the block, and when the process dies.

    Tried again at random intervals, so that waiting processes do not keep in step.

    Args:
        holder: who this is, for those who wait; kept in the file while the lock is held.
        say: is told at once, and every ``WORD_SECONDS``, what is waited for.

    Raises:
        BusyError: others held it for ``wait_seconds``; ``what`` names the thing in the message.
        UserError: the lock's file cannot be made or opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); {WRITABLE_HOME}") from None
    try:
        started = word = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if now >= word:
                    who = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another run"
                    say(f"waits for {what}, which {who} has under way; {now - started:.0f} s so far")
                    word = now + WORD_SECONDS
                if now > started + wait_seconds:
                    raise BusyError(
                        f"{what}: another run has been using it for {wait_seconds:.0f} s; wait for that run to end, "
                        "then run again"
                    ) from None
                time.sleep(random.uniform(0.01, 0.1))
        if holder:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        os.close(descriptor)
