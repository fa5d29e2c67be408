"""Compare the requests of the official SDK and of tinkex_sync for the same batch and the same samples.

    python tests/official/side_by_side.py OFFICIAL_PYTHON

Both use one embedded server, through a proxy that records the bodies. The program prints the chunk sizes, the number of
compared bodies and every difference, and exits with 1 if there is a difference.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, List, Tuple
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
DATUMS, SAMPLES = 500, 300

#: The server's defaults. The official SDK does not send fields that were not set.
DEFAULTS = {
    "adam_params": {
        "learning_rate": 1e-4,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-12,
        "weight_decay": 0.0,
        "grad_clip_norm": 0.0,
    },
    "sampling_params": {"temperature": 1.0, "top_k": -1, "top_p": 1.0},
}


class RecordingProxy:
    """Forwards requests to one server and records (path, body) of every POST, in order of arrival."""

    def __init__(self, target: str) -> None:
        self.seen: List[Tuple[str, Any]] = []
        lock = threading.Lock()
        seen = self.seen
        host = urlsplit(target).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.command == "POST":
                    with lock:
                        seen.append((self.path, json.loads(body)))
                upstream = http.client.HTTPConnection(host, timeout=120)
                upstream.request(self.command, self.path, body, dict(self.headers))
                response = upstream.getresponse()
                content = response.read()
                self.send_response(response.status)
                for name in ("Content-Type", "Location", "Expires"):
                    if response.headers.get(name):
                        self.send_header(name, response.headers[name])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                upstream.close()

            do_GET = do_POST = do_DELETE = _forward

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            # 300 samples connect concurrently. A refused one would be sent again with another number.
            request_queue_size = 1024

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def record(python: str, package: str, target: str) -> List[Tuple[str, Any]]:
    proxy = RecordingProxy(target)
    try:
        subprocess.run(
            [python, str(HERE / "drive_both.py"), package, str(DATUMS), str(SAMPLES)],
            env={**os.environ, "TINKER_BASE_URL": proxy.url, "TINKER_API_KEY": "tml-local", "TINKER_TELEMETRY": "0"},
            check=True,
            timeout=600,
        )
    finally:
        proxy.close()
    return proxy.seen


def filled_in(body: Any) -> Any:
    """Return a body with the server's defaults and without the ids of this run."""
    if isinstance(body, dict):
        filled = {key: filled_in(value) for key, value in body.items()}
        for key, defaults in DEFAULTS.items():
            if key in filled:
                filled[key] = {**defaults, **filled[key]}
        filled.pop("model_id", None)
        filled.pop("sampling_session_id", None)
        return filled
    if isinstance(body, list):
        return [filled_in(value) for value in body]
    return body


def compare(official: List[Tuple[str, Any]], ours: List[Tuple[str, Any]]) -> List[str]:
    """Return descriptions of the differences."""
    found: List[str] = []
    for path in ("/api/v1/forward_backward", "/api/v1/optim_step", "/api/v1/asample"):
        theirs, mine = ([filled_in(body) for at, body in seen if at == path] for seen in (official, ours))
        if path.endswith("asample"):
            # Both number samples without gaps, but concurrently submitted samples are sent in any order.
            for name, bodies in (("official", theirs), ("ours", mine)):
                numbers = sorted(body.pop("seq_id") for body in bodies)
                if numbers != list(range(len(bodies))):
                    found.append(f"{path}: {name} numbers the samples {numbers}")
                bodies.sort(key=lambda body: json.dumps(body["prompt"], sort_keys=True))
        else:
            chunks = [len(body["forward_backward_input"]["data"]) for body in mine if "adam_params" not in body]
            print(f"{path}: {len(theirs)} and {len(mine)} bodies{f', datums {chunks}' if chunks else ''}")
        if len(theirs) != len(mine):
            found.append(f"{path}: {len(theirs)} bodies against {len(mine)}")
        for index, (one, other) in enumerate(zip(theirs, mine)):
            if one != other:
                found.append(f"{path} body {index}: {_first_difference(one, other)}")
    samples = sum(at.endswith("asample") for at, _ in ours)
    print(f"/api/v1/asample: {samples} bodies of ours")
    return found


def _first_difference(one: Any, other: Any, where: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            if one.get(key) != other.get(key) or (key in one) != (key in other):
                return _first_difference(one.get(key), other.get(key), f"{where}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other)):
            if pair[0] != pair[1]:
                return _first_difference(*pair, f"{where}[{index}]")
    return f"{where}: {str(one)[:80]} against {str(other)[:80]}"


def side_by_side(official_python: str) -> List[str]:
    from tinkex_sync.local import LocalServer

    with LocalServer() as server:
        official = record(official_python, "tinker", server.base_url)
        ours = record(sys.executable, "tinkex_sync", server.base_url)
    return compare(official, ours)


def main() -> int:
    differences: List[str] = side_by_side(sys.argv[1])
    for difference in differences:
        print(difference)
    print("no difference" if not differences else f"{len(differences)} differences")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
