"""Rejection of requests that a web page can make a browser send.

A page can send a POST to any address, and with DNS rebinding it can also read responses of a server on loopback. The
headers ``Origin`` and ``Host`` show both.
"""

from __future__ import annotations

import ipaddress
from typing import Optional
from urllib.parse import urlsplit

__all__ = ["CONTROL_PREFIX", "find_problem", "is_wildcard"]

#: The start of the paths of endpoints that control the server and describe it.
CONTROL_PREFIX = "/__"


def _hostname(authority: str) -> str:
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(hostname: str) -> bool:
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"


def is_wildcard(host: str) -> bool:
    """Return whether a server that listens on ``host`` listens on all addresses."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def find_problem(path: str, host: str, origin: Optional[str], configured_host: str) -> Optional[str]:
    """Check the headers of a request.

    Args:
        path: The path of the request.
        host: The header ``Host``.
        origin: The header ``Origin``, which browsers send and clients of the API do not.
        configured_host: The host on which the server listens.

    Returns:
        The reason why the request must be rejected, or None.
    """
    is_control = path.startswith(CONTROL_PREFIX)
    if is_control and not _is_own(_hostname(host), configured_host):
        return f"Host {host[:80]!r} is not an address of this server; use a loopback address"
    if origin is None or (is_control and origin == f"http://{host}"):
        return None
    if is_control or not _is_own(_hostname(origin.partition("://")[2]), configured_host):
        return f"requests of web pages are rejected: Origin {origin[:80]!r} is not this server"
    return None


def _is_own(hostname: str, configured_host: str) -> bool:
    return _is_loopback(hostname) or (hostname == configured_host.lower() and not is_wildcard(hostname))
