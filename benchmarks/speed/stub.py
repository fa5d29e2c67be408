"""A fast HTTP server with the endpoints that the benchmark calls: ``python -m speed.stub '{"latency": 0.1}'``.

It prints its port and ends when its standard input is closed. One process and one event loop serve all connections.
Response bodies are built once and reused, so that the client is measured and not this server. ``GET /stats`` returns
the counters, and ``POST /settings`` changes settings and resets the counters.
"""

from __future__ import annotations

import array
import asyncio
import json
import random
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

DEFAULTS: Dict[str, Any] = {
    "latency": 0.0,  # seconds from an accepted request until its result is available
    "response": 0.0,  # seconds until the server responds to a request for a sample
    "tokens": 64,  # tokens of a sampled sequence
    "logprobs": 1000,  # logprobs of each datum in the result of a pass
    "rate": 0.0,  # samples accepted per second, all others get a 429; 0: no limit
    "depth": 1.0,  # depth of the token bucket
    "folder": "",  # key.pem and cert.pem in this folder: TLS
}
_HOLD = 45.0  # the longest poll, in seconds
_REASONS = {200: "OK", 404: "Not Found", 408: "Request Timeout", 429: "Too Many Requests"}
_FIXED = {
    "/api/v1/create_session": b'{"type":"create_session","session_id":"bench"}',
    "/api/v1/session_heartbeat": b'{"type":"session_heartbeat"}',
    "/api/v1/create_sampling_session": b'{"type":"create_sampling_session","sampling_session_id":"bench:sample:0"}',
    "/api/v1/get_server_capabilities": b'{"supported_models":[{"model_name":"bench"}]}',
    "/api/v1/get_info": b'{"type":"get_info","model_data":{"arch":"bench","model_name":"bench","tokenizer_id":"bench"},'
    b'"model_id":"bench:train:0","is_lora":true,"lora_rank":32,"model_name":"bench"}',
    "/api/v1/telemetry": b'{"status":"accepted"}',
    "/api/v1/client/config": b'{"pjwt_auth_enabled":false}',
    "/api/v1/client/dynamic_config": b'{"sample_cancel_enabled":false}',
}
#: Endpoints that return a request id, and the first letter of the id.
_PROMISES = {
    "/api/v1/create_model": "m",
    "/api/v1/forward_backward": "f",
    "/api/v1/forward": "f",
    "/api/v1/asample": "s",
}
_PROTOBUF = b"application/x-protobuf"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _count_datums(body: bytes, field: int = 3) -> int:
    """Count the datums of a protobuf request, without a look into them."""
    at = count = 0

    def read() -> int:
        nonlocal at
        shift = value = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(body):
        key = read()
        if key & 7 == 2:
            size = read()
            at += size
            count += key >> 3 == field
        elif key & 7 == 0:
            read()
        else:
            at += 8 if key & 7 == 1 else 4
    return count


class Bodies:
    """Response bodies, built at first use."""

    def __init__(self, settings: Dict[str, Any]) -> None:
        self._settings = settings
        self._random = random.Random(7)
        self._made: Dict[Tuple[str, int, bool], bytes] = {}

    def get(self, kind: str, count: int, is_protobuf: bool) -> bytes:
        key = (kind, count, is_protobuf)
        if key not in self._made:
            if kind == "m":
                self._made[key] = b'{"type":"create_model","model_id":"bench:train:0"}'
            else:
                make = self._sample if kind == "s" else self._pass
                self._made[key] = make(count, is_protobuf)
        return self._made[key]

    def _logprobs(self, count: int) -> array.array[float]:
        return array.array("f", [-self._random.expovariate(1.0) for _ in range(count)])

    def _sample(self, _: int, is_protobuf: bool) -> bytes:
        tokens = array.array("i", [self._random.randrange(151_000) for _ in range(self._settings["tokens"])])
        logprobs = self._logprobs(len(tokens))
        if is_protobuf:
            return _field(1, _number(1, 1) + _field(2, tokens.tobytes()) + _field(3, logprobs.tobytes()))
        sequence = {"stop_reason": "length", "tokens": list(tokens), "logprobs": list(logprobs)}
        return json.dumps({"type": "sample", "sequences": [sequence]}, separators=(",", ":")).encode()

    def _pass(self, datums: int, is_protobuf: bool) -> bytes:
        length = self._settings["logprobs"]
        logprobs = self._logprobs(length)
        metrics = {"loss:sum": 12.5 * datums}
        if is_protobuf:
            offsets = array.array("q", [4 * length * index for index in range(datums + 1)])
            values = _field(1, logprobs.tobytes() * datums) + _field(2, offsets.tobytes()) + _number(3, 1)
            record = _field(1, b"ArrayRecord") + _field(2, _field(1, b"logprobs") + _field(2, values))
            out = _field(1, b"ArrayRecord") + _field(2, record + _number(3, datums))
            for name, value in metrics.items():
                out += _field(3, _field(1, name.encode()) + _varint(2 << 3 | 1) + struct.pack("<d", value))
            return out
        tensor = {"data": list(logprobs), "dtype": "float32", "shape": [length]}
        output = json.dumps({"logprobs": tensor}, separators=(",", ":"))
        start = json.dumps({"loss_fn_output_type": "ArrayRecord", "metrics": metrics})[:-1]
        return (start + ',"loss_fn_outputs":[' + ",".join([output] * datums) + "]}").encode()


