"""Certificates, and the TLS context that all connections of a client share.

Without a shared context, ``requests`` reads the certificates again for each connection: 30 ms of CPU and 0.6 MB.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union, cast

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import create_urllib3_context

from ..errors import ConfigError

#: ``verify`` and ``cert`` of ``requests``.
Verify = Union[bool, str]
Certificate = Union[None, str, Tuple[str, str]]


class ResumingContext(ssl.SSLContext):
    """A TLS context of clients that resumes the latest session of each host. Thread-safe.

    A resumed handshake needs no certificates, and about a third of the CPU.
    """

    #: The latest session by host. Changed only by atomic methods of dict.
    sessions: Dict[Optional[str], ssl.SSLSession]
    _protocols: Any = ()

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Set the protocols unless they are set. urllib3 does it at each connection, while other threads read them."""
        if alpn_protocols != self._protocols:
            self._protocols = alpn_protocols
            super().set_alpn_protocols(alpn_protocols)

    def wrap_socket(self, sock: Any, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Wrap a socket as the base class does, and offer the latest session of its host to the server."""
        kwargs.setdefault("session", self.sessions.get(kwargs.get("server_hostname")))
        return super().wrap_socket(sock, *args, **kwargs)


def keep_session(sock: Any) -> None:
    """Keep the session of a connection for later ones to its host. With TLS 1.3, it arrives with the first response."""
    context, session = getattr(sock, "context", None), getattr(sock, "session", None)
    if isinstance(context, ResumingContext) and session is not None and session.has_ticket:
        context.sessions[sock.server_hostname] = session


def find_certificates(setting: Verify) -> Verify:
    """Return what ``requests`` accepts as ``verify`` for ``Config.verify`` and the environment."""
    if setting == "system":
        paths = ssl.get_default_verify_paths()
        found = paths.cafile or paths.capath
        if found is None:
            raise ConfigError("verify='system': this system has no certificates: give the path of a file")
        return found
    if setting is True:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            path = os.environ.get(name)
            if path:
                if not Path(path).exists():
                    raise ConfigError(f"environment variable {name}={path!r}: no such file")
                return path
    return setting


def make_context(verify: Verify, certificate: Certificate = None) -> ResumingContext:
    """Return a context for ``verify`` and ``cert`` of ``requests``.

    Raises:
        ConfigError: The bundle or the client's certificate cannot be used.
    """
    context: Any = create_urllib3_context()
    context.__class__ = ResumingContext  # with the settings of urllib3
    context.sessions = {}
    # urllib3 excludes the tickets of TLS 1.2, without which no session is resumed.
    context.options &= ~ssl.OP_NO_TICKET
    name = f"verify={verify!r}"
    try:
        if verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            path = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
            is_folder = Path(path).is_dir()
            context.load_verify_locations(None if is_folder else path, path if is_folder else None)
        name = "client_certificate"
        if certificate:
            file, key = (certificate, None) if isinstance(certificate, str) else certificate
            # An empty password, because OpenSSL would otherwise prompt for one at the terminal.
            context.load_cert_chain(file, key, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} must be PEM files, with the key of a certificate and no password: {error}") from None
    return cast(ResumingContext, context)
