"""The web server of the page: loopback only, with a token in the path, and a stream of server-sent events."""

from __future__ import annotations

import contextlib
import functools
import hmac
import ipaddress
import json
import secrets
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Dict
from urllib.parse import urlsplit

from .runs import COLUMNS, Runs

__all__ = ["DashboardServer"]

#: Seconds between two updates of a page.
_PERIOD = 2.0
#: Seconds after which a comment keeps an idle connection open.
_IDLE = 15.0
#: Most streams at the same time; each one is a thread.
_STREAMS = 16
_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "app.js": ("app.js", "text/javascript; charset=utf-8"),
    "charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "uPlot.iife.min.js": ("uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "uPlot.min.css": ("uPlot.min.css", "text/css; charset=utf-8"),
    "uPlot-LICENSE.txt": ("uPlot-LICENSE.txt", "text/plain; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class DashboardServer(ThreadingHTTPServer):
    """Serves the page of some runs on 127.0.0.1 until it is closed. Thread-safe.

    Args:
        runs: The runs to show.
        port: The port. 0: a free one.

    Raises:
        OSError: The port is in use.
    """

    daemon_threads = True
    # Another process must not receive the requests of this page.
    allow_reuse_address = False

    def __init__(self, runs: Runs, port: int = 0) -> None:
        self.runs = runs
        self.token = secrets.token_urlsafe(24)
        self.stopping = threading.Event()
        self.streams = threading.BoundedSemaphore(_STREAMS)
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self._serve, name="tinkex-dashboard", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the page, with its token."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"

    def close(self) -> None:
        """End all streams and close the port."""
        self.stopping.set()
        with contextlib.suppress(OSError):  # A connection ends the wait for one.
            socket.create_connection(("127.0.0.1", self.server_address[1]), timeout=5.0).close()
        self._thread.join(5.0)

    def _serve(self) -> None:
        # Not serve_forever(), which wakes up twice a second for as long as the run lasts.
        with contextlib.closing(self.socket):
            while not self.stopping.is_set():
                self.handle_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors except those of connections that the browser closed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: DashboardServer
    protocol_version = "HTTP/1.1"
    timeout = 30.0

    def do_GET(self) -> None:
        """Serve a file or the stream."""
        token, slash, name = self.path.partition("?")[0][1:].partition("/")
        if not self._is_own_request():
            self._respond(HTTPStatus.FORBIDDEN, "text/plain", b"This page is for its own address only.\n")
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            text = b"The token is missing or wrong: open the address that the program printed.\n"
            self._respond(HTTPStatus.FORBIDDEN, "text/plain", text)
        elif not slash:
            self._respond(HTTPStatus.NOT_FOUND, "text/plain", b"The address ends with a slash.\n")
        elif name == "events":
            self._stream()
        elif name in _FILES:
            file, kind = _FILES[name]
            self._respond(HTTPStatus.OK, kind, _read(file))
        else:
            self._respond(HTTPStatus.NOT_FOUND, "text/plain", b"There is no such file.\n")

    def _is_own_request(self) -> bool:
        """Return whether a page of this server made the request: other pages may use another name of this host."""
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        return _is_loopback(host) and origin in (None, f"http://{host}")

    def _respond(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self._send_headers({"Content-Type": kind, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_headers(self, headers: Dict[str, str]) -> None:
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _stream(self) -> None:
        if not self.server.streams.acquire(blocking=False):
            self._respond(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"Too many pages are open.\n")
            return
        try:
            self.close_connection = True
            self.send_response(HTTPStatus.OK)
            self._send_headers({"Content-Type": "text/event-stream; charset=utf-8", "Connection": "close"})
            self._send_updates()
        finally:
            self.server.streams.release()

    def _send_updates(self) -> None:
        known: Dict[str, int] = {}
        self._send_event("start", {"columns": COLUMNS})
        version = -1
        while not self.server.stopping.is_set():
            newest = self.server.runs.wait(version, _IDLE)
            if newest == version:
                self.wfile.write(b": idle\n\n")
            else:
                version = newest
                self._send_event("update", self.server.runs.changes(known))
            self.server.stopping.wait(_PERIOD)
        self._send_event("end", None)

    def _send_event(self, name: str, data: Any) -> None:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        self.wfile.write(f"event: {name}\ndata: {text}\n\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the path contains the token."""


def _is_loopback(authority: str) -> bool:
    try:
        name = urlsplit(f"//{authority}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@functools.cache
def _read(file: str) -> bytes:
    return (resources.files(__package__) / "static" / file).read_bytes()
