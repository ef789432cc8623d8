"""Read a file in a process of its own, which a damaged file may end and whose memory is limited.

pyarrow can abort the whole process on a damaged file (seen with 26.0 on a footer with one byte changed), which no
``except`` catches: read in place, such a file would end every run that meets it. A worker is started at the first file,
with a limit on its memory, and kept for the next one; rows come through a pipe, a few hundred at a time.

A ``concurrent.futures`` pool would do, but it does not tell how its process ended: a crash condemns the file, being
killed from outside (for want of memory, or by hand) says nothing about it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

from emotion_assets.forms.form import Columns, Record
from emotion_assets.forms.problems import Quarantine, Reason, Rejected
from emotion_assets.settings.feedback import ReadingSettings

Reader = Callable[[BinaryIO, ReadingSettings, Columns], Iterator[Record | Rejected]]

MEMORY_BYTES = 3 << 30
_ROWS, _CHARACTERS = 256, 1 << 19  # of one message
_CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
# One allocator that the memory limit sees, and no threads that reserve memory of their own.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class _Worker:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name="file reader", daemon=True)
        self.owner = os.getpid()
        self.process.start()
        theirs.close()

    def usable(self) -> bool:
        return self.owner == os.getpid() and self.process.is_alive()

    def end(self) -> int:
        """End the worker, if it has not ended; its exit code, minus the signal's number if one ended it."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        return self.process.exitcode or 0


_idle: list[_Worker] = []
_lock = threading.Lock()


@atexit.register
def _end_idle() -> None:
    """At the exit multiprocessing asks the workers to end by SIGTERM, to which a process started in the background may
    be deaf, and waits for them."""
    for worker in _idle:
        if worker.usable():
            worker.end()


def read_apart(
    reader: Reader,
    stream: BinaryIO,
    reading: ReadingSettings,
    columns: Columns,
    damaged: Reason = Reason.CORRUPT_PARQUET,
) -> Iterator[Record | Rejected]:
    """What ``reader`` yields, a function of a module.

    Args:
        damaged: the reason that a crash of the worker is.

    Raises:
        Quarantine: as ``reader``, and when the worker crashes on the file.
        OSError: the file cannot be read, or the worker was ended from outside.
    """
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is None or not worker.usable():
        worker = _Worker()
    done = False
    try:
        worker.connection.send((reader, reading, columns))
        reduction.send_handle(worker.connection, stream.fileno(), worker.process.pid)
        while True:
            kind, *values = worker.connection.recv()
            if kind == "rows":
                yield from values[0]
                continue
            done = True
            if kind == "quarantine":
                raise Quarantine(*values)
            if kind == "unreadable":
                raise OSError(*values)
            if kind == "failed":
                raise RuntimeError(f"the process that reads the file failed:\n{values[0]}")
            return
    except (EOFError, ConnectionError):
        worker.process.join()
        raise _reason(worker.end(), damaged) from None
    finally:
        if done:
            with _lock:
                _idle.append(worker)
        else:
            worker.end()


def _reason(code: int, damaged: Reason) -> Exception:
    """What the end of a worker says about the file that it was reading."""
    if -code in _CRASHES:
        name = signal.Signals(-code).name
        detail = f"damaged: the library that reads it crashes on it ({name}); export it again"
        return Quarantine(damaged, detail)
    return OSError(0, f"the process that reads it was ended from outside ({code})")


def _serve(connection: Connection) -> None:
    """The worker: one file after the other, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_ENVIRONMENT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        while True:
            reader, reading, columns = connection.recv()
            descriptor = reduction.recv_handle(connection)
            with os.fdopen(descriptor, "rb") as stream:
                connection.send(_read(connection, reader, stream, reading, columns))
    except (EOFError, ConnectionError):
        return


def _read(connection: Connection, reader: Reader, stream: BinaryIO, *how: Any) -> tuple[Any, ...]:
    """Send the rows; the last message says how the file ended."""
    rows: list[Record | Rejected] = []
    characters = 0
    try:
        stream.seek(0)
        for row in reader(stream, *how):
            rows.append(row)
            if isinstance(row, Record):
                characters += sum(len(value) for value in row.values.values() if isinstance(value, str))
            if len(rows) >= _ROWS or characters >= _CHARACTERS:
                connection.send(("rows", rows))
                rows, characters = [], 0
        connection.send(("rows", rows))
    except Quarantine as quarantine:
        return "quarantine", quarantine.reason_code, quarantine.detail
    except ConnectionError:
        raise
    except OSError as error:
        return "unreadable", error.errno, error.strerror
    except BaseException:
        return "failed", traceback.format_exc()
    return ("end",)
