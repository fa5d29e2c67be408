"""The HTTP side of an imitation: connections, API keys and scripted faults."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import protobuf_forms
from .stored_resources import endpoint as endpoint_of

__all__ = ["HOLD", "Handler", "Listener"]

#: Seconds for which polls are held, and for which a silent server sends nothing.
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
    """Accepts connections, and can close all of them."""

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

    def reset_connections(self):
        """Reset every connection."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _shut(connection)

    def handle_error(self, request, client_address):
        """Ignore errors: clients close connections in the tests."""


def _shut(connection):
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Handler(BaseHTTPRequestHandler):
    """Handles the requests of one connection of an ``imitation``."""

    protocol_version = "HTTP/1.1"
    imitation = None
    # A response is sent in one packet. Two packets would delay polls.
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
        rejection = None
        if self.headers.get("Content-Type") == protobuf_forms.PROTOBUF:
            if "protobuf" not in self.imitation.profile.wires:
                # Servers that decode every body as JSON return this error.
                self._respond(500, self.imitation.profile.error(500, "Internal Server Error"))
                return
            endpoint, body = protobuf_forms.decode_request(content, self.headers.get("Content-Encoding", ""))
        else:
            body = json.loads(content) if content else {}
            if endpoint in ("forward", "forward_backward") and "json" not in self.imitation.profile.wires:
                rejection = (404, "Not Found") if endpoint == "forward" else (415, "only protobuf is accepted")
        self._serve(endpoint, ids, body, content, rejection)

    def _serve(self, endpoint, ids, body, content, rejection):
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
            self._respond(*action)
        else:
            response = self._key_error()
            if response is None and rejection is not None:
                response = rejection[0], owner.profile.error(*rejection)
            response = response or self._handled(endpoint, ids, body, content)
            if action == "after":
                self._drop()
            else:
                self._respond(*response)
        with owner.changed:
            owner.changed.notify_all()

    def _handled(self, endpoint, ids, body, content):
        owner = self.imitation
        if owner.profile.transparent:
            rejection = owner.rejection(endpoint, body)
            names = ("Content-Type", "X-Idempotency-Key", "X-API-Key")
            headers = {name: self.headers[name] for name in names if name in self.headers}
            return rejection or owner.forward(self.command, self.path, endpoint, body, content, headers)
        if endpoint in _STORED:
            return owner.stored_response(endpoint, self.command, ids, self.path.partition("?")[2])
        status, response = owner.handle(endpoint, body)
        if endpoint == "retrieve_future" and status == 200 and "protobuf" in owner.profile.wires:
            encoded = protobuf_forms.encode_result(owner.operation(body["request_id"]), response)
            if encoded is not None and protobuf_forms.PROTOBUF in self.headers.get("Accept", ""):
                return status, encoded, {"Content-Type": protobuf_forms.PROTOBUF}
        return status, response

    def _key_error(self):
        profile, key = self.imitation.profile, self.headers.get("X-API-Key")
        if key is None and profile.bearer:
            key = self.headers.get("Authorization", "").partition("Bearer ")[2] or None
        if profile.missing_key and key is None:
            return profile.missing_key, profile.error(profile.missing_key, "no API key")
        if profile.unknown_key and key != self.imitation.key:
            return profile.unknown_key, profile.error(profile.unknown_key, "unknown API key")
        return None

    def _respond(self, status, body, headers=()):
        if isinstance(body, bytes):
            content = body
        else:
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        all_headers = {"Content-Type": "text/html" if isinstance(body, str) else "application/json", **dict(headers)}
        self.send_response(status)
        for name, value in all_headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        profile = self.imitation.profile
        if profile.closes:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        if status == 500 and profile.drops_after_500:
            # Without "Connection: close", so the client detects it when it reuses the connection.
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
