"""Negotiation of the protocol version with a server, and the capabilities that follow from it.

The client sends ``POST /api/v1/client/config`` before it creates a session. A response with chunk limits selects
protocol 0.38. If the endpoint is missing, or its response contains no chunk limits, the client uses protocol 0.7.
The reason is that servers of 0.7 return errors for protobuf that cannot be distinguished from transient errors. If the
server later rejects the encoding of a training request (415, or 404 of ``forward``), the client switches the protocol
once. The result is cached per base URL.

A new protocol version requires a new row in :data:`PROTOCOL_VERSIONS`. A new feature requires a new field of
:class:`Capabilities`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Dict, Optional, Set, Tuple, TypeVar

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock, ModuleLock
from ..config import Config, Preset
from ..errors import APIStatusError
from ..logs import get_logger
from ..types import DynamicConfigResponse, ServerConfigResponse
from ..types.decoders import shorten
from .wire import Body, JsonWire, ProtobufWire, WireFormat

_log = get_logger(__name__)
_Settings = TypeVar("_Settings", ServerConfigResponse, DynamicConfigResponse)


@dataclass(frozen=True)
class ProtocolVersion:
    """One protocol version that the client can use."""

    #: Value of ``Config.protocol``.
    name: str
    #: Version of the official client that defines it, sent as ``sdk_version``.
    sdk_version: str
    #: Names of loss functions that may be sent. Not every server has all of them.
    losses: Tuple[str, ...]


_LOSSES_OF_0_7 = ("cross_entropy", "importance_sampling", "ppo", "cispo", "dro")
#: By name, oldest first. The last one is negotiated.
PROTOCOL_VERSIONS: Dict[str, ProtocolVersion] = {
    row.name: row
    for row in (
        ProtocolVersion("0.7", "0.7.0", _LOSSES_OF_0_7),
        ProtocolVersion("0.38", "0.38.0", (*_LOSSES_OF_0_7, "gspo", "stable_reinforce", "custom")),
    )
}
_OLDEST, _NEWEST = list(PROTOCOL_VERSIONS)[0], list(PROTOCOL_VERSIONS)[-1]

#: ``sdk_version`` of client/config, an endpoint of the newest protocol version.
CONFIG_SDK_VERSION = PROTOCOL_VERSIONS[_NEWEST].sdk_version

#: A response of client/config with one of these fields comes from a server that accepts protobuf.
_CHUNK_SETTINGS = ("fwdbwd_max_chunk_len", "proto_compress_fwdbwd", "parallel_fwdbwd_chunks")
#: Seconds for which the result of a negotiation is used for new sessions.
_CACHED_FOR = 300.0
#: Budgets in bytes if the server returns none: of results being read, of chunks sent in parallel.
_FETCH_BYTES, _CHUNK_DISPATCH_BYTES = 52_428_800, 50_000_000
#: Limits and times of servers above this are ignored, as negative ones are. Every smaller integer is exact as a float.
_LARGEST_LIMIT = 1 << 53


def _feature(since: str, setting: Optional[str] = None, default: bool = False) -> Any:
    """Declare a feature of the protocol versions from ``since`` on.

    Args:
        since: ``sdk_version`` of the first protocol version that has it.
        setting: Field of the server's configuration that turns it on or off; None: it is always on.
        default: Whether it is on if the server's configuration does not contain the setting.
    """
    return field(metadata={"since": since, "setting": setting, "default": default})


@dataclass(frozen=True)
class Capabilities:
    """The protocol version, features and limits that a client uses with its server. Immutable.

    A session's capabilities are replaced as a whole when they change: by the response of client/config or
    client/dynamic_config, and by the one switch of the protocol version.
    """

    #: Name of the protocol version.
    protocol: str
    #: Encodes batches, decodes and merges results.
    wire: WireFormat = field(repr=False)
    #: Sent as ``sdk_version``: the user's value, or that of the protocol version.
    sdk_version: str
    #: Names of loss functions that may be sent.
    losses: Tuple[str, ...]

    #: The key to exchange is the output of the user's credential command.
    prefers_credential_command: bool
    #: The server has settings that change while a client runs (``client/dynamic_config``).
    has_dynamic_config: bool
    #: A sample that was sent can be cancelled (``cancel_future``).
    cancels_samples: bool

    # Limits

    #: Datums and estimated bytes of one chunk.
    max_chunk_datums: int
    max_chunk_bytes: int
    #: Estimated bytes of samples being dispatched.
    dispatch_bytes: int
    #: Bytes of results being read, where their sizes are known.
    fetch_bytes: int
    #: Estimated bytes of chunks being sent in parallel.
    chunk_dispatch_bytes: int
    #: Samples in progress per sampling client; None: the server sets no limit.
    max_samples: Optional[int]
    #: Cancellations of samples sent concurrently.
    max_cancellations: int
    #: Seconds that calls wait while the server requires payment (402).
    payment_wait_limit: float
    #: Seconds between requests of the dynamic configuration.
    refresh_interval: float

    # Features. Those above depend on more than a protocol version and one setting.

    #: Training requests are encoded as protobuf, and results may be.
    supports_protobuf: bool = _feature("0.38.0")
    #: Chunks of a batch may arrive in any order; the server orders them by ``seq_id``.
    parallel_chunks: bool = _feature("0.38.0", "parallel_fwdbwd_chunks")
    #: Protobuf batches may be compressed with zstd.
    compressed_batches: bool = _feature("0.38.0", "proto_compress_fwdbwd")
    #: ``load_weights`` without a model id creates the model. Only some servers turn it off.
    creates_models_by_loading: bool = _feature("0.38.0", "create_model_via_load_weights", default=True)
    #: A poll may return the size of a result before the result.
    metadata_only_polls: bool = _feature("0.38.0")
    #: One poll serves all samples of a sampling session (``retrieve_futures``).
    bulk_polls: bool = _feature("0.38.0", "sample_use_retrieve_futures")
    #: A valid poll may fail with 400 now and then, and is sent again.
    retries_bad_polls: bool = _feature("0.38.0")
    #: Responses to polls may contain unknown queue states, and reasons without a state.
    open_queue_states: bool = _feature("0.38.0")
    #: A copy of a sampling client has a range of ``seq_id`` of its own, by a number of its own.
    numbers_sampler_copies: bool = _feature("0.38.0")
    #: The server assigns that number (``join_sampling_session``); otherwise it is random.
    joins_sampling_sessions: bool = _feature("0.38.0", "sample_join_sampling_session")
    #: The end of a session is reported with its reason (``sessions/ID/finish``).
    finishes_sessions: bool = _feature("0.38.0")
    #: Telemetry identifies the process.
    identifies_processes: bool = _feature("0.38.0")
    #: The forward pass of a custom loss is sent targets and weights only, and ``loss:sum`` of the result is the custom
    #: loss. The server's loss becomes ``surrogate_loss:sum``.
    reports_custom_loss: bool = _feature("0.38.0")
    #: The API key is exchanged for a token (``auth/token``).
    exchanges_api_key: bool = _feature("0.7.0", "pjwt_auth_enabled")


@dataclass(frozen=True)
class Negotiated:
    """The result of a negotiation, which other sessions with the same server start from. Immutable."""

    #: Name of the protocol version.
    protocol: str
    server_config: ServerConfigResponse = field(default_factory=ServerConfigResponse)
    #: Whether the server has the endpoint client/config.
    has_config: bool = False


_cache_lock = ModuleLock()
#: By base URL, with the time until which it is valid.
_cache: Dict[str, Tuple[Negotiated, float]] = {}  # guarded by _cache_lock


def forget() -> None:
    """Remove the cached results for all servers."""
    with _cache_lock:
        _cache.clear()


class Negotiation:
    """Keeps the capabilities of one session up to date. Thread-safe.

    Invariant: with ``Config.protocol`` "auto" the protocol version changes at most once after client/config; otherwise
    never.
    """

    def __init__(self, config: Config, base_url: str, clock: Clock) -> None:
        self._config = config
        self._base_url = base_url
        self._clock = clock
        self._is_automatic = config.protocol == "auto"
        self._lock = Lock()
        self._has_switched = False  # guarded by _lock
        #: Whether the server has refused a training request in JSON.
        self._has_refused_json = False  # guarded by _lock
        #: Names of settings whose value was ignored; each is logged once.
        self._ignored: Set[str] = set()  # guarded by _lock
        protocol = _OLDEST if self._is_automatic else config.protocol
        # The next three are replaced under _lock and read without it.
        #: The result, from which another session with this server may start.
        self.negotiated = Negotiated(protocol)
        #: The last response of client/dynamic_config.
        self.dynamic_config = DynamicConfigResponse()
        #: If a request was encoded by outdated capabilities, it is refused and sent again.
        self.capabilities = self._current()

    @property
    def is_required(self) -> bool:
        """Whether client/config must be sent, unless the result is cached: not for protocol 0.7."""
        return self._config.protocol != _OLDEST

    def load_cached(self) -> bool:
        """Apply the cached result for this server. Returns whether there is one."""
        with _cache_lock:
            negotiated, until = _cache.get(self._base_url, (None, 0.0))
        if negotiated is None or until <= self._clock.time():
            return False
        self.restore(negotiated)
        return True

    def restore(self, negotiated: Negotiated) -> None:
        """Apply the result of another session's negotiation."""
        protocol = negotiated.protocol if self._is_automatic else self.capabilities.protocol
        self._update(replace(negotiated, protocol=protocol))

    def apply_config(self, response: Optional[ServerConfigResponse]) -> None:
        """Apply the response of client/config; None: the server does not have the endpoint."""
        if response is not None:
            protocol = self.capabilities.protocol
            if self._is_automatic and any(getattr(response, name) is not None for name in _CHUNK_SETTINGS):
                protocol = _NEWEST
            self._update(Negotiated(protocol, self._within_bounds(response), has_config=True))
        self._store()

    def apply_dynamic_config(self, response: DynamicConfigResponse) -> None:
        """Apply the response of client/dynamic_config."""
        response = self._within_bounds(response)
        with self._lock:
            self.dynamic_config = response
            self.capabilities = self._current()

    def _within_bounds(self, response: _Settings) -> _Settings:
        """Return a response with the default for each number that is negative or too large, logged once."""
        declared = {name: info.default for name, info in response.model_fields.items()}
        numbers = {name: value for name in declared if isinstance(value := getattr(response, name), int)}
        ignored = {name: value for name, value in numbers.items() if not 0 <= value <= _LARGEST_LIMIT}
        with self._lock:
            unlogged = ignored.keys() - self._ignored
            self._ignored |= unlogged
        if unlogged:
            found = " ".join(f"{name}={shorten(ignored[name])}" for name in sorted(unlogged))
            _log.warning("Settings of the server are out of range and ignored: %s", found)
        return replace(response, **{name: declared[name] for name in ignored}) if ignored else response

    def switch(self, error: APIStatusError, body: Body) -> bool:
        """Switch the protocol version if the server has refused the encoding of ``body``.

        A server that has no endpoint for forward passes in JSON (404) refuses JSON, too.

        Returns:
            Whether the request must be encoded and sent again.
        """
        is_refused = error.status_code == 415 or (
            error.status_code == 404 and (body.endpoint, body.wire) == ("forward", "json") and _no_route(error)
        )
        if not (self._is_automatic and body.wire and is_refused):
            return False
        with self._lock:
            self._has_refused_json = self._has_refused_json or body.wire == "json"
            # If not: another thread has switched, or JSON was sent because the extra "proto" is missing.
            switches = self.capabilities.wire.name == body.wire
            if switches and self._has_switched:
                return False
            if switches:
                self._has_switched = True
                protocol = _NEWEST if body.wire == "json" else _OLDEST
                self.negotiated = replace(self.negotiated, protocol=protocol)
            self.capabilities = self._current()
        if switches:
            self._store()
        return True

    def _update(self, negotiated: Negotiated) -> None:
        with self._lock:
            self.negotiated = negotiated
            self.capabilities = self._current()

    def _store(self) -> None:
        if self._is_automatic:
            with _cache_lock:
                _cache[self._base_url] = self.negotiated, self._clock.time() + _CACHED_FOR

    def _current(self) -> Capabilities:
        """Compute the capabilities. Call with ``_lock`` held."""
        config, server, dynamic = self._config, self.negotiated.server_config, self.dynamic_config
        version = PROTOCOL_VERSIONS[self.negotiated.protocol]
        features = _features(version, server)
        wire: WireFormat = JsonWire()
        if features["supports_protobuf"]:
            may_send_json = self._is_automatic and not self._has_refused_json
            wire = ProtobufWire(features["compressed_batches"], may_send_json)
        payment_wait: Optional[float] = server.billing_exception_max_pause_duration_sec
        if payment_wait is None or config.billing_pause != Config.billing_pause:
            payment_wait = config.billing_pause
        has_default_version = config.sdk_version == PROTOCOL_VERSIONS[_OLDEST].sdk_version
        return Capabilities(
            protocol=version.name,
            wire=wire,
            sdk_version=version.sdk_version if has_default_version else config.sdk_version,
            losses=version.losses,
            prefers_credential_command=server.credential_default_source == "credential_cmd",
            has_dynamic_config=features["supports_protobuf"] and self.negotiated.has_config,
            payment_wait_limit=float(payment_wait),
            cancels_samples=dynamic.sample_cancel_enabled,
            max_cancellations=max(dynamic.sample_cancel_max_batch_size, 1),
            refresh_interval=float(dynamic.refresh_interval_sec),
            **features,
            **_limits(config, server),
        )

    def status(self) -> Dict[str, Any]:
        """Return the entry of ``service.status()``."""
        capabilities, server_config = self.capabilities, self.negotiated.server_config
        return {
            "wire": capabilities.wire.name,
            "chosen": self._config.protocol,
            "sdk_version": capabilities.sdk_version,
            "server_config": {name: value for name, value in vars(server_config).items() if value is not None},
            "limits": _limits(self._config, server_config),
        }


