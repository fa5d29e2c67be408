"""An HTTP/1.1 server for the application: a thread per connection, connections kept alive.

Werkzeug's own request handler closes every connection after one answer; this one keeps it, which it may do
because it reads each body whole before the application sees the request.
"""

from __future__ import annotations

import io
from typing import Any, Iterable, List, Tuple

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from .app import OUTCOME, Outcome
from .stats import Stats

__all__ = ["RequestHandler", "Server"]


class RequestHandler(WSGIRequestHandler):
    """Serves the requests of one connection, one after another."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024

    def run_wsgi(self) -> None:
        if self.headers.get("Expect", "").lower().strip() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        environ = self.make_environ()
        length = environ.get("CONTENT_LENGTH") or "0"
        if environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read()
        elif length.isdigit():
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.close_connection = True
                return
        else:
            self.send_error(400, "bad Content-Length")
            self.close_connection = True
            return
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        outcome = environ[OUTCOME] = Outcome()
        started: List[Tuple[str, List[Tuple[str, str]]]] = []

        def start_response(status: str, headers: List[Tuple[str, str]], exc_info: Any = None) -> Any:
            started.append((status, headers))

        answer = self.server.app(environ, start_response)
        try:
            if outcome.drop:
                self.close_connection = True
            else:
                self._send(*started[-1], answer, outcome.truncate)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()

    def _send(
        self, status: str, headers: List[Tuple[str, str]], parts: Iterable[bytes], truncate: bool
    ) -> None:
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        length = 0
        for name, value in headers:
            self.send_header(name, value)
            if name.lower() == "content-length":
                length = int(value)
        if truncate:
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        left = length // 2 if truncate else length
        if self.command != "HEAD":
            for part in parts:
                self.wfile.write(part[:left])
                left -= len(part[:left])
        self.wfile.flush()

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing: what was served is in the statistics, and errors are logged by the application."""


class Server(ThreadedWSGIServer):
    """Accepts connections; each gets a daemon thread."""

    def __init__(self, host: str, port: int, app: Any, stats: Stats, listening: int) -> None:
        """``listening`` is the descriptor of a socket that listens already; it is duplicated."""
        self._stats = stats
        super().__init__(host, port, app, RequestHandler, fd=listening)

    def get_request(self) -> Any:
        accepted = super().get_request()
        self._stats.add("connections")
        return accepted

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that goes away in the middle of a request is no event."""
