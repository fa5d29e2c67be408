"""A seeded proxy that injects the faults of the table. It runs in a process of its own and reads orders by line."""

import http.client
import json
import random
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from fault_table import FAULTS, MIX

__all__ = ["FaultProxy"]

_NOT_PASSED_ON = ("connection", "transfer-encoding", "keep-alive", "content-length")


class FaultProxy:
    """The proxy in its process. A context manager."""

    def __init__(self, upstream):
        command = [sys.executable, str(Path(__file__)), upstream]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.base_url = json.loads(self._process.stdout.readline())["base_url"]

    def inject(self, name, seed=0):
        """Inject a fault of the table, the mix, or nothing (None), from the next request on."""
        return self._tell({"inject": name, "seed": seed})

    def counts(self):
        """Return the number of requests, and the number of each injected fault."""
        return self._tell({})

    def _tell(self, order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(30.0)
        self._process.stdout.close()


class _Plan:
    """Decides which request is hit. The same seed gives the same sequence of decisions. Thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self.replace(None, 0)

    def replace(self, name, seed):
        with self._lock:
            self._name, self._random = name, random.Random(seed)
            self.counts = Counter()

    def decide(self):
        """Return the fault of the next request, or None."""
        with self._lock:
            self.counts["requests"] += 1
            if self._name is None:
                return None
            draw = self._random.random()
            name = self._random.choice(sorted(FAULTS)) if self._name == MIX else self._name
            if draw >= FAULTS[name].share:
                return None
            self.counts[name] += 1
            return FAULTS[name]


class _Hangup(Exception):
    """The connection to the client ends."""


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    rbufsize = 1 << 16

    def handle(self):
        self.upstream = http.client.HTTPConnection(self.server.upstream, timeout=120.0)
        try:
            while self._one_request():
                pass
        except (_Hangup, OSError, http.client.HTTPException):
            pass
        finally:
            self.upstream.close()

    def _one_request(self):
        line = self.rfile.readline().decode("latin-1").split()
        if len(line) < 2:
            return False
        method, path = line[0], line[1]
        headers = http.client.parse_headers(self.rfile)
        body = self._body(headers)
        fault = self.server.plan.decide()
        if fault is None:
            self.wfile.write(self._forward(method, path, headers, body))
            return True
        response = self._forward(method, path, headers, body) if fault.forwards else b""
        if fault.action == "twice":
            response = self._forward(method, path, headers, body)
        getattr(self, f"_{fault.action}")(fault, response)
        return True

    def _body(self, headers):
        if headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("Content-Length") or 0))
        parts = []
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            parts.append(self.rfile.read(size))
            self.rfile.readline()
            if size == 0:
                return b"".join(parts)

    def _forward(self, method, path, headers, body):
        passed = {name: value for name, value in headers.items() if name.lower() not in _NOT_PASSED_ON}
        try:
            self.upstream.request(method, path, body, passed)
            response = self.upstream.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            self.upstream.close()  # It was idle for too long.
            self.upstream.request(method, path, body, passed)
            response = self.upstream.getresponse()
        content = response.read()
        fields = [item for item in response.getheaders() if item[0].lower() not in _NOT_PASSED_ON]
        return _encode(response.status, fields, content)

    # How a hit request ends

    def _respond(self, fault, response):
        text = fault.body.format(f"{fault.status} gateway")
        self.wfile.write(_encode(fault.status, fault.headers, text.encode()))

    def _twice(self, fault, response):
        self.wfile.write(response)

    def _reset(self, fault, response):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Hangup

    def _close(self, fault, response):
        raise _Hangup

    def _close_idle(self, fault, response):
        self.wfile.write(response)
        raise _Hangup

    def _half_head(self, fault, response):
        self.wfile.write(response[: response.index(b"\r\n\r\n") // 2])
        raise _Hangup

    def _half_body(self, fault, response):
        head = response.index(b"\r\n\r\n") + 4
        self.wfile.write(response[: head + (len(response) - head) // 2])
        raise _Hangup

    def _garbage(self, fault, response):
        self.wfile.write(random.Random(len(response)).randbytes(200))
        raise _Hangup

    def _slow(self, fault, response):
        time.sleep(fault.seconds)
        self.wfile.write(response)

    def _drip(self, fault, response):
        for start in range(0, len(response), 20):
            self.wfile.write(response[start : start + 20])

    def _silence(self, fault, response):
        self.connection.settimeout(fault.seconds)
        self.connection.recv(1)
        raise _Hangup


def _encode(status, headers, content):
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(content)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + content


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


def _serve(upstream):
    server = _Server(("127.0.0.1", 0), _Handler)
    server.upstream, server.plan = upstream.split("//")[1].rstrip("/"), _Plan()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"base_url": f"http://127.0.0.1:{server.server_address[1]}"}), flush=True)
    for line in sys.stdin:
        order, counts = json.loads(line), dict(server.plan.counts)
        if "inject" in order:
            server.plan.replace(order["inject"], order["seed"])
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