def _features(version: ProtocolVersion, server: ServerConfigResponse) -> Dict[str, bool]:
    """Return the features of a server by name, from the declarations in :class:`Capabilities`."""
    versions = [row.sdk_version for row in PROTOCOL_VERSIONS.values()]
    found = {}
    for one in fields(Capabilities):
        if "since" in one.metadata:
            setting = one.metadata["setting"]
            value = True if setting is None else getattr(server, setting)
            is_known = versions.index(one.metadata["since"]) <= versions.index(version.sdk_version)
            found[one.name] = is_known and (one.metadata["default"] if value is None else value)
    return found


def _limits(config: Config, server: ServerConfigResponse) -> Dict[str, Any]:
    """Return the limits by name: the user's value if there is one, else the server's, else the default."""

    def limit(setting: str, value: Optional[int]) -> int:
        own: int = getattr(config, setting)
        return value if value and isinstance(own, Preset) else int(own)

    return {
        "max_chunk_datums": limit("max_chunk_datums", server.fwdbwd_max_chunk_len),
        "max_chunk_bytes": limit("max_chunk_bytes", server.fwdbwd_max_chunk_bytes_count),
        "dispatch_bytes": limit("dispatch_bytes", server.sample_dispatch_bytes_semaphore_size),
        "fetch_bytes": _budget(server.inflight_response_bytes_semaphore_size, _FETCH_BYTES),
        "chunk_dispatch_bytes": _budget(server.fwdbwd_dispatch_bytes_semaphore_size, _CHUNK_DISPATCH_BYTES),
        "max_samples": server.sample_max_concurrent_requests or None,
    }


def _budget(size: Optional[int], default: int) -> int:
    # A budget of one byte admits a piece of any size, alone.
    return default if size is None else max(size, 1)


def _no_route(error: APIStatusError) -> bool:
    """Return whether a 404 is about the endpoint, not about the model."""
    body = error.body
    if isinstance(body, dict):
        body = " ".join(str(body[key]) for key in ("detail", "error", "message") if key in body)
    text = str(body).strip().lower()
    return text in ("", "not found", "404 not found") or "<html" in text or "404 page not found" in text
