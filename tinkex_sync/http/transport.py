"""Single HTTP requests, made with the library requests.

The transport converts status codes to errors, applies timeouts, and aborts requests at a deadline or at a close. It
does not retry.
"""

from __future__ import annotations

import logging
import os
from base64 import b64decode
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Type
from urllib.parse import urlencode, urljoin, urlsplit

import requests
import requests.adapters
import requests.utils
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from .. import errors
from .._version import __version__
from ..concurrency.primitives import Lock
from ..concurrency.timer import Timer
from ..config import Config
from ..logs import get_logger
from ..protocol import json_wire as codec
from .endpoints import Endpoint
from .request import Request
from .retry import retry_after
from .sockets import Adapter, Exchange, SocketRegistry, close_idle
from .tls import find_certificates, make_context

_log = get_logger(__name__)

_MOST_REDIRECTS = 5
#: The redirects that keep method and body.
_FOLLOWED = frozenset({307, 308})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_SECRET_HEADERS = frozenset({"x-api-key", "cf-access-client-id", "cf-access-client-secret", "cookie"})
_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_PROXY_CREDENTIALS = "set user and password of the proxy in proxies= or HTTP_PROXY, as in http://user:password@host"
#: Remedies of the connection failures that no retry can change, by a part of their text. The first that matches counts.
_REMEDIES = {
    **dict.fromkeys(("failed: 407", "SOCKS5 authentication"), _PROXY_CREDENTIALS),
    "certificate has expired": "the certificate of the server must be renewed, or the clock of this machine is wrong",
    "certificate is not valid for": "set base_url= to a name that the certificate contains, or correct the certificate",
    "CERTIFICATE_VERIFY_FAILED": "set verify= or REQUESTS_CA_BUNDLE to a file with the certificate of the authority",
}
#: Bytes of a body that are read at a time.
_BLOCK = 1 << 18
#: A compressed body may always have this size, and above it this many times the bytes that were received.
_LARGEST_SUSPECT, _HIGHEST_RATE = 64 << 20, 200
#: Seconds after which an idle connection is closed. Gateways close them after a minute or later.
_LONGEST_IDLE = 60.0
#: Most notes that are remembered. A server that varies them must not fill the memory.
_MOST_NOTES = 1000


#: The exceptions of urllib3 for which requests has more than ConnectionError. The first match counts.
_REQUESTS_ERRORS: Sequence[Tuple[Type[HTTPError], Type[requests.RequestException]]] = (
    (NewConnectionError, requests.ConnectionError),
    (ConnectTimeoutError, requests.ConnectTimeout),
    (ReadTimeoutError, requests.ReadTimeout),
    (SSLError, requests.exceptions.SSLError),
    (DecodeError, requests.exceptions.ContentDecodingError),
)
#: The transport follows redirects, and policies retry.
_POOL_OPTIONS: Dict[str, Any] = dict.fromkeys(
    ("retries", "redirect", "assert_same_host", "preload_content", "decode_content"), False
)


def _hooked_functions() -> Tuple[Any, ...]:
    """Return the functions that tracing and mocking libraries replace."""
    return requests.Session.send, requests.Session.get_adapter, requests.adapters.HTTPAdapter.send


_ORIGINALS = _hooked_functions()
_ARE_ORIGINAL = not any(hasattr(one, "__wrapped__") for one in _ORIGINALS)


@dataclass(frozen=True)
class Response:
    """A 2xx response, or a 3xx response of an endpoint that accepts redirects."""

    status: int
    #: Names in lower case.
    headers: Mapping[str, str]
    content: bytes
    #: Seconds from the start of sending to the last byte.
    elapsed: float = 0.0
    #: "1.1" or "1.0".
    http_version: str = "1.1"

    def json(self) -> Any:
        """Return the decoded body.

        Raises:
            APIResponseValidationError: It is not JSON.
        """
        return codec.decode(self.content, self.headers.get("content-type", ""), self.status)


def connection_remedy(cause: str) -> str:
    """Return what to do about a connection failure that no retry can change; "" for all others."""
    return next((remedy for part, remedy in _REMEDIES.items() if part in cause), "")


