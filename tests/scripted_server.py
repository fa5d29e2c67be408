"""An HTTP/1.1 server on loopback with scripted responses, and a clock whose waits pass immediately."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, Optional, Tuple, Union
from urllib.parse import parse_qsl, urlsplit

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.config import Config
from tinkex_sync.plugins.registry import Observers
from tinkex_sync.session import Session

API = "/api/v1/"


@dataclass
class Answer:
    """One response. ``body`` is sent as JSON, ``text`` unchanged, and ``packed`` unchanged, as protobuf."""

    status: int = 200
    body: Any = None
    text: Optional[str] = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Close the connection instead of responding.
    drop: bool = False
    #: Called before the response is sent, which it may delay.
    hold: Optional[Callable[[], Any]] = None
    packed: Optional[bytes] = None

    def content(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.text is not None:
            return self.text.encode()
        return json.dumps(self.body).encode()


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: Dict[str, str]
    #: Names in lower case; a name sent twice has both values in its list.
    headers: Dict[str, Union[str, List[str]]]
    #: Decoded JSON, or the bytes of any other body; None if there was none.
    body: Any
    #: Time of arrival on the server's clock.
    time: float
    #: Index of its connection, from 0.
    connection: int
    #: As in the request line, query included.
    raw_path: str = ""
    answer: Optional[Answer] = None

    @property
    def operation(self) -> str:
        return self.path.partition(API)[2]


Script = Union[Answer, Callable[[Request], Answer]]


class SteppedClock(Clock):
    """A clock that only advances by the waits of the thread that made it, which pass immediately.

    Other threads (heartbeat, timer) wait for their event without a timeout.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        self._thread = threading.get_ident()
        #: Every wait of that thread, in seconds.
        self.waits: List[float] = []

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def wait(self, event: threading.Event, timeout: Optional[float] = None) -> bool:
        if threading.get_ident() != self._thread:
            return event.wait()
        if event.is_set():
            return True
        if timeout is None:
            return event.wait(20.0)
        self.waits.append(timeout)
        self.advance(timeout)
        return False


class ScriptedServer:
    """Returns for each operation (the path below ``/api/v1/``) the responses of its list, in order.

    When a list is used up, the response is that of ``defaults``, or else 404 with ``{"detail": "no route"}``.
    """

    def __init__(self, clock: Optional[Clock] = None) -> None:
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._connections = 0  # guarded by _lock
        self._scripts: Dict[str, Deque[Script]] = defaultdict(deque)  # guarded by _lock
        self.defaults: Dict[str, Script] = {"session_heartbeat": Answer(body={})}
        #: Every request but heartbeats, in order of arrival.
        self.requests: List[Request] = []  # guarded by _lock
        #: Set at the end; functions that delay a response wait for it too.
        self.stopping = threading.Event()
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=lambda: self._http.serve_forever(poll_interval=0.02), name="scripted-server", daemon=True
        )

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Use TLS. Call before the first request."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.base_url = self.base_url.replace("http://127.0.0.1", "https://localhost")

    def script(self, operation: str, *answers: Script) -> None:
        """Set the responses to the next requests of an operation."""
        with self._lock:
            self._scripts[operation].extend(answers)

    def clear(self) -> None:
        """Remove requests and scripts."""
        with self._lock:
            self.requests.clear()
            self._scripts.clear()

    def sent(self, operation: str) -> List[Request]:
        """Return the requests of one operation so far."""
        with self._lock:
            return [request for request in self.requests if request.operation == operation]

    def noted(self, answer: Answer) -> Script:
        """Return a script for ``answer`` that also records requests which are otherwise left out of ``requests``."""

        def give(request: Request) -> Answer:
            with self._lock:
                self.requests.append(request)
            return answer

        return give

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10.0)

    def connection(self) -> int:
        with self._lock:
            self._connections += 1
            return self._connections - 1

    def choose(self, request: Request) -> Answer:
        operation = request.operation
        with self._lock:
            if operation != "session_heartbeat":
                self.requests.append(request)
            script = self._scripts[operation]
            chosen = script.popleft() if script else self.defaults.get(operation)
        if chosen is None:
            chosen = Answer(404, {"detail": "no route"})
        request.answer = chosen if isinstance(chosen, Answer) else chosen(request)
        return request.answer

    def now(self) -> float:
        return self._clock.time()


def _decoded(content: bytes, content_type: str) -> Any:
    if not content:
        return None
    return json.loads(content) if "json" in content_type or not content_type else content


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of: ScriptedServer

    def setup(self) -> None:
        super().setup()
        self._connection = self.server_of.connection()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        content = self.rfile.read(length)
        split = urlsplit(self.path)
        headers: Dict[str, Union[str, List[str]]] = {}
        for name in {name.lower() for name in self.headers}:
            values = self.headers.get_all(name) or []
            headers[name] = values[0] if len(values) == 1 else values
        request = Request(
            self.command,
            split.path,
            dict(parse_qsl(split.query, keep_blank_values=True)),
            headers,
            _decoded(content, self.headers.get("content-type", "")),
            self.server_of.now(),
            self._connection,
            self.path,
        )
        answer = self.server_of.choose(request)
        if answer.hold is not None:
            answer.hold()
        if answer.drop:
            self.close_connection = True
            return
        body = b"" if answer.status == 204 else answer.content()
        self.send_response_only(answer.status, "Scripted")
        kind = "application/json" if answer.packed is None else "application/x-protobuf"
        sent = {"Content-Type": kind, **answer.headers}
        for name, value in sent.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _answer


@contextlib.contextmanager
def bare_session(
    clock: Optional[Clock] = None, plugins: Tuple[object, ...] = (), **settings: Any
) -> Iterator[Tuple[ScriptedServer, Session]]:
    """Yield a session that is not open: no request was sent and no connection made."""
    made = clock or Clock()
    with ScriptedServer(made) as server:
        config = Config(base_url=server.base_url, api_key="tml-test-key", clock=made, **settings)
        observers = Observers(plugins, autoload=False, strict=True, clock=made)
        session = Session(config, observers)
        try:
            yield server, session
        finally:
            session.close()


class HoldUntilQuiet:
    """Delays responses until no further request has arrived for ``seconds``; then releases all of them.

    So it measures how many requests a client has in flight when only the client limits them. For the first
    ``expected`` requests it waits longer, because a busy machine may be slow to send them.
    """

    def __init__(self, server: ScriptedServer, seconds: float, expected: int = 0) -> None:
        self._stopping = server.stopping
        self._seconds = seconds
        self._expected = expected
        self._lock = threading.Lock()
        self._held: List[threading.Event] = []  # guarded by _lock
        self._latest = 0.0  # guarded by _lock
        #: The number of responses released together, in order.
        self.waves: List[int] = []  # guarded by _lock

    def __call__(self) -> None:
        free = threading.Event()
        with self._lock:
            self._held.append(free)
            self._latest = time.monotonic()
        while not free.is_set() and not self._stopping.is_set():
            with self._lock:
                early = not self.waves and len(self._held) < self._expected
                left = self._latest + self._seconds + (5.0 if early else 0.0) - time.monotonic()
                if left <= 0 and self._held:
                    self.waves.append(len(self._held))
                    for one in self._held:
                        one.set()
                    self._held.clear()
            free.wait(min(max(left, 0.005), 0.05))
