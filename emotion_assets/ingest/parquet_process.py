"""Parquet files are read in processes of their own, which damage in a file may end.

Belongs here: starting those processes and carrying the rows over. Does not belong here: Parquet (``parquet_reader``).

pyarrow can abort the whole process on a damaged file (seen with 26.0 on a footer with one byte changed), which no
``except`` catches: read in place, such a file would end every run that meets it. So one helper process is started for
as long as this one lives. It imports pyarrow once and for each file forks a worker, limited in memory, that writes
rows into a pipe as JSON lines of a few hundred, and a watcher that adds how the worker ended.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, NoReturn

from emotion_assets.ingest.rows import Accepted, Quarantine, Reason, Rejected
from emotion_assets.settings.schema import PROJECT_DIR, FeedbackSettings

MAGIC = b"PAR1"
_MEMORY_BYTES = 3 << 30
_MESSAGE_BYTES = 1 << 16
_LINE_ROWS = 256
_LINE_CHARACTERS = 1 << 19
_CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
# One allocator that the memory limit sees, and no threads: the helper forks.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def parquet_rows_apart(stream: BinaryIO, settings: FeedbackSettings) -> Iterator[Accepted | Rejected]:
    """The rows of ``parquet_reader.parquet_rows``.

    Raises:
        Quarantine: as there, and when the worker crashes on the file.
        OSError: the file cannot be read, or the worker was ended from outside.
    """
    for line in _request(stream, settings.model_dump_json().encode()):
        try:
            kind, *values = json.loads(line)
        except ValueError:
            continue  # what a crashing worker was about to write; how it ended comes next
        if kind == "rows":
            yield from (_unpacked(row) for row in values)
        elif kind == "quarantine":
            raise Quarantine(_REASONS[values[0]], values[1])
        elif kind == "unreadable":
            raise OSError(*values)
        elif kind == "failed":
            raise RuntimeError(f"the process that reads Parquet failed:\n{values[0]}")
        else:
            _check_end(values[0])
            return
    raise OSError(0, "the process that reads Parquet was ended from outside")


def _packed(row: Accepted | Rejected) -> tuple[Any, ...]:
    if isinstance(row, Rejected):
        return row.row_number, row.reason_code, row.detail, row.raw_excerpt
    return row.row_number, row.id, row.text, row.created_at and row.created_at.isoformat(), row.attributes


def _unpacked(values: list[Any]) -> Accepted | Rejected:
    if len(values) == 4:
        number, reason, detail, raw_excerpt = values
        return Rejected(number, _REASONS[reason], detail, raw_excerpt)
    number, row_id, text, created_at, attributes = values
    return Accepted(number, row_id, text, datetime.fromisoformat(created_at) if created_at else None, attributes)


_REASONS = {reason.value: reason for reason in Reason}


def _check_end(code: int) -> None:
    if -code in _CRASHES:
        name = signal.Signals(-code).name
        raise Quarantine(
            Reason.CORRUPT_PARQUET, f"damaged: the Parquet library crashes on it ({name}); export it again"
        )
    if code:
        raise OSError(0, f"the process that reads Parquet was ended from outside ({code})")


@dataclass(frozen=True)
class _Helper:
    process: subprocess.Popen[bytes]
    command: list[str]
    channel: socket.socket
    owner: int

    def alive(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None

    def close(self) -> None:
        if self.owner == os.getpid():
            self.channel.close()
            self.process.wait()


_helper: _Helper | None = None
_lock = threading.Lock()


def _request(stream: BinaryIO, message: bytes) -> BinaryIO:
    """Have the helper read the file; the lines of what its worker writes."""
    global _helper
    with _lock:
        if _helper is None or not _helper.alive():
            _helper = _start()
        inlet, outlet = os.pipe()
        lines = os.fdopen(inlet, "rb")
        try:
            socket.send_fds(_helper.channel, [message], [stream.fileno(), outlet])
            started = _helper.channel.recv(1)
        finally:
            os.close(outlet)
        if not started and _helper.process.wait() > 0:
            raise RuntimeError(f"the process that reads Parquet does not start: {shlex.join(_helper.command)}")
    return lines


def _start() -> _Helper:
    ours, theirs = socket.socketpair()
    path = os.pathsep.join(filter(None, [str(PROJECT_DIR), os.environ.get("PYTHONPATH")]))
    with theirs:
        command = [sys.executable, "-P", "-m", "emotion_assets.ingest.parquet_process", str(theirs.fileno())]
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
        )
    helper = _Helper(process, command, ours, os.getpid())
    atexit.register(helper.close)
    return helper


def _serve(channel: socket.socket) -> None:
    """The helper: a watcher with its worker per request, until the other side is gone."""
    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 2)
        if not message:
            return
        if os.fork() == 0:
            channel.close()
            _watch(message, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(b".")


def _warm_up() -> None:
    """Read a small file, so that what pyarrow imports at its first use is there before the forks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from emotion_assets.ingest.parquet_reader import parquet_rows

    small = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"], "created_at": [datetime(2026, 1, 1)]}), small)
    list(parquet_rows(small, FeedbackSettings()))


def _watch(message: bytes, file: int, outlet: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker = os.fork()
    if worker == 0:
        _work(message, file, outlet)
    _, status = os.waitpid(worker, 0)
    try:
        os.write(outlet, b"\n%s\n" % json.dumps(["ended", os.waitstatus_to_exitcode(status)]).encode())
    finally:
        os._exit(0)


def _work(message: bytes, file: int, outlet: int) -> NoReturn:
    from emotion_assets.ingest.parquet_reader import parquet_rows

    with os.fdopen(file, "rb") as stream, os.fdopen(outlet, "w", encoding="utf-8", newline="\n") as out:

        def say(*values: Any) -> None:
            out.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")

        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            rows, characters = [], 0
            for row in parquet_rows(stream, FeedbackSettings.model_validate_json(message)):
                rows.append(_packed(row))
                characters += len(row.text) if isinstance(row, Accepted) else 0
                if len(rows) >= _LINE_ROWS or characters >= _LINE_CHARACTERS:
                    say("rows", *rows)
                    rows, characters = [], 0
            say("rows", *rows)
            out.flush()
        except Quarantine as quarantine:
            say("quarantine", quarantine.reason_code, quarantine.detail)
        except BrokenPipeError:
            os._exit(0)  # nobody reads on
        except OSError as error:
            say("unreadable", error.errno, error.strerror)
        except BaseException:
            say("failed", traceback.format_exc())
        out.flush()
        os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
