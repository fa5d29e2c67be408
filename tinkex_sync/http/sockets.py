"""Sockets that another thread can shut down, at a deadline or when a client closes.

A read on a socket ends only when data arrives, when no data arrives during the timeout, or when the socket is shut
down. A body that arrives in small pieces never times out, and closing a ``requests.Session`` does not abort a request.
Each connection therefore registers its socket before it connects. To end a request, another thread shuts down its
socket.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import ssl
import threading
import time
import weakref
from typing import Any, Dict, List, Optional

import requests.adapters
import urllib3
from urllib3 import connection as urllib3_connection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import allowed_gai_family

from ..concurrency.primitives import Lock
from .tls import Certificate, Verify, keep_session, make_context

#: Ends a long poll if the peer has vanished: three probes, after 30 s and then every 10 s. No system has all options.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPALIVE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
for _name, _value in _KEEPALIVE:
    if hasattr(socket, _name):
        _SOCKET_OPTIONS.append((socket.IPPROTO_TCP, getattr(socket, _name), _value))

#: Head and body of a request are sent as one piece up to this many bytes each; copying more costs more than it saves.
_SMALL = 64 * 1024


class _Running(threading.local):
    """The exchange that the current thread is making."""

    exchange: Optional[Exchange] = None


_running = _Running()


def _hide_queries(record: logging.LogRecord) -> bool:
    """Remove queries, which may contain secrets, from urllib3's log records about our requests."""
    if _running.exchange is not None and isinstance(record.args, tuple):
        record.args = tuple(one.partition("?")[0] if isinstance(one, str) else one for one in record.args)
    return True


logging.getLogger("urllib3.connectionpool").addFilter(_hide_queries)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # The base class's method: SSLSocket.shutdown would also drop the TLS state under the reader.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Exchange:
    """One HTTP request that another thread can cut. Thread-safe.

    Invariant: after the ``with`` block of the request, :meth:`cut` does not touch the socket, which may serve another
    request then.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._socket: Optional[socket.socket] = None  # guarded by _lock
        #: Whether it was cut.
        self.is_cut = False
        #: Whether a connection was made, so that bytes may have reached the server.
        self.connected = False
        #: Whether the connection had served an earlier request.
        self.reused = False

    def __enter__(self) -> Exchange:
        _running.exchange = self
        return self

    def __exit__(self, *exc_info: object) -> None:
        _running.exchange = None
        with self._lock:
            self._socket = None

    def attach(self, sock: socket.socket, *, connected: bool = False) -> None:
        """Set the socket of the request, and shut it down if the request was cut before.

        Args:
            connected: Whether the socket is connected, so that bytes may reach the server.
        """
        self.connected = connected
        with self._lock:
            self._socket = sock
            if self.is_cut:
                _shut(sock)

    def cut(self) -> None:
        """End the request. No effect after it has ended."""
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                # Under the lock, so that the socket cannot have been returned to the pool.
                _shut(self._socket)


def _attach(sock: socket.socket, *, connected: bool) -> None:
    """Attach a socket to the exchange of the current thread. The user's own requests on the session have none."""
    if _running.exchange is not None:
        _running.exchange.attach(sock, connected=connected)


