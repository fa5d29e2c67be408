"""The checks of ``tinkex-sync doctor``, in order: from the configuration to the queue."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Tuple
from urllib.parse import urlsplit

from ..output import without_secrets
from .findings import Finding, diagnose_connection, diagnose_session

if TYPE_CHECKING:
    from ...config import Config
    from ...http.transport import Transport
    from ...session import Session

__all__ = ["CHECKS", "Check", "CheckContext"]


@dataclass
class CheckContext:
    """The input of the checks, and the results that later checks use. Used by one thread."""

    base_url: Optional[str]
    #: A model to sample one token from. None: the queue is not checked.
    model: Optional[str]
    #: Longest time for each response, in seconds.
    timeout: float
    config: Optional[Config] = None
    transport: Optional[Transport] = None
    session: Optional[Session] = None
    #: Host and port to connect to: those of the server, or of the proxy.
    address: Tuple[str, int] = ("", 0)
    proxy: Optional[str] = None
    #: The results of ``socket.getaddrinfo``.
    addresses: List[Any] = field(default_factory=list)
    #: Functions that release what the checks opened.
    cleanups: List[Callable[[], Any]] = field(default_factory=list)

    def close(self) -> None:
        """Release what the checks opened, in reverse order."""
        for cleanup in reversed(self.cleanups):
            cleanup()

    @property
    def target(self) -> str:
        """The URL of the server without a user name and password."""
        assert self.config is not None
        return without_secrets(self.config.base_url)


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    run: Callable[[CheckContext], Finding]
    #: Whether the later checks depend on it.
    is_required: bool = True


def check_configuration(context: CheckContext) -> Finding:
    """Read the settings and create a transport from them."""
    from ...clients.service import resolve_endpoint
    from ...concurrency.timer import Timer
    from ...config import Config
    from ...errors import ConfigError, MissingExtraError
    from ...http.transport import Transport

    try:
        config = resolve_endpoint(Config.from_env(base_url=context.base_url))
        timer = Timer(config.clock)
        context.cleanups.append(timer.close)
        # No retries: the user waits, and the first error is the one to report.
        context.config = config.replace(
            max_retries=0,
            retry_for=context.timeout,
            connect_timeout=min(config.connect_timeout, context.timeout),
            read_timeout=context.timeout,
            first_contact_timeout=context.timeout,
            heartbeat_timeout=context.timeout,
        )
        context.transport = Transport(context.config, timer)
        context.cleanups.append(context.transport.close)
    except (ConfigError, MissingExtraError, OSError) as error:
        return Finding("failed", str(error), "Correct the argument or the environment variable.")
    return Finding("ok", f"server {context.target}, API key given, protocol version {config.sdk_version}")


def check_proxy(context: CheckContext) -> Finding:
    """Find out whether a proxy is used, and set the address to connect to."""
    from requests.utils import select_proxy

    assert context.config is not None
    assert context.transport is not None
    url = urlsplit(context.config.base_url)
    context.address = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
    selected = select_proxy(context.config.base_url, context.transport.proxies)
    if not selected:
        return Finding("ok", "no proxy is used for this server")
    context.proxy = without_secrets(selected if "://" in selected else f"http://{selected}")
    parts = urlsplit(context.proxy)
    try:
        port = parts.port or {"https": 443, "socks5": 1080, "socks5h": 1080}.get(parts.scheme, 80)
    except ValueError:
        port = 0
    if not parts.hostname or not port:
        return Finding(
            "failed",
            f"{context.proxy!r} is not the address of a proxy",
            "Set HTTPS_PROXY or HTTP_PROXY to a URL such as http://proxy:3128, or unset it.",
        )
    context.address = (parts.hostname, port)
    return Finding("ok", f"{context.proxy} is used for {url.hostname}")


def _peer(context: CheckContext) -> str:
    return "the proxy" if context.proxy else "the server"


def check_dns(context: CheckContext) -> Finding:
    """Resolve the name of the server or of the proxy."""
    host, port = context.address
    try:
        context.addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        remedy = "Check its spelling in TINKER_BASE_URL, and the name resolution of this machine."
        if context.proxy:
            remedy = "Check HTTPS_PROXY or HTTP_PROXY. To use no proxy, unset it or list the server in NO_PROXY."
        return Finding("failed", f"{host!r}, the name of {_peer(context)}, cannot be resolved: {error}", remedy)
    found = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in context.addresses))
    return Finding("ok", f"{host} is an address" if host in found else f"{host} is {found}")


def check_tcp(context: CheckContext) -> Finding:
    """Connect to the server or to the proxy."""
    assert context.config is not None
    host, port = context.address
    peer = _peer(context)
    failure: Optional[OSError] = None
    for family, kind, protocol, _, address in context.addresses:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(context.config.connect_timeout)
            try:
                sock.connect(address)
                return Finding("ok", f"{peer} accepts connections at {host} port {port}")
            except OSError as error:
                failure = error
    if isinstance(failure, ConnectionRefusedError):
        text = f"no program listens at {host} port {port}: the connection was refused"
        remedy = f"Check that {peer} runs, and that the port is right."
    elif isinstance(failure, socket.timeout):
        text = f"no response from {host} port {port} within {context.config.connect_timeout:g} s"
        remedy = "A firewall may drop the packets: check the address and the VPN, and whether a proxy is needed."
    else:
        text = f"{host} port {port} cannot be reached: {failure}"
        remedy = "Check the network of this machine, and the address."
    return Finding("failed", text, remedy)


def check_http(context: CheckContext) -> Finding:
    """Send one request as the client does, which covers TLS, the proxy and HTTP. GET /api/v1/healthz."""
    from ...errors import APIConnectionError, APIStatusError, DeadlineExceeded
    from ...http.endpoints import ENDPOINTS
    from ...http.request import Request

    assert context.transport is not None
    request = Request(replace(ENDPOINTS["healthz"], read_timeout=context.timeout))
    try:
        response = context.transport.send(request, {}, None)
    except (APIConnectionError, APIStatusError, DeadlineExceeded) as error:
        return diagnose_connection(error, context.target, context.proxy, context.timeout)
    return Finding("ok", f"response in {response.elapsed * 1000:.0f} ms")


def check_session(context: CheckContext) -> Finding:
    """Check the key and the version by creating a session as the client does. POST /api/v1/create_session."""
    from ...errors import TinkexError
    from ...plugins.registry import Observers
    from ...protocol.protobuf_schema import reads_protobuf
    from ...session import Session

    assert context.config is not None
    session = Session(context.config, Observers(autoload=False))
    context.cleanups.append(session.close)
    try:
        session.open()
    except (TinkexError, OSError) as error:
        return diagnose_session(error, context.config)
    context.session = session
    status = session.negotiation.status()
    limits = status["limits"]
    text = (
        f"{session.session_id} created, version {status['sdk_version']} over {status['wire']}; limits:"
        f" {limits['max_chunk_datums']} datums and {limits['max_chunk_bytes']:,} bytes per chunk,"
        f" {limits['dispatch_bytes']:,} bytes of samples in dispatch"
    )
    if limits["max_samples"] is not None:
        text += f", {limits['max_samples']:,} samples in progress"
    if session.capabilities.supports_protobuf and not reads_protobuf():
        text += "; training may need protobuf, which is not installed: pip install 'tinkex-sync[proto]'"
    return Finding("ok", text, data=status)


def check_heartbeat(context: CheckContext) -> Finding:
    """Send a heartbeat of the session. POST /api/v1/session_heartbeat."""
    from ...errors import TinkexError
    from ...http.request import Request
    from ...types import SessionHeartbeatRequest

    assert context.session is not None
    session = context.session
    started = session.clock.time()
    try:
        session.call(Request("session_heartbeat", SessionHeartbeatRequest(session.session_id)))
    except (TinkexError, OSError) as error:
        return Finding(
            "failed",
            f"the heartbeat of the session failed: {error}",
            "This server ends sessions that are in use: inform its operator.",
        )
    return Finding("ok", f"response in {(session.clock.time() - started) * 1000:.0f} ms")


def check_endpoints(context: CheckContext) -> Finding:
    """Find out which endpoints the server does not have."""
    from .endpoint_probe import probe_endpoints

    assert context.session is not None
    result = probe_endpoints(context.session, context.timeout)
    total = result.requested
    if not result.missing and result.unanswered:
        text = f"{total - result.unanswered} of {total} exist; the others did not respond and may exist"
        return Finding("ok", text)
    if not result.missing:
        return Finding("ok", f"all {total} exist")
    listed = "; ".join(f"{row.path} (for {row.features})" for row in result.missing)
    return Finding(
        "failed",
        f"{len(result.missing)} of {total} are missing: {listed}",
        "All other features work. If you need these, update the server or use another one.",
        data={row.path: row.features for row in result.missing},
    )


def check_queue(context: CheckContext) -> Finding:
    """Sample one token, if a model is given. POST /api/v1/asample."""
    from ...clients.sampling import NewSampler
    from ...errors import DeadlineExceeded, TinkexError
    from ...types import ModelInput, SamplingParams

    assert context.session is not None
    session, model = context.session, context.model
    if model is None:
        return Finding("skipped", "give --model NAME to sample one token and measure the time")
    deadline = session.clock.time() + context.timeout
    path = model if model.startswith("tinker://") else None
    try:
        with session.calling(session.source, "create_sampling_client") as call:
            sampler = NewSampler(path, None if path else model).open(session, call, deadline)
        started = session.clock.time()
        params = SamplingParams(max_tokens=1)
        sampler.sample(ModelInput.from_ints([1]), 1, params, timeout=max(0.1, deadline - started))
    except DeadlineExceeded as error:
        state = f"its queue state is {error.queue_state}" if error.queue_state else "it returns no queue state"
        return Finding(
            "failed",
            f"no token from {model} within {context.timeout:g} s; {state}",
            "The server is busy or out of capacity: try later, or with a longer --timeout.",
        )
    except (TinkexError, ValueError) as error:
        return Finding("failed", f"no token from {model}: {error}", "Check the name of the model.")
    return Finding("ok", f"one token from {model} took {(session.clock.time() - started) * 1000:.0f} ms")


#: In this order. A check comes after those that it depends on.
CHECKS: Tuple[Check, ...] = (
    Check("configuration", check_configuration),
    Check("proxy", check_proxy),
    Check("DNS", check_dns),
    Check("TCP", check_tcp),
    Check("TLS and HTTP", check_http),
    Check("key and version", check_session),
    Check("heartbeat", check_heartbeat, is_required=False),
    Check("endpoints", check_endpoints, is_required=False),
    Check("queue", check_queue),
)