def find_proxies(config: Config, url: str) -> Dict[str, str]:
    """Return the proxies for a URL by scheme: those of the settings, otherwise those of the environment.

    NO_PROXY may also name addresses with a port and addresses of IPv6, with or without brackets. ``requests`` compares
    these with the URL in another form.
    """
    if config.proxies is not None:
        return dict(config.proxies)
    parts = urlsplit(url)
    names = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    # A proxy does not lead to this machine, even if NO_PROXY does not name it.
    exempt = {name.strip(" []").replace("]:", ":").lower() for name in names.split(",")} | _LOOPBACK
    port = parts.port or (443 if parts.scheme == "https" else 80)
    is_exempt = not exempt.isdisjoint((parts.hostname, f"{parts.hostname}:{port}"))
    return {} if is_exempt else requests.utils.get_environ_proxies(url, no_proxy=None)


def checked_proxy(proxy: Optional[str]) -> str:
    """Return the address of a proxy without user and password; "" if there is none.

    Raises:
        ConfigError: No connection through it is possible.
    """
    if not proxy:
        return ""
    try:
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        shown = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
        if url.scheme in _PROXY_SCHEMES and url.hostname and url.port != 0:
            if url.scheme.startswith("socks") and find_spec("socks") is None:
                raise errors.ConfigError(f"proxies: {shown} is a SOCKS proxy, which needs pysocks: pip install pysocks")
            return shown
    except ValueError as error:
        if isinstance(error, errors.ConfigError):
            raise
        shown = "a text that is not a URL"
    raise errors.ConfigError(
        f"proxies (or HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) must be URLs with a host and one of the schemes"
        f" {', '.join(_PROXY_SCHEMES)}, got {shown}"
    )


