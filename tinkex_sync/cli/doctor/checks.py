"""The checks of ``tinkex-sync doctor``, from the settings up to the queue: a list, each with a verdict."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from ...http.request import Request
from .findings import Finding, from_connecting, from_session

if TYPE_CHECKING:
    from ...config import Config
    from ...http.transport import Transport
    from ...session import Session

__all__ = ["CHECKS", "Check", "Patient"]


@dataclass
class Patient:
    """What the checks look at, and what they found out for those after them."""

    base_url: Optional[str]
    #: Draw one token from it, to see the queue; None: that is not checked.
    model: Optional[str]
    #: Seconds for each request.
    patience: float
    config: Optional[Config] = None
    transport: Optional[Transport] = None
    session: Optional[Session] = None
    #: Host and port to connect to: the server's, or the proxy's.
    address: Tuple[str, int] = ("", 0)
    proxy: Optional[str] = None
    addresses: List[Any] = field(default_factory=list)
    to_close: List[Callable[[], Any]] = field(default_factory=list)

    def close(self) -> None:
        """End what the checks began."""
        for close in reversed(self.to_close):
            close()

    @property
    def target(self) -> str:
        """The server, without a password that stands in its URL."""
        assert self.config is not None
        return _bare(self.config.base_url)


@dataclass(frozen=True)
class Check:
    """One stage."""

    name: str
    run: Callable[[Patient], Finding]
    #: Whether those after it mean nothing once it failed.
    needed: bool = True


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def configuration(patient: Patient) -> Finding:
    from ...clients.service import resolve_endpoint
    from ...concurrency.timer import Timer
    from ...config import Config
    from ...errors import ConfigError, MissingExtraError
    from ...http.transport import Transport

    try:
        config = resolve_endpoint(Config.from_env(base_url=patient.base_url))
        timer = Timer(config.clock)
        patient.to_close.append(timer.close)
        # One try each: a person is waiting, and wants to know of the first failure.
        patient.config = config.replace(
            max_retries=0,
            retry_for=patient.patience,
            connect_timeout=min(config.connect_timeout, patient.patience),
            read_timeout=patient.patience,
            first_contact_timeout=patient.patience,
            heartbeat_timeout=patient.patience,
        )
        patient.transport = Transport(patient.config, timer)
        patient.to_close.append(patient.transport.close)
    except (ConfigError, MissingExtraError, OSError) as error:
        return Finding("failed", str(error), "Set it right, as an argument or in the environment.")
    return Finding("ok", f"server {patient.target}, API key given, announced version {config.sdk_version}")


def proxy(patient: Patient) -> Finding:
    from requests.utils import select_proxy

    assert patient.config is not None
    assert patient.transport is not None
    url = urlsplit(patient.config.base_url)
    patient.address = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
    chosen = select_proxy(patient.config.base_url, patient.transport.proxies)
    if not chosen:
        return Finding("ok", "none is used for this server")
    patient.proxy = _bare(chosen if "://" in chosen else f"http://{chosen}")
    parts = urlsplit(patient.proxy)
    try:
        port = parts.port or {"https": 443, "socks5": 1080, "socks5h": 1080}.get(parts.scheme, 80)
    except ValueError:
        port = 0
    if not parts.hostname or not port:
        return Finding(
            "failed",
            f"{patient.proxy!r} is not the address of a proxy",
            "Set HTTPS_PROXY or HTTP_PROXY to a URL such as http://proxy:3128, or unset it.",
        )
    patient.address = (parts.hostname, port)
    return Finding("ok", f"{patient.proxy} leads to {url.hostname}")


def dns(patient: Patient) -> Finding:
    host, port = patient.address
    whose = "the proxy" if patient.proxy else "the server"
    try:
        patient.addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        remedy = "Check its spelling in TINKER_BASE_URL, and that this machine's name resolution works."
        if patient.proxy:
            remedy = (
                "Check HTTPS_PROXY or HTTP_PROXY; unset it, or list the server in NO_PROXY, to go without."
            )
        return Finding("failed", f"{host!r}, the name of {whose}, cannot be resolved: {error}", remedy)
    found = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in patient.addresses))
    return Finding("ok", f"{host} is {found}" if host not in found else f"{host} is an address")


def tcp(patient: Patient) -> Finding:
    assert patient.config is not None
    host, port = patient.address
    whose = "the proxy" if patient.proxy else "the server"
    failure: Optional[OSError] = None
    for family, kind, protocol, _, address in patient.addresses:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(patient.config.connect_timeout)
            try:
                sock.connect(address)
                return Finding("ok", f"{whose} takes connections at {host} port {port}")
            except OSError as error:
                failure = error
    if isinstance(failure, ConnectionRefusedError):
        what = f"nothing listens at {host} port {port}: the connection was refused"
        remedy = f"Check that {whose} runs, and that the port is right."
    elif isinstance(failure, socket.timeout):
        what = f"no answer from {host} port {port} within {patient.config.connect_timeout:g} s"
        remedy = "A firewall may drop the packets: check address, VPN, and whether a proxy is needed here."
    else:
        what = f"{host} port {port} cannot be reached: {failure}"
        remedy = "Check this machine's network, and the address."
    return Finding("failed", what, remedy)


def http(patient: Patient) -> Finding:
    """TLS, a proxy's consent and HTTP in one request, as the client makes it. GET /api/v1/healthz."""
    from ...errors import APIConnectionError, APIStatusError, DeadlineExceeded
    from ...http.endpoints import ENDPOINTS
    from ...http.request import Request

    assert patient.config is not None
    assert patient.transport is not None
    try:
        reply = patient.transport.send(
            Request(replace(ENDPOINTS["healthz"], read_timeout=patient.patience)), {}, None
        )
    except (APIConnectionError, APIStatusError, DeadlineExceeded) as error:
        return from_connecting(error, patient.target, patient.proxy, patient.patience)
    return Finding("ok", f"answered in {reply.elapsed * 1000:.0f} ms")


