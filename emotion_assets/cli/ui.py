"""``make ui``: Dagster's services and the server of the pages, their addresses, and the end of them all together.

    python -m emotion_assets.cli.ui

Belongs here: which processes there are and on which ports. Does not belong here: what is served (``reports.server``).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO

import uvicorn

from emotion_assets.profiles.reader import load_settings
from emotion_assets.reports.server import LOOPBACK, listening_port, reports_app
from emotion_assets.settings.errors import SettingsError, UserError
from emotion_assets.settings.schema import PROJECT_DIR, Settings

HOST = LOOPBACK[0]
FIRST_PORT, LAST_PORT = 3000, 3100
START_SECONDS = 120
UNSAID = re.compile(
    r" - dagster - (DEBUG|INFO) - "  # a run's log, which the UI shows with its run
    r"|Found a dagster instance configuration value \(dagster.yaml\) in the current"  # its copy in the home counts
    r"|No cursor for event type .* ignoring older events"  # at the first start, of the sensor that watches for failures
)
"""Lines that are not passed on."""


def main() -> int:
    """Run until interrupted or until Dagster ends, and return the exit code."""
    try:
        settings = load_settings()
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts what is in the background deaf to the first
            signal.signal(number, _interrupt)
        with _serving_reports(settings), _running_dagster(settings) as (dagster, address):
            _wait_until_it_answers(dagster, address)
            print(f"The asset graph: {address}\nThe pages: {settings.reports_url}\nCtrl-C ends both.", flush=True)
            return dagster.wait()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _serving_reports(settings: Settings) -> Iterator[None]:
    """Serve the pages from a thread.

    Raises:
        SettingsError: the port is taken.
    """
    port = listening_port(settings.reports_url)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"reports_url: port {port} for the pages cannot be had ({error.strerror}); end what uses it, or set "
            f"EMOTION_REPORTS_URL=http://{HOST}:{port + 10}"
        ) from None
    app = reports_app(settings.reports, settings.reports_url)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(5)
        listener.close()


@contextmanager
def _running_dagster(settings: Settings) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Dagster's webserver, daemon and code server, and the address of the first; they end with this block."""
    port = _free_port()
    # `dg dev`, which dagster says to use instead, reports each start to its makers before it has read that it must not.
    command = [sys.executable, "-W", "ignore:Function `dev_command` is superseded", "-m", "dagster", "dev"]
    options = ["--host", HOST, "--port", str(port), "--log-level", "warning", "--code-server-log-level", "warning"]
    here = {"EMOTION_HOME": str(settings.home), "DAGSTER_HOME": str(settings.home / "dagster")}
    process = subprocess.Popen(
        [*command, *options],
        cwd=PROJECT_DIR,
        env=os.environ | here,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,  # Ctrl-C comes here alone, and is passed on once
    )
    assert process.stdout is not None
    threading.Thread(target=_pass_on, args=(process.stdout,), daemon=True).start()
    try:
        yield process, f"http://{HOST}:{port}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait()


def _pass_on(said: IO[str]) -> None:
    for line in said:
        if not UNSAID.search(line):
            print(line, end="", flush=True)


def _free_port() -> int:
    for port in range(FIRST_PORT, LAST_PORT):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                return port
    raise SettingsError(f"ports {FIRST_PORT} to {LAST_PORT - 1} are all taken; end what uses one of them")


def _wait_until_it_answers(dagster: subprocess.Popen[str], address: str) -> None:
    """Return when the webserver answers, or Dagster has ended, which has said why.

    Raises:
        UserError: no answer came in time.
    """
    end = time.monotonic() + START_SECONDS
    while dagster.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise UserError(f"Dagster does not answer at {address} after {START_SECONDS} s; see above") from None
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
