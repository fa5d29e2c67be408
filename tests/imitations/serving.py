"""The HTTP side of an imitation: connections, keys, scripted accidents."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import packing
from .stored import endpoint as endpoint_of

__all__ = ["HOLD", "Handler", "Listener"]

#: Seconds for which polls are held, and for which nothing is said by whoever is silent.
HOLD = 20.0
_STORED = frozenset(
    {
        "training_runs",
        "training_run",
        "run_checkpoints",
        "checkpoints",
        "sessions",
        "session",
        "sampler",
        "delete_checkpoint",
        "publish_checkpoint",
        "unpublish_checkpoint",
        "checkpoint_archive",
    }
)


class Listener(ThreadingHTTPServer):
    """Accepts connections, and can cut them all."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._lock = threading.Lock()
        self._open = set()  # guarded by _lock

    def process_request(self, request, client_address):
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut(self):
        """End every connection."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _shut(connection)

    def handle_error(self, request, client_address):
        """Clients hang up; that is what these servers are for."""


def _shut(connection):
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Handler(BaseHTTPRequestHandler):
    """Serves the requests of one connection for its ``imitation``."""

    protocol_version = "HTTP/1.1"
    imitation = None
    # An answer leaves in one piece, or polls pay for two.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._read()

    def do_POST(self):
        self._read()

    def do_DELETE(self):
        self._read()

    def _read(self):
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if len(content) < length:
            self.close_connection = True
            return
        endpoint, ids = endpoint_of(self.command, self.path)
        refused = None
        if self.headers.get("Content-Type") == packing.PROTOBUF:
            if "protobuf" not in self.imitation.column.wires:
                # As those do that read every body as JSON.
                self._answer(500, self.imitation.column.error(500, "Internal Server Error"))
                return
            endpoint, body = packing.read(content, self.headers.get("Content-Encoding", ""))
        else:
            body = json.loads(content) if content else {}
            if endpoint in ("forward", "forward_backward") and "json" not in self.imitation.column.wires:
                refused = (404, "Not Found") if endpoint == "forward" else (415, "this takes protobuf only")
        self._serve(endpoint, ids, body, content, refused)

    def _serve(self, endpoint, ids, body, content, refused):
        owner = self.imitation
        with owner.changed:
            row = (endpoint, body.get("seq_id"), self.headers.get("X-Idempotency-Key"), body)
            owner.arrived.append(row)
            owner.keys_seen.add(self.headers.get("X-API-Key"))
            action = owner.action(endpoint)
            owner.changed.notify_all()
        if action == "before":
            self._drop()
        elif action == "silent":
            owner.stopping.wait(HOLD)
            self._drop()
        elif action == "drip":
            self._drip()
        elif isinstance(action, tuple):
            self._answer(*action)
        else:
            answer = self._key_refusal()
            if answer is None and refused is not None:
                answer = refused[0], owner.column.error(*refused)
            answer = answer or self._handled(endpoint, ids, body, content)
            if action == "after":
                self._drop()
            else:
                self._answer(*answer)
        with owner.changed:
            owner.changed.notify_all()

    def _handled(self, endpoint, ids, body, content):
        owner = self.imitation
        if owner.column.transparent:
            refused = owner.refusal(endpoint, body)
            names = ("Content-Type", "X-Idempotency-Key", "X-API-Key")
            headers = {name: self.headers[name] for name in names if name in self.headers}
            return refused or owner.pass_on(self.command, self.path, endpoint, body, content, headers)
        if endpoint in _STORED:
            return owner.stored_answer(endpoint, self.command, ids, self.path.partition("?")[2])
        status, answer = owner.handle(endpoint, body)
        if endpoint == "retrieve_future" and status == 200 and "protobuf" in owner.column.wires:
            found = packing.packed_result(owner.operation(body["request_id"]), answer)
            if found is not None and packing.PROTOBUF in self.headers.get("Accept", ""):
                return status, found, {"Content-Type": packing.PROTOBUF}
        return status, answer

    def _key_refusal(self):
        column, key = self.imitation.column, self.headers.get("X-API-Key")
        if key is None and column.bearer:
            key = self.headers.get("Authorization", "").partition("Bearer ")[2] or None
        if column.missing_key and key is None:
            return column.missing_key, column.error(column.missing_key, "no API key")
        if column.unknown_key and key != self.imitation.key:
            return column.unknown_key, column.error(column.unknown_key, "unknown API key")
        return None

    def _answer(self, status, body, headers=()):
        if isinstance(body, bytes):
            content = body
        else:
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        given = {
            "Content-Type": "text/html" if isinstance(body, str) else "application/json",
            **dict(headers),
        }
        self.send_response(status)
        for name, value in given.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        column = self.imitation.column
        if column.closes:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        if status == 500 and column.drops_after_500:
            # Without a word: the client finds out when it uses the connection again.
            self.close_connection = True

    def _drop(self):
        self.close_connection = True
        _shut(self.connection)

    def _drip(self):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        ends = time.monotonic() + HOLD
        while time.monotonic() < ends and not self.imitation.stopping.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()