class Transport:
    """Sends requests to one server. Thread-safe; shared by all threads of a client.

    Proxies and certificates are looked up once, because a lookup per request costs a fifth of the throughput.
    Invariant: After :meth:`close` no request starts, and those in flight are cut. The registry of sockets does both.
    """

    def __init__(self, config: Config, timer: Timer) -> None:
        self._clock = config.clock
        self._config = config
        self.base_url = config.base_url.rstrip("/") + "/"
        #: Host and port of the server.
        self.host = urlsplit(self.base_url).netloc
        self.registry = SocketRegistry()
        self._timer = timer
        self._lock = Lock()
        self._exchanges: Set[Exchange] = set()  # those in flight; changed only by atomic methods of set
        self._notes: Set[str] = set()  # guarded by _lock; deprecation notes that are logged
        #: Whether the ``requests.Session`` is ours, so that its authentication and hooks need not run.
        self._is_own = config.session_factory is None
        self._session: requests.Session = (config.session_factory or requests.Session)()
        if self._is_own:
            self._session.trust_env = False  # no credentials from .netrc
        # requests would read the body of a redirect without a limit, and fail on a location that is no URL.
        self._session.get_redirect_target = lambda response: None  # type: ignore[method-assign]
        self.proxies = find_proxies(config, self.base_url)
        self._proxy = checked_proxy(requests.utils.select_proxy(self.base_url, self.proxies))
        #: ``verify`` of ``requests``.
        self.verify = find_certificates(config.verify)
        self._certificate = certificate = config.client_certificate
        context = make_context(self.verify, certificate) if self.base_url.startswith("https:") else None
        self._adapter = Adapter(self.registry, config.pool_size, self.verify, certificate, context)
        self._pool: Any = None  # a connection pool of urllib3
        for prefix in ("https://", "http://"):
            # A user's own adapters stay. Requests through them can only end by their timeouts.
            if type(self._session.adapters.get(prefix)) is requests.adapters.HTTPAdapter:
                self._session.mount(prefix, self._adapter)
        self._options: Dict[str, Any] = {
            "allow_redirects": False,
            "proxies": self.proxies,
            "verify": self.verify,
            "cert": certificate,
            "stream": True,
        }
        self._headers = _default_headers(config)
        self._query = urlencode({name: _query_text(value) for name, value in config.default_query.items()})

    def send(self, request: Request, headers: Mapping[str, str], deadline: Optional[float]) -> Response:
        """Make one HTTP request and read the whole response.

        Args:
            headers: The request's own headers, credentials included.
            deadline: Time of the client's clock at which the attempt is cut.

        Raises:
            APIStatusError: A status other than 2xx, or 3xx where the endpoint's row does not accept a redirect.
            APIConnectionError, APITimeoutError: There was no response.
            DeadlineExceeded, ClosedError: The attempt was cut at its deadline, or because the client was closed.
        """
        row = request.row
        url = self._url(request.path)
        all_headers = {**self._headers, **headers}
        if request.content is not None:
            all_headers.setdefault("Content-Type", "application/json")
        started = self._clock.time()
        with Exchange() as exchange, self._in_flight(exchange, deadline):
            self._raise_if_cut(exchange)
            for _ in range(_MOST_REDIRECTS):
                try:
                    answer = self._sender(request, url, all_headers)()
                    response = self._read(answer)
                    self._keep_cookies(answer, url)
                except (requests.RequestException, HTTPError, OSError, ValueError) as raised:
                    error = _as_requests_error(raised)
                    self._raise_if_cut(exchange, error)
                    # The text of the cause contains the query.
                    cause = None if self._query else error
                    raise self._connection_error(exchange, error, row.method, url) from cause
                # A body without a length ends where its socket is shut down.
                self._raise_if_cut(exchange)
                target = response.headers.get("location")
                if response.status not in _FOLLOWED or not target or row.redirect_ok:
                    break
                if not _has_same_origin(url, target):
                    break  # The API key must not be sent to another host.
                url = urljoin(url, target)
        response.__dict__["elapsed"] = self._clock.time() - started
        sent = answer.request.headers if isinstance(answer, requests.Response) else all_headers
        self._log_deprecation(response.headers, sent)
        if 200 <= response.status < 300 or (row.redirect_ok and 300 <= response.status < 400):
            return response
        raise self._status_error(response, sent, request, url)

    def _find_pool(self, url: str) -> Any:
        """Return the pool of connections to the server; None if requests must go through the session.

        The session and its adapter look up proxies, cookies, certificates and the pool for each request, and convert
        the response twice. That costs a quarter of a request. Sessions of users, proxies, cookies, and libraries that
        replace functions of ``requests`` need them.
        """
        is_plain = self._is_own and not self._proxy and not self._session.cookies
        if not (is_plain and _ARE_ORIGINAL and _hooked_functions() == _ORIGINALS):
            return None
        if self._pool is None:
            prepared = requests.Request("POST", url).prepare()
            self._pool = self._adapter.get_connection_with_tls_context(prepared, self.verify, {}, self._certificate)
            self._adapter.cert_verify(self._pool, url, self.verify, self._certificate)
        return self._pool

    def _sender(self, request: Request, url: str, headers: Mapping[str, str]) -> Callable[[], Any]:
        """Return a function that sends a request and returns the response of urllib3 or of requests."""
        pool, method, timeouts = self._find_pool(url), request.row.method, self._timeouts(request.row)
        if pool is None:
            made = requests.Request(method, url, dict(headers), data=request.content)
            prepared = self._session.prepare_request(made)
            return partial(self._session.send, prepared, timeout=timeouts, **self._options)
        return partial(
            pool.urlopen,
            method,
            url[url.index("/", 8) :],
            body=request.content,
            headers=headers,
            timeout=urllib3.Timeout(connect=timeouts[0], read=timeouts[1]),
            **_POOL_OPTIONS,
        )

    def _keep_cookies(self, answer: Any, url: str) -> None:
        """Put the cookies of a response of urllib3 into the session, which sends all further requests."""
        if not isinstance(answer, requests.Response) and "set-cookie" in answer.headers:
            sent = requests.Request("GET", url).prepare()
            requests.cookies.extract_cookies_to_jar(self._session.cookies, sent, answer)  # type: ignore[no-untyped-call]

    def _read(self, answer: Any) -> Response:
        """Read and decompress the body. Nothing is allocated for a declared length, which may be wrong.

        Raises:
            APIResponseValidationError: It is too large, or its compression rate is that of an attack.
        """
        limit, pieces, size = self._config.max_response_bytes, [], 0
        if isinstance(answer, requests.Response):
            status, raw, blocks = answer.status_code, answer.raw, answer.iter_content(_BLOCK)
        else:
            status, raw, blocks = answer.status, answer, answer.stream(_BLOCK, decode_content=True)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        try:
            for piece in blocks:
                pieces.append(piece)
                size += len(piece)
                is_bomb = size > _LARGEST_SUSPECT and "content-encoding" in headers
                if size > limit or (is_bomb and size > _HIGHEST_RATE * raw.tell()):
                    raise errors.APIResponseValidationError(
                        f"the response decompresses to more than {size} bytes; the limit max_response_bytes is {limit},"
                        f" and {_HIGHEST_RATE} times its compressed size",
                        status_code=status,
                    )
        except BaseException:
            raw.close()  # Otherwise the rest of the body would be the next response.
            raise
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Response(status, headers, content, http_version="1.0" if raw.version == 10 else "1.1")

    def _status_error(
        self, response: Response, sent: Mapping[str, str], request: Request, url: str
    ) -> errors.APIStatusError:
        """Return the error that the status of a response stands for."""
        status, content, lowered = response.status, response.content, response.headers
        for secret in self._secrets(sent):
            # Some servers and gateways return the refused key, or the headers of the request.
            content = content.replace(secret.encode(), b"***")
            lowered = {name: value.replace(secret, "***") for name, value in lowered.items()}
        failed = errors.status_error(
            status, body=_error_body(content), headers=lowered, retry_after=retry_after(lowered)
        )
        failed.request, failed.http_version = self._sent_request(request.row.method, url), response.http_version
        remedy = {
            407: f"{_PROXY_CREDENTIALS}: {self._proxy}",
            413: f"a server or gateway does not accept {len(request.content or b'')} bytes: set max_chunk_bytes= lower"
            f" (now {int(self._config.max_chunk_bytes)})",
        }.get(status)
        # The API itself explains its errors in JSON; gateways and proxies respond with pages.
        is_page = not isinstance(failed.body, dict)
        if remedy and is_page and (request.content or status == 407):
            failed.args = (f"{failed.message} [{remedy}]",)
        return failed

    def _secrets(self, sent: Mapping[str, str]) -> List[str]:
        """Return the secrets among the headers that were sent, without short texts, which may occur by chance."""
        given = {name.lower() for name in self._config.headers} | _SECRET_HEADERS
        found = [value for name, value in sent.items() if name.lower() in given]
        for value in list(found):
            kind, _, credentials = value.rpartition(" ")  # "Basic" or "Bearer", and the secret.
            found.append(credentials)
            if kind == "Basic":
                with suppress(ValueError):
                    found.append(b64decode(credentials).decode().partition(":")[2])
        found += map(_query_text, self._config.default_query.values())
        return [one for one in found if len(one) >= 8]

    def _sent_request(self, method: str, url: str) -> errors.SentRequest:
        return errors.SentRequest(method, url.replace(self._query, "***") if self._query else url)

    def _url(self, path: str) -> str:
        url = self.base_url + path.lstrip("/")
        return f"{url}{'&' if '?' in url else '?'}{self._query}" if self._query else url

    def _timeouts(self, row: Endpoint) -> Tuple[float, float]:
        """Return the connect timeout and the read timeout in real seconds."""
        read = row.read_timeout
        if isinstance(read, str):
            read = getattr(self._config, read)
        if row.read_timeout == "submit_timeout":
            read = min(read, self._config.read_timeout)
        return self._clock.real(self._config.connect_timeout), self._clock.real(read)

    def _log_deprecation(self, headers: Mapping[str, str], sent: Mapping[str, str]) -> None:
        """Log the ``x-deprecation-note`` of a response once: as an ERROR if its level is that, else as a WARNING."""
        note = headers.get("x-deprecation-note")
        if not note:
            return
        for secret in self._secrets(sent):
            note = note.replace(secret, "***")
        with self._lock:
            if note in self._notes or len(self._notes) >= _MOST_NOTES:
                return
            self._notes.add(note)
        is_error = headers.get("x-deprecation-level", "").strip().lower() == "error"
        _log.log(logging.ERROR if is_error else logging.WARNING, "Deprecated by the server: note=%s", note)

    @contextmanager
    def _in_flight(self, exchange: Exchange, deadline: Optional[float]) -> Iterator[None]:
        """Count an exchange as in flight, and cut it at the deadline."""
        self._exchanges.add(exchange)
        timer = None if deadline is None else self._timer.at(deadline, exchange.cut)
        try:
            if deadline is not None and deadline <= self._clock.time():
                exchange.cut()
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self._exchanges.discard(exchange)

    def _raise_if_cut(self, exchange: Exchange, cause: Optional[Exception] = None) -> None:
        """Raise the error of a request that was cut, because the client was closed or the deadline has passed."""
        sent = "unknown" if exchange.connected else "no"
        if self.registry.is_shut_down:
            closed = errors.ClosedError("the client was closed while the call was in flight")
            closed.__dict__["sent"] = sent
            raise closed from cause
        if exchange.is_cut:
            raise errors.DeadlineExceeded("the timeout ran out while sending", phase="sending", sent=sent) from cause

    def _connection_error(
        self, exchange: Exchange, error: BaseException, method: str, url: str
    ) -> errors.APIConnectionError:
        timed_out = isinstance(error, requests.Timeout)
        cls = errors.APITimeoutError if timed_out else errors.APIConnectionError
        host, cause = urlsplit(self.base_url).netloc, root_cause(error)
        if self._proxy:
            host = f"{host}, through proxy {self._proxy}; set proxies=, HTTP_PROXY, HTTPS_PROXY or NO_PROXY"
        summary = "Request timed out." if timed_out else "Connection error."
        remedy = connection_remedy(cause)
        made = cls(f"{summary} {cause} (server {host}){remedy and f' [{remedy}]'}")
        # Through a proxy a connection may exist although the server was not reached.
        made.is_final, made.unsent, made.reused = bool(remedy), not exchange.connected, exchange.reused
        made.request = self._sent_request(method, url)
        return made

    def close_idle(self) -> None:
        """Close the connections that were not used for a minute. Those of a user's own session stay open."""
        if self._pool is not None:
            close_idle(self._pool, self._clock.real(_LONGEST_IDLE))

    def close(self) -> None:
        """Cut the requests in flight and refuse further ones. Idempotent; never blocks; no effect after a fork."""
        if self.registry.shut_down():
            # Closes the descriptors of idle connections. Those in use are closed by their threads.
            self._session.close()
            if self._pool is not None:
                self._pool.close()

    def status(self) -> Dict[str, int]:
        """Return the number of requests in flight, and so far: of connections made and of resumed TLS sessions."""
        return {
            "in_flight": len(self._exchanges),
            "connections_opened": self.registry.opened,
            "tls_sessions_resumed": self.registry.resumed,
        }


