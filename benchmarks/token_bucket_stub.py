"""A server that accepts sampling requests by token bucket and returns 429 for all others.

It runs in a separate process, which `TokenBucketServer` starts and stops. Requests must have a Content-Length. It has
these endpoints:

- the endpoints that create a session,
- ``POST /api/v1/asample``,
- ``POST /api/v1/retrieve_future``, which immediately returns a sample of one token,
- ``GET /counts``, which returns the counters,
- ``POST /bucket`` with ``{"rate", "bucket", "response", "retry_after"}``, which also fills the bucket and resets the
  counters.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

_SAMPLE = {"type": "sample", "sequences": [{"stop_reason": "length", "tokens": [1], "logprobs": [-0.5]}]}

_OPENING = {
    "/api/v1/create_session": {"type": "create_session", "session_id": "bench"},
    "/api/v1/session_heartbeat": {"type": "session_heartbeat"},
    "/api/v1/create_sampling_session": {"type": "create_sampling_session", "sampling_session_id": "bench:sample:0"},
}


class Bucket:
    """Tokens that come back at `rate` per second up to `size`."""

    def __init__(self, rate: float, size: float) -> None:
        self.rate, self.size = rate, size
        self.tokens, self.at = size, time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Stub:
    def __init__(self) -> None:
        self.configure({})

    def configure(self, settings: Dict[str, Any]) -> None:
        self.bucket = Bucket(settings.get("rate", 1e9), settings.get("bucket", 1e9))
        self.response: float = settings.get("response", 0.0)
        self.retry_after: Optional[float] = settings.get("retry_after")
        self.accepted = self.refused = self.now = self.most = 0

    async def answer(self, target: str, body: bytes) -> Tuple[int, Any, List[str]]:
        if target == "/counts":
            return 200, {"accepted": self.accepted, "refused": self.refused, "most_at_once": self.most}, []
        if target == "/bucket":
            self.configure(json.loads(body))
            return 200, {}, []
        if target == "/api/v1/retrieve_future":
            return 200, _SAMPLE, []
        if target in _OPENING:
            return 200, _OPENING[target], []
        if target != "/api/v1/asample":
            return 404, {"detail": f"no {target} here"}, []
        self.now += 1
        self.most = max(self.most, self.now)
        admitted = self.bucket.take()
        if self.response:
            await asyncio.sleep(self.response)
        self.now -= 1
        if admitted:
            self.accepted += 1
            return 200, {"request_id": f"sample-{self.accepted}"}, []
        self.refused += 1
        headers = [] if self.retry_after is None else [f"retry-after: {self.retry_after:g}"]
        return 429, {"detail": "the bucket is empty"}, headers

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request, *lines = head.split("\r\n")
                length = 0
                for line in lines:
                    name, _, value = line.partition(":")
                    if name.lower() == "content-length":
                        length = int(value)
                body = await reader.readexactly(length)
                status, document, headers = await self.answer(request.split(" ")[1], body)
                data = json.dumps(document).encode()
                fields = ["content-type: application/json", f"content-length: {len(data)}", *headers]
                text = "\r\n".join([f"HTTP/1.1 {status} {http.client.responses[status]}", *fields])
                writer.write(text.encode() + b"\r\n\r\n" + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class TokenBucketServer:
    """The stub in a child process, stopped when the ``with`` block is left."""

    def __enter__(self) -> TokenBucketServer:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(5)

    def set(self, **settings: Any) -> None:
        self._call("POST", "/bucket", json.dumps(settings))

    def counts(self) -> Dict[str, int]:
        counts: Dict[str, int] = self._call("GET", "/counts")
        return counts

    def _call(self, method: str, target: str, body: Optional[str] = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, target, body=body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


async def serve() -> None:
    stub = Stub()
    server = await asyncio.start_server(stub.connection, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The pipe ends when the parent does.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
