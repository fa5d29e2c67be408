"""An HTTP/1.1 server for the application: a thread per connection, connections kept alive.

Werkzeug's own request handler closes every connection after one answer; this one keeps it, which it may do
because it reads each body whole before the application sees the request.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Any, Iterable, List, Tuple

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from .app import OUTCOME, Outcome
from .bodies import encode
from .stats import Stats

__all__ = ["MAX_BODY", "RequestHandler", "Server"]

_log = logging.getLogger(__name__)

#: Bytes a request body may have.
MAX_BODY = 256 * 1024 * 1024


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
            if int(length) > MAX_BODY:
                self._refuse(413, f"the body has more than {MAX_BODY} bytes")
                return
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.close_connection = True
                return
        else:
            self._refuse(400, f"bad Content-Length: {length!r}")
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

    def _refuse(self, status: int, detail: str) -> None:
        """Answer a request whose body cannot be read, after which nothing else on the connection can be."""
        self.close_connection = True
        body = encode({"detail": detail})
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        self._send(f"{status} Refused", headers, [body], truncate=False)

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
        # A client that goes away in the middle of a request is no event.
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("a connection failed")