class State:
    """Settings and counters."""

    def __init__(self, settings: Dict[str, Any]) -> None:
        self.settings = DEFAULTS
        self.open = self.promised = 0
        self.configure(settings)

    def configure(self, settings: Dict[str, Any]) -> None:
        self.settings = {**self.settings, **settings}
        self.bodies = Bodies(self.settings)
        self.requests = self.connections = self.resumed = self.rejected = self.datums = 0
        self.outstanding = self.most_outstanding = 0
        self.most_open = self.open
        self.heartbeats: List[float] = []
        self.bucket, self.filled_at = self.settings["depth"], time.monotonic()
        self.cpu = time.process_time()

    def stats(self) -> Dict[str, Any]:
        names = "requests connections resumed rejected datums most_open most_outstanding outstanding heartbeats"
        return {**{name: getattr(self, name) for name in names.split()}, "server_cpu": time.process_time() - self.cpu}

    def admit(self) -> bool:
        rate = self.settings["rate"]
        if not rate:
            return True
        now = time.monotonic()
        self.bucket = min(self.settings["depth"], self.bucket + (now - self.filled_at) * rate)
        self.filled_at = now
        if self.bucket < 1:
            self.rejected += 1
            return False
        self.bucket -= 1
        return True


class Connection(asyncio.Protocol):
    """One connection; it serves one request after another."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._data = bytearray()
        self._head: Optional[bytes] = None
        self._size = 0
        self._is_busy = False

    def connection_made(self, transport: Any) -> None:
        state, self._transport = self._state, transport
        state.connections += 1
        state.open += 1
        state.most_open = max(state.most_open, state.open)
        secure = transport.get_extra_info("ssl_object")
        state.resumed += bool(secure and secure.session_reused)

    def connection_lost(self, _: Optional[Exception]) -> None:
        self._state.open -= 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._read()

    def _read(self) -> None:
        if self._is_busy:
            return
        if self._head is None:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._data[:end]).lower()
            del self._data[: end + 4]
            at = self._head.find(b"\ncontent-length:")
            self._size = int(self._head[at + 16 :].split(b"\r", 1)[0]) if at >= 0 else 0
        if len(self._data) < self._size:
            return
        body, head = bytes(self._data[: self._size]), self._head
        del self._data[: self._size]
        self._head, self._is_busy = None, True
        self._serve(head.split(b" ", 2)[1].split(b"?", 1)[0].decode(), head, body)

    def _serve(self, target: str, head: bytes, body: bytes) -> None:
        state = self._state
        state.requests += 1
        if target == "/stats":
            self._reply(200, json.dumps(state.stats()).encode())
        elif target == "/settings":
            state.configure(json.loads(body))
            self._reply(200, b"{}")
        elif target == "/api/v1/retrieve_future":
            self._poll(json.loads(body)["request_id"], b"accept: application/x-protobuf" in head)
        elif target in _PROMISES:
            self._promise(_PROMISES[target], head, body)
        elif target in _FIXED:
            if target.endswith("heartbeat"):
                state.heartbeats.append(time.monotonic())
            self._reply(200, _FIXED[target])
        else:
            self._reply(404, b'{"detail":"Not Found"}')

    def _promise(self, kind: str, head: bytes, body: bytes) -> None:
        state, count, response = self._state, 0, 0.0
        if kind == "s":
            response = state.settings["response"]
            if not state.admit():
                self._after(response, self._reply, 429, b'{"detail":"the bucket is empty"}')
                return
            state.outstanding += 1
            state.most_outstanding = max(state.most_outstanding, state.outstanding)
        elif kind == "f":
            is_protobuf = b"content-type: application/x-protobuf" in head
            count = _count_datums(body) if is_protobuf else body.count(b'"model_input"')
            state.datums += count
        state.promised += 1
        latency = state.settings["latency"] if kind == "s" else 0.0
        name = f"{kind}.{count}.{time.monotonic() + latency:.6f}.{state.promised}"
        # 0.38.0 requires an id for each sequence of a sample.
        document = {"request_id": name.replace(".", "-", 2), "sample_sequence_ids": [f"q{state.promised}"]}
        self._after(response, self._reply, 200, json.dumps(document).encode())

    def _poll(self, name: str, is_protobuf: bool) -> None:
        kind, count, at = name.split("-", 2)
        left = float(at.rsplit(".", 1)[0]) - time.monotonic()
        if left > _HOLD:
            self._after(_HOLD, self._reply, 408, b'{"type":"try_again","queue_state":"active"}')
        else:
            self._after(left, self._resolve, kind, int(count), is_protobuf)

    def _resolve(self, kind: str, count: int, is_protobuf: bool) -> None:
        self._state.outstanding -= kind == "s"
        is_protobuf = is_protobuf and kind != "m"
        body = self._state.bodies.get(kind, count, is_protobuf)
        self._reply(200, body, _PROTOBUF if is_protobuf else b"application/json")

    def _after(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        if seconds > 0:
            self._loop.call_later(seconds, function, *arguments)
        else:
            function(*arguments)

    def _reply(self, status: int, body: bytes, kind: bytes = b"application/json") -> None:
        if self._transport.is_closing():
            return
        head = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, _REASONS[status].encode(), kind, len(body)) + body)
        self._is_busy = False
        if self._data:
            self._loop.call_soon(self._read)


async def serve(settings: Dict[str, Any]) -> None:
    context = None
    if settings.get("folder"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(settings["folder"], "cert.pem"), Path(settings["folder"], "key.pem"))
    state = State(settings)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=4096, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The pipe ends when the parent does.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(json.loads(sys.argv[1])))
    else:
        uvloop.run(serve(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