def _default_headers(config: Config) -> Dict[str, str]:
    """Return the headers of every request; those of ``Config.headers`` replace ours of the same name."""
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "User-Agent": f"tinkex-sync/{__version__}",
        "X-API-Key": config.api_key,
        "CF-Access-Client-Id": config.cloudflare_access_client_id or None,
        "CF-Access-Client-Secret": config.cloudflare_access_client_secret or None,
    }
    given = {name.lower() for name in config.headers}
    ours = {name: text for name, text in headers.items() if text is not None and name.lower() not in given}
    return {**ours, **config.headers}


def _has_same_origin(url: str, location: str) -> bool:
    """Return whether a redirect to ``location`` stays on the server of ``url``."""
    try:
        return urlsplit(urljoin(url, location))[:2] == urlsplit(url)[:2]
    except ValueError:  # It is not a URL.
        return False


def _query_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_query_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_requests_error(error: Exception) -> Exception:
    """Return the exception with which requests reports one of urllib3, and any other exception unchanged."""
    if not isinstance(error, HTTPError):
        return error
    for raised, kind in _REQUESTS_ERRORS:
        if isinstance(error, raised):
            return kind(error)
    return requests.ConnectionError(error)


def _error_body(content: bytes) -> Any:
    try:
        return codec.loads(content)
    except ValueError:
        return content[: codec.LONGEST_ERROR_BODY].decode("utf-8", "replace").strip()


def root_cause(error: BaseException) -> str:
    """Return the innermost cause in one line, because requests wraps it in three errors with names and addresses."""
    seen: List[BaseException] = []
    while error not in seen:
        seen.append(error)
        causes = (getattr(error, "reason", None), *error.args[:1], error.__cause__)
        error = next((cause for cause in causes if isinstance(cause, BaseException)), error)
    return f"{type(error).__name__}: {error}"
