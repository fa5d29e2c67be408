"""An HTTP/1.1 server for the application: one thread per connection, with connections kept alive.

The request handler of werkzeug closes every connection after one response. This handler keeps the connection, which is
safe because it reads each body completely before the application receives the request.
"""

from __future__ import annotations

import errno
import io
import socket
import sys
import time
from typing import Any, Dict, Iterable, List, Optional, Tuple

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from ..logs import get_logger
from .app import OUTCOME, Outcome
from .json_bodies import MAX_BODY, encode_json
from .stats import Stats

__all__ = ["RequestHandler", "Server"]

_log = get_logger(__name__)

#: Seconds for which a connection without a request is kept.
IDLE_TIMEOUT = 75.0
#: Seconds from the first byte of a request to the end of its headers.
HEAD_TIMEOUT = 20.0
#: Seconds without a byte of the body.
BODY_TIMEOUT = 60.0
#: Seconds to send a part of the response. A client that is busy or stopped may be slow to read.
SEND_TIMEOUT = 300.0
#: Bytes of a body that are read at a time.
_READ_SIZE = 1024 * 1024
#: Seconds to wait before the next attempt to accept a connection if no file descriptor is available.
_ACCEPT_BACKOFF = 0.1


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket until a deadline. A timeout of the socket alone would not end a slow stream of bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = 0.0
        self._timeout: Optional[float] = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def limit(self, *, deadline: Optional[float] = None, timeout: Optional[float] = None) -> None:
        """Set the seconds from now for all following reads together, or the seconds for each of them."""
        self._deadline, self._timeout = time.monotonic() + (deadline or 0.0), timeout

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer.

        Raises:
            socket.timeout: The limit is reached.
        """
        remaining = self._timeout
        if remaining is None:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise socket.timeout("the request was not received in time")
        self._connection.settimeout(remaining)
        return self._connection.recv_into(buffer)


class RequestHandler(WSGIRequestHandler):
    """Handles the requests of one connection, one after another.

    The connection is closed after IDLE_TIMEOUT without a request, and if a client needs longer than HEAD_TIMEOUT to
    send the headers of a request.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024

    def setup(self) -> None:
        """Replace the reader of the base class by one with deadlines."""
        super().setup()
        self.rfile.close()
        self._reader = _DeadlineReader(self.connection)
        self._buffered = io.BufferedReader(self._reader, 64 * 1024)
        self.rfile = self._buffered

    def handle_one_request(self) -> None:
        """Wait for a request, read its headers and handle it."""
        self._reader.limit(deadline=IDLE_TIMEOUT)
        try:
            self._buffered.peek(1)
        except socket.timeout:
            self.close_connection = True
            return
        self._reader.limit(deadline=HEAD_TIMEOUT)
        super().handle_one_request()

    def run_wsgi(self) -> None:
        """Handle one request."""
        if self.headers.get("Expect", "").lower().strip() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        environ = self.make_environ()
        self._reader.limit(timeout=BODY_TIMEOUT)
        body = self._read_body(environ)
        if body is None:
            return
        self.connection.settimeout(SEND_TIMEOUT)
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = body, str(len(body.getbuffer()))
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

    def _read_body(self, environ: Dict[str, Any]) -> Optional[io.BytesIO]:
        """Read the body. Return None if that is not possible and the request must not be handled."""
        length: Optional[int] = None
        if not environ.get("wsgi.input_terminated"):
            text = environ.get("CONTENT_LENGTH") or "0"
            if not (text.isascii() and text.isdigit()):
                self._reject(400, f"bad Content-Length: {text[:80]!r}")
                return None
            length = int(text[:20])
        if length is not None and length > MAX_BODY:
            self._reject(413, f"the body has more than {MAX_BODY} bytes")
            return None
        # BytesIO, because the body may be large and the application reads it without another copy.
        body, size, stream = io.BytesIO(), 0, environ["wsgi.input"]
        while length is None or size < length:
            part = stream.read(_READ_SIZE if length is None else min(_READ_SIZE, length - size))
            if not part:
                break
            size += body.write(part)
            if size > MAX_BODY:
                self._reject(413, f"the body has more than {MAX_BODY} bytes")
                return None
        if length is not None and size < length:
            self.close_connection = True
            return None
        body.seek(0)
        return body

    def _reject(self, status: int, detail: str) -> None:
        """Return an error and close the connection, because the bytes of the body are still unread."""
        self.close_connection = True
        body = encode_json({"detail": detail})
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        self._send(f"{status} Refused", headers, [body], truncate=False)

    def _send(self, status: str, headers: List[Tuple[str, str]], parts: Iterable[bytes], *, truncate: bool) -> None:
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
        try:
            accepted = super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # The connection stays in the backlog, so without a pause the accept loop would use a whole CPU.
                _log.warning("connection not accepted: error=%s", error)
                time.sleep(_ACCEPT_BACKOFF)
            raise
        self._stats.add("connections")
        return accepted

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an exception, unless the client closed the connection during a request."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("connection failed: client=%s", client_address)
