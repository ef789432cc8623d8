"""A step ends with its run, however that ends: cancelled, failed, marked as failed, or its worker killed with ``-9``.

Dagster tells a step of a cancelled run. It tells nothing when the run's worker is killed, nor when a run is marked as
finished from outside; the step would work on and record its asset in a run that is over.

Belongs here: noticing the end, and interrupting the step. Does not belong here: what a step starts (``launch``), which
ends with the step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

PARENT_SECONDS, STATUS_SECONDS = 1.0, 10.0
GRACE_SECONDS = 20.0
"""What an interrupted step has to stop what it started and to remove its drafts."""


@contextmanager
def ending_with_run(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Interrupt this process when the run's worker is gone or the run is over, and kill it if it does not end then.
    The interruption is a failure that is not tried again: there is no run to try it in.

    The run's worker is the process that this one was forked for (``multiprocessing.parent_process``); a step in the
    worker itself has only the run to look at.
    """
    done, over = threading.Event(), threading.Event()
    watch = threading.Thread(target=_watch, args=(instance, run_id, done, over), daemon=True, name="ending_with_run")
    watch.start()
    try:
        yield
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        if not over.is_set():
            raise
        raise dg.Failure(f"run {run_id[:8]} is over, and so is this step", allow_retries=False) from None
    finally:
        done.set()


def require_run_going(instance: dg.DagsterInstance, run_id: str) -> None:
    """Refuse to record anything in a run that is over.

    Raises:
        dg.Failure: it is over; not to be retried.
    """
    if how := _how_it_ended(instance, run_id):
        raise dg.Failure(
            f"run {run_id[:8]} ended ({how}) while this step went on; what it made is not recorded; materialise again",
            allow_retries=False,
        )


def _watch(instance: dg.DagsterInstance, run_id: str, done: threading.Event, over: threading.Event) -> None:
    worker = multiprocessing.parent_process()
    looked = time.monotonic()
    while not done.wait(PARENT_SECONDS):
        gone = worker is not None and not worker.is_alive()
        if not gone and time.monotonic() - looked >= STATUS_SECONDS:
            looked = time.monotonic()
            gone = _how_it_ended(instance, run_id) is not None
        if gone:
            over.set()
            os.kill(os.getpid(), signal.SIGINT)
            if not done.wait(GRACE_SECONDS):
                os.kill(os.getpid(), signal.SIGKILL)
            return


def _how_it_ended(instance: dg.DagsterInstance, run_id: str) -> str | None:
    run = instance.get_run_by_id(run_id)
    if run is None:
        return "deleted"
    return run.status.value.lower() if run.is_finished else None