def session(patient: Patient) -> Finding:
    """Key and version, by opening a session as the client does. POST /api/v1/create_session."""
    from ...errors import TinkexError
    from ...plugins.registry import Observers
    from ...protocol.json_wire import reads_protobuf
    from ...session import Session

    assert patient.config is not None
    opened = Session(patient.config, Observers(autoload=False))
    patient.to_close.append(opened.close)
    try:
        opened.open()
    except (TinkexError, OSError) as error:
        return from_session(error, patient.config)
    patient.session = opened
    spoken = opened.negotiation.status()
    limits = spoken["limits"]
    finding = (
        f"{opened.session_id} opened, version {spoken['sdk_version']} over {spoken['wire']}; chunks of at most"
        f" {limits['max_chunk_datums']} datums and {limits['max_chunk_bytes']:,} bytes; samples sent at once of at most"
        f" {limits['dispatch_bytes']:,} bytes"
    )
    if limits["max_samples"] is not None:
        finding += f", {limits['max_samples']:,} in progress"
    if opened.capabilities.supports_protobuf and not reads_protobuf():
        finding += (
            "; protobuf is not installed here, which training may need: pip install 'tinkex-sync[proto]'"
        )
    return Finding("ok", finding, data=spoken)


def heartbeat(patient: Patient) -> Finding:
    """POST /api/v1/session_heartbeat."""
    from ...errors import TinkexError

    assert patient.session is not None
    began = patient.session.clock.time()
    try:
        patient.session.call(Request("session_heartbeat", {"session_id": patient.session.session_id}))
    except (TinkexError, OSError) as error:
        return Finding(
            "failed",
            f"the session's heartbeat was refused: {error}",
            "Sessions end on this server while they are in use: tell whoever runs it.",
        )
    return Finding("ok", f"answered in {(patient.session.clock.time() - began) * 1000:.0f} ms")


def endpoints(patient: Patient) -> Finding:
    from .endpoint_probe import missing_endpoints

    assert patient.session is not None
    lost, asked, silent = missing_endpoints(patient.session, patient.patience)
    if not lost and silent:
        return Finding(
            "ok", f"{asked - silent} of {asked} are there, and the others may be: they gave no answer"
        )
    if not lost:
        return Finding("ok", f"all {asked} are there")
    told = "; ".join(f"{row.path}: no {row.loses}" for row in lost)
    data: Dict[str, Any] = {row.path: row.loses for row in lost}
    return Finding(
        "failed",
        f"{len(lost)} of {asked} are missing: {told}",
        "The rest works. If you need these, the server must be updated, or another one used.",
        data=data,
    )


def queue(patient: Patient) -> Finding:
    """How a sample fares, if a model is named. POST /api/v1/asample."""
    from ...clients.sampling import open_sampling_client
    from ...errors import DeadlineExceeded, TinkexError
    from ...types import ModelInput, SamplingParams

    assert patient.session is not None
    if patient.model is None:
        return Finding("skipped", "give --model NAME to draw one token and see how long the server takes")
    clock = patient.session.clock
    ends = clock.time() + patient.patience
    path = patient.model if patient.model.startswith("tinker://") else None
    try:
        with patient.session.calling(patient.session.source, "create_sampling_client") as call:
            sampler = open_sampling_client(
                patient.session,
                model_path=path,
                base_model=None if path else patient.model,
                retry_config=None,
                call=call,
                deadline=ends,
            )
        began = clock.time()
        sampler.sample(
            ModelInput.from_ints([1]), 1, SamplingParams(max_tokens=1), timeout=max(0.1, ends - began)
        )
    except DeadlineExceeded as error:
        state = f"its queue says {error.queue_state}" if error.queue_state else "its queue says nothing"
        return Finding(
            "failed",
            f"no token from {patient.model} within {patient.patience:g} s; {state}",
            "The server is at work, or out of capacity: try later, or with a longer --timeout.",
        )
    except (TinkexError, ValueError) as error:
        return Finding("failed", f"no token from {patient.model}: {error}", "Check the name of the model.")
    return Finding("ok", f"one token from {patient.model} took {(clock.time() - began) * 1000:.0f} ms")


#: In this order; what a check builds on comes before it.
CHECKS: Tuple[Check, ...] = (
    Check("configuration", configuration),
    Check("proxy", proxy),
    Check("DNS", dns),
    Check("TCP", tcp),
    Check("TLS and HTTP", http),
    Check("key and version", session),
    Check("heartbeat", heartbeat, needed=False),
    Check("endpoints", endpoints, needed=False),
    Check("queue", queue),
)
