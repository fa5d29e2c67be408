"""Which wire a server speaks, and the limits it announces.

Detection, in this order: the server's answer to ``POST /api/v1/client/config``; then, once, a refusal of the wire in
use (415, or 404 of ``forward``). A server that says nothing gets JSON: those that know nothing else answer protobuf
with errors that look transient. What was found is remembered per base URL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Literal, Optional, Tuple

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..config import Config, Preset
from ..errors import APIStatusError
from ..types import DynamicConfigResponse, ServerConfigResponse

__all__ = ["ASKS_AS", "Known", "Protocol", "Wire", "forget"]

Wire = Literal["json", "protobuf"]

#: A reply with one of these comes from a server that takes protobuf.
_TELLING = ("fwdbwd_max_chunk_len", "proto_compress_fwdbwd", "parallel_fwdbwd_chunks")
#: Seconds for which what a server said of itself is taken as still true.
_REMEMBERED_FOR = 300.0
#: Bytes in progress at once where the server says nothing: of results being read, of chunks sent side by side.
_FETCH_BYTES, _CHUNK_BYTES = 52_428_800, 50_000_000
#: Version of the official client whose protocol each wire is.
_VERSIONS: Dict[Wire, str] = {"json": "0.7.0", "protobuf": "0.38.0"}
#: ``sdk_version`` of the question itself, which is of today's protocol.
ASKS_AS = _VERSIONS["protobuf"]


@dataclass(frozen=True)
class Known:
    """What was found out about one server."""

    wire: Wire
    announced: ServerConfigResponse
    configured: bool = False


_lock = Lock()
#: By base URL, with the time until which it holds.
_known: Dict[str, Tuple[Known, float]] = {}  # guarded by _lock


def forget(base_url: Optional[str] = None) -> None:
    """Forget what was found out about one server, or about all."""
    with _lock:
        if base_url is None:
            _known.clear()
        else:
            _known.pop(base_url, None)


class Protocol:
    """How the clients of one session talk to its server.

    Invariant: with ``Config.protocol`` "auto" the wire changes at most once after detection; otherwise never.
    """

    def __init__(self, config: Config, base_url: str, clock: Clock) -> None:
        self._config = config
        self._base_url = base_url
        self._clock = clock
        self._lock = Lock()
        self._switched = False  # guarded by _lock
        #: JSON training requests are known to be refused. Read without the lock, as ``wire``.
        self._json_refused = False
        #: What goes out. Read without the lock: a request that is refused for it is sent again.
        self.wire: Wire = "protobuf" if config.protocol == "0.38" else "json"
        self.announced = ServerConfigResponse()
        self.dynamic = DynamicConfigResponse()
        #: The server answered client/config.
        self.configured = False

    # Detection

    @property
    def asks(self) -> bool:
        """Whether client/config is to be sent: not for 0.7, and not to a server that is known."""
        return self._config.protocol != "0.7"

    def recall(self) -> bool:
        """Take over what is known of this server; False if nothing is."""
        with _lock:
            known, until = _known.get(self._base_url, (None, 0.0))
        if known is None or until <= self._clock.time():
            return False
        self.take_over(known)
        return True

    def known(self) -> Known:
        """What another session with this server may start from."""
        return Known(self.wire, self.announced, self.configured)

    def take_over(self, known: Known) -> None:
        """Start from what another session found out."""
        self.announced, self.configured = known.announced, known.configured
        if self._config.protocol == "auto":
            self.wire = known.wire

    def heard(self, announced: Optional[ServerConfigResponse]) -> None:
        """Take over the reply of client/config; None: the server has no such endpoint."""
        if announced is not None:
            self.announced, self.configured = announced, True
            if self._config.protocol == "auto" and any(
                getattr(announced, name) is not None for name in _TELLING
            ):
                self.wire = "protobuf"
        self._remember()

    def switch(self, error: APIStatusError, wire: Wire, forward: bool) -> bool:
        """After a refusal of a request sent on ``wire``: whether to send it again, on the other one.

        Args:
            forward: It was a forward pass, for which the JSON wire has an endpoint of its own.
        """
        if self._config.protocol != "auto":
            return False
        refused = error.status_code == 415 or (error.status_code == 404 and forward and _no_route(error))
        if not refused or (wire == "protobuf" and error.status_code == 404):
            return False
        with self._lock:
            if wire == "json":
                self._json_refused = True
            if self.wire != wire:
                return True  # Another thread found out first, or JSON was only tried.
            if self._switched:
                return False
            self._switched = True
            self.wire = "protobuf" if wire == "json" else "json"
        self._remember()
        return True

    def _remember(self) -> None:
        if self._config.protocol != "auto":
            return
        with _lock:
            _known[self._base_url] = self.known(), self._clock.time() + _REMEMBERED_FOR

    # What follows from it

    @property
    def modern(self) -> bool:
        """Whether today's protocol is spoken, with what belongs to it beside protobuf."""
        return self.wire == "protobuf"

    @property
    def tries_json(self) -> bool:
        """Whether a client that lacks what protobuf takes may still send its training requests as JSON."""
        return self._config.protocol == "auto" and not self._json_refused

    @property
    def version(self) -> str:
        """What to announce as ``sdk_version``: the user's choice, else that of the protocol spoken."""
        chosen = self._config.sdk_version
        return _VERSIONS[self.wire] if chosen == _VERSIONS["json"] else chosen

    @property
    def parallel_chunks(self) -> bool:
        """Whether the server takes the chunks of a batch in any order; silence means no."""
        return self.modern and self.announced.parallel_fwdbwd_chunks is True

    @property
    def compressed(self) -> bool:
        return self.modern and self.announced.proto_compress_fwdbwd is True

    @property
    def creates_by_loading(self) -> bool:
        """Whether loading weights may make the model; among today's servers only some older ones say no."""
        return self.modern and self.announced.create_model_via_load_weights is not False

    @property
    def max_chunk_datums(self) -> int:
        return self._limit("max_chunk_datums", self.announced.fwdbwd_max_chunk_len)

    @property
    def max_chunk_bytes(self) -> int:
        return self._limit("max_chunk_bytes", self.announced.fwdbwd_max_chunk_bytes_count)

    @property
    def dispatch_bytes(self) -> int:
        return self._limit("dispatch_bytes", self.announced.sample_dispatch_bytes_semaphore_size)

    @property
    def fetch_bytes(self) -> int:
        """Bytes of announced results that may be read at once."""
        return _budget(self.announced.inflight_response_bytes_semaphore_size, _FETCH_BYTES)

    @property
    def chunk_dispatch_bytes(self) -> int:
        """Estimated bytes of chunks that may be sent side by side."""
        return _budget(self.announced.fwdbwd_dispatch_bytes_semaphore_size, _CHUNK_BYTES)

    @property
    def max_samples(self) -> Optional[int]:
        """Samples in progress at once that the server asks for; None: it does not say."""
        return self.announced.sample_max_concurrent_requests or None

    def _limit(self, setting: str, announced: Optional[int]) -> int:
        """The user's number if there is one, else the server's, else the default."""
        own: int = getattr(self._config, setting)
        return announced if announced and isinstance(own, Preset) else int(own)

    def status(self) -> Dict[str, Any]:
        """For ``service.status()``."""
        return {
            "wire": self.wire,
            "chosen": self._config.protocol,
            "sdk_version": self.version,
            "server_config": {
                name: value for name, value in vars(self.announced).items() if value is not None
            },
            "limits": {
                "max_chunk_datums": self.max_chunk_datums,
                "max_chunk_bytes": self.max_chunk_bytes,
                "dispatch_bytes": self.dispatch_bytes,
                "fetch_bytes": self.fetch_bytes,
                "chunk_dispatch_bytes": self.chunk_dispatch_bytes,
                "max_samples": self.max_samples,
            },
        }


def _budget(announced: Optional[int], default: int) -> int:
    # One byte lets a piece of any size pass, alone.
    return default if announced is None else max(announced, 1)


def _no_route(error: APIStatusError) -> bool:
    """Whether a 404 is about the endpoint, not about the model."""
    body: Tuple[Any, ...] = (error.body,)
    if isinstance(error.body, dict):
        body = tuple(error.body.get(key) for key in ("detail", "error", "message") if key in error.body)
    text = " ".join(str(part) for part in body).strip().lower()
    return text in ("", "not found", "404 not found") or "<html" in text or "404 page not found" in text
