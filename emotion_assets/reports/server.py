"""Serve the pages and exports to browsers on this machine, which open no ``file://`` link from another page.

Belongs here: what of ``reports/`` is served, to whom, with which headers. Does not belong here: what the pages say
(``reports.evaluation_page``, ``reports.feedback_page``) and who starts the server (``cli.ui``).
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

SERVED = {".html", ".png", ".csv", ".parquet"}
LOOPBACK = ("127.0.0.1", "localhost")
DEFAULT_PORT = 3001
HEADERS = {
    "Cache-Control": "no-cache",  # a page that was written anew is shown anew
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}


def reports_app(reports: Path, base_url: str) -> Starlette:
    """An ASGI application that serves pages and exports below ``reports``.

    Only requests that name this machine or the host of ``base_url`` are answered, so that a web page from elsewhere
    cannot read customers' texts by pointing a name of its own at the loopback address.
    """
    hosts = {*LOOPBACK, urlsplit(base_url).hostname or LOOPBACK[0]}

    async def index(request: Request) -> Response:
        pages = sorted(page.name for page in reports.glob("*.html"))
        links = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a></li>' for name in pages)
        return HTMLResponse(f"<!doctype html><title>Reports</title><h1>Reports</h1><ul>{links}</ul>", headers=HEADERS)

    return Starlette(
        routes=[Route("/", index), Mount("/", _Reports(directory=reports, check_dir=False))],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=sorted(hosts))],
    )


def listening_port(base_url: str) -> int:
    """The port of a ``base_url`` on this machine; behind a proxy, whose port is another, the default one."""
    url = urlsplit(base_url)
    return url.port or 80 if url.hostname in LOOPBACK else DEFAULT_PORT


class _Reports(StaticFiles):
    """Pages and exports; everything else below the folder is not there."""

    async def check_config(self) -> None:
        """Nothing to check: before the first report there is no folder, and every page is not there yet."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return super().lookup_path(path) if Path(path).suffix in SERVED else ("", None)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