class SocketRegistry:
    """The open sockets of one transport, so that closing reaches all of them. Thread-safe.

    Invariant: once :meth:`shut_down` has run, no socket added earlier or later stays open for traffic.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()  # guarded by _lock
        self._pid = os.getpid()
        #: Whether :meth:`shut_down` was called.
        self.is_shut_down = False
        #: Number of connections that were made, and of those that resumed a TLS session.
        self.opened = self.resumed = 0  # changed under _lock

    def add(self, sock: socket.socket) -> None:
        """Add a socket, and shut it down if :meth:`shut_down` was called before."""
        with self._lock:
            self._sockets.add(sock)
            if self.is_shut_down:
                _shut(sock)

    def count(self, *, opened: int = 0, resumed: int = 0) -> None:
        """Add to the numbers of connections."""
        with self._lock:
            self.opened += opened
            self.resumed += resumed

    def shut_down(self) -> bool:
        """Shut down every socket.

        Returns:
            False in a forked child, where this has no effect because the parent still uses the sockets.
        """
        if os.getpid() != self._pid:
            return False
        with self._lock:
            self.is_shut_down = True
            for sock in self._sockets:
                _shut(sock)
        return True


def _make_socket(proxy: Optional[Dict[str, Any]], family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    """Return a socket; one of pysocks, which connects through the proxy at ``address``, if there is a SOCKS proxy."""
    if proxy is None:
        return socket.socket(family, kind, protocol)
    import socks

    sock: socket.socket = socks.socksocket(family, kind, protocol)
    credentials = (proxy["username"], proxy["password"])
    sock.set_proxy(proxy["socks_version"], *address[:2], proxy["rdns"], *credentials)  # type: ignore[attr-defined]
    return sock


class _Tracked:
    """A mixin of urllib3's connections that registers the socket with the registry and the running exchange."""

    registry: SocketRegistry
    sock: Any
    #: Number of requests that the connection has served, and the real time at which it sent the last one.
    _served, used_at = 0, 0.0
    #: Pieces of the running request that are not sent yet; None between requests, and after a large piece.
    _held: Optional[List[bytes]] = None

    def __init__(self, *args: Any, _socks_options: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The SOCKS proxy, as urllib3 describes it.
        self._socks = _socks_options

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        host, timeout = getattr(connection, "_dns_host", None) or connection.host, connection.timeout
        self._served = 0
        try:
            peer, at = host, connection.port
            if self._socks is not None:
                peer, at = self._socks["proxy_host"], self._socks["proxy_port"] or 1080
            found = socket.getaddrinfo(peer.strip("[]"), at, allowed_gai_family(), socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(connection, f"Failed to resolve '{host}': {error}") from error
        failure: Optional[OSError] = None
        for family, kind, protocol, _, address in found:
            sock = _make_socket(self._socks, family, kind, protocol, address)
            try:
                for option in connection.socket_options or ():
                    sock.setsockopt(*option)
                if isinstance(timeout, (int, float)):
                    sock.settimeout(timeout)
                self.registry.add(sock)
                _attach(sock, connected=False)
                sock.connect(address if self._socks is None else (host, connection.port))
            except OSError as error:
                failure = error
                sock.close()
            else:
                _attach(sock, connected=True)
                self.registry.count(opened=1)
                return sock
        if isinstance(failure, socket.timeout):
            text = f"Connection to {host} timed out. (connect timeout={timeout})"
            raise ConnectTimeoutError(connection, text) from failure
        text = f"Failed to establish a new connection: {failure or 'no address'}"
        raise NewConnectionError(connection, text) from failure

    def request(self, *args: Any, **kwargs: Any) -> None:
        if _running.exchange is not None:
            _running.exchange.reused = self.sock is not None and self._served > 0
        if self.sock is not None:
            _attach(self.sock, connected=True)
        # http.client sends head and body separately, which costs a small request one more packet and system call.
        self._held = []
        super().request(*args, **kwargs)  # type: ignore[misc]
        self._flush()
        # After the request, because connecting resets the count.
        self._served += 1
        self.used_at = time.monotonic()

    def send(self, data: Any) -> None:
        if self._held is not None and isinstance(data, bytes) and len(data) <= _SMALL:
            self._held.append(data)
            return
        self._flush()
        super().send(data)  # type: ignore[misc]

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held:
            super().send(b"".join(held))  # type: ignore[misc]


def close_idle(pool: Any, seconds: float) -> None:
    """Close the connections of a pool of urllib3 that have sent nothing for some real seconds. Does not block.

    A request that starts meanwhile may open a connection although an idle one exists.
    """
    idle, kept = pool.pool, []
    with contextlib.suppress(queue.Empty):
        while idle is not None:
            connection = idle.get_nowait()
            if connection is not None and connection.used_at < time.monotonic() - seconds:
                connection.close()
            elif connection is not None:
                kept.append(connection)
    for connection in reversed(kept):
        with contextlib.suppress(queue.Full):
            idle.put_nowait(connection)
            continue
        connection.close()


class _PlainConnection(_Tracked, urllib3_connection.HTTPConnection):
    pass


class _SecureConnection(_Tracked, urllib3_connection.HTTPSConnection):
    _raw: Optional[socket.socket] = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        # TLS detaches the descriptor from ``sock``, and the new object is accessible only after the handshake. A
        # duplicate can be shut down meanwhile.
        self._raw = sock.dup()
        self.registry.add(self._raw)
        _attach(self._raw, connected=False)
        return sock

    def connect(self) -> None:
        try:
            super().connect()
            # In a tunnel through a TLS proxy, the socket is that of the proxy.
            sock = getattr(self.sock, "socket", self.sock)
            self.registry.add(sock)
            self.registry.count(resumed=getattr(self.sock, "session_reused", None) is True)
            _attach(sock, connected=True)
        finally:
            if self._raw is not None:
                self._raw.close()
                self._raw = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self._served == 1:
            keep_session(self.sock)
        super().request(*args, **kwargs)

    def close(self) -> None:
        if self._served == 1:
            keep_session(self.sock)
        super().close()


class Adapter(requests.adapters.HTTPAdapter):
    """A requests adapter whose sockets are in a :class:`SocketRegistry` and belong to the running exchange.

    Args:
        registry: Gets each socket.
        pool_size: Number of idle connections to one host.
        verify: ``verify`` and ``cert`` of the requests that use ``context``. Other requests, which users make on their
            session, get a context of their own for each connection.
        certificate: The client's certificate.
        context: The context of TLS connections; None: a context for each connection.
    """

    def __init__(
        self,
        registry: SocketRegistry,
        pool_size: int,
        verify: Verify = True,
        certificate: Certificate = None,
        context: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._verify, self._certificate, self._context = verify, certificate, context
        plain = type("PlainConnection", (_PlainConnection,), {"registry": registry})
        secure = type("SecureConnection", (_SecureConnection,), {"registry": registry})
        self._pools = {
            "http": type("PlainPool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("SecurePool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        super().__init__(pool_connections=4, pool_maxsize=pool_size)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, socket_options=_SOCKET_OPTIONS)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        if self._context is None or (verify, cert) != (self._verify, self._certificate) or url[:5].lower() != "https":
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
            return
        # With these, urllib3 would load the certificates into the context at each connection.
        conn.ca_certs = conn.ca_cert_dir = conn.cert_file = conn.key_file = conn.cert_reqs = None
        conn.conn_kw["ssl_context"] = self._context

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy not in self.proxy_manager and proxy.lower().startswith("https:"):
            # The client's certificate is for the server only.
            kwargs["proxy_ssl_context"] = make_context(self._verify)
        manager = super().proxy_manager_for(proxy, **kwargs, socket_options=_SOCKET_OPTIONS)
        manager.pool_classes_by_scheme = self._pools
        return manager
