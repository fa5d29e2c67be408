"""An HTTP/1.1 server for the application: one thread per connection, with connections kept alive.

The request handler of werkzeug closes every connection after one response. This handler keeps the connection, which is
safe because it reads each body completely before the application receives the request.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Any, Dict, Iterable, List, Optional, Tuple

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from .app import OUTCOME, Outcome
from .json_bodies import encode_json
from .stats import Stats

__all__ = ["MAX_BODY", "RequestHandler", "Server"]

_log = logging.getLogger(__name__)

#: The most bytes of a request body.
MAX_BODY = 256 * 1024 * 1024


class RequestHandler(WSGIRequestHandler):
    """Handles the requests of one connection, one after another."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024

    def run_wsgi(self) -> None:
        """Handle one request."""
        if self.headers.get("Expect", "").lower().strip() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        environ = self.make_environ()
        body = self._read_body(environ)
        if body is None:
            return
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        outcome = environ[OUTCOME] = Outcome()
        started: List[Tuple[str, List[Tuple[str, str]]]] = []

        def start_response(status: str, headers: List[Tuple[str, str]], exc_info: Any = None) -> Any:
            started.append((status, headers))

        parts = self.server.app(environ, start_response)
        try:
            if outcome.drop:
                self.close_connection = True
            else:
                self._send(*started[-1], parts, truncate=outcome.truncate)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    def _read_body(self, environ: Dict[str, Any]) -> Optional[bytes]:
        """Read the body. Return None if that is not possible and the request must not be handled."""
        length = environ.get("CONTENT_LENGTH") or "0"
        if environ.get("wsgi.input_terminated"):
            body: bytes = environ["wsgi.input"].read()
            return body
        if not length.isdigit():
            self._reject(400, f"bad Content-Length: {length!r}")
            return None
        if int(length) > MAX_BODY:
            self._reject(413, f"the body has more than {MAX_BODY} bytes")
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return None
        return body

    def _reject(self, status: int, detail: str) -> None:
        """Return an error and close the connection, because the bytes of the body are still unread."""
        self.close_connection = True
        body = encode_json({"detail": detail})
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        self._send(f"{status} Refused", headers, [body], truncate=False)

    def _send(
        self, status: str, headers: List[Tuple[str, str]], parts: Iterable[bytes], *, truncate: bool
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
        remaining = length // 2 if truncate else length
        if self.command != "HEAD":
            for part in parts:
                self.wfile.write(part[:remaining])
                remaining -= len(part[:remaining])
        self.wfile.flush()

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing. Requests are counted in the statistics, and the application logs errors."""


class Server(ThreadedWSGIServer):
    """Accepts connections. A daemon thread handles each of them.

    Args:
        address: Host and port.
        app: The WSGI application.
        stats: Counts connections.
        listening: The descriptor of a listening socket, which is duplicated.
    """

    def __init__(self, address: Tuple[str, int], app: Any, stats: Stats, listening: int) -> None:
        self._stats = stats
        super().__init__(*address, app, RequestHandler, fd=listening)

    def get_request(self) -> Any:
        """Accept a connection and count it."""
        accepted = super().get_request()
        self._stats.add("connections")
        return accepted

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an exception, unless the client closed the connection during a request."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("connection failed: client=%s", client_address)
