"""Diagnose errors: which part of the connection failed, and what the user can do."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional

if TYPE_CHECKING:
    from ...config import Config

__all__ = ["Finding", "diagnose_connection", "diagnose_session"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    #: "ok", "failed" or "skipped".
    verdict: str
    #: What was found.
    text: str
    #: What the user can do about it.
    remedy: str = ""
    #: Further values for programs.
    data: Dict[str, Any] = field(default_factory=dict)
    #: What failed, if one check covers several parts: "TLS", "proxy", "key", "version" and others.
    fault: str = ""


def _failed(fault: str, text: str, remedy: str) -> Finding:
    return Finding("failed", text, remedy, fault=fault)


#: Problems with a certificate, by OpenSSL's verification code.
_CERTIFICATE_PROBLEMS: Dict[int, str] = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed, and not trusted on this machine",
    19: "comes from an authority that is not trusted on this machine",
    20: "comes from an authority that is not trusted on this machine",
    21: "comes from an authority that is not trusted on this machine",
    62: "is for another host",
    64: "is for another address",
}
_CERTIFICATE_REMEDIES: Dict[int, str] = {
    9: "Check the clock of this machine.",
    10: "The operator of the server must renew it. If it is new, check the clock of this machine.",
    62: "Use the name in the certificate as TINKER_BASE_URL, or have the certificate changed.",
    64: "Use the name in the certificate as TINKER_BASE_URL, or have the certificate changed.",
}
_TRUST_REMEDY = (
    "If you trust the authority (of a company's proxy, for example), name a file with its certificate in"
    " SSL_CERT_FILE or REQUESTS_CA_BUNDLE, or set Config(verify='system')."
)
#: Texts of TLS libraries for a response that is not TLS.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_PROXY_REMEDY = "Ask the operator of the proxy, or list the server in NO_PROXY if it can be reached without a proxy."


def diagnose_connection(error: Exception, target: str, proxy: Optional[str], timeout: float) -> Finding:
    """Diagnose a failed request to the server: TLS, the proxy, or HTTP.

    A status code can mean success, because it shows that an HTTP server responds.

    Args:
        target: URL of the server.
        proxy: URL of the proxy, or None.
        timeout: Longest time for a response, in seconds.
    """
    from ...errors import APIStatusError, APITimeoutError

    if isinstance(error, APIStatusError):
        return _diagnose_status(error, target, proxy)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, TimeoutError):
            return _diagnose_tls(cause)
    if proxy is not None and "407" in str(error):
        return _proxy_needs_password(proxy)
    if proxy is not None and "Tunnel connection failed" in str(error):
        return _failed("proxy", f"the proxy {proxy} refuses the connection: {error}", _PROXY_REMEDY)
    if isinstance(error, (APITimeoutError, TimeoutError)):
        return _failed(
            "HTTP",
            f"{target} accepted the connection but did not respond for {timeout:g} s",
            "The server may hang, or the port may belong to another program. With https:// try http:// and vice versa.",
        )
    return _failed(
        "HTTP",
        f"the connection was closed: {error}",
        "The server or a gateway closed the connection: check the port, and http:// or https://.",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors inside it. requests and urllib3 wrap errors in several ways."""
    waiting: List[BaseException] = [error]
    seen: List[BaseException] = []
    while waiting:
        current = waiting.pop(0)
        if any(current is earlier for earlier in seen):
            continue
        seen.append(current)
        yield current
        inner = [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
        waiting.extend(cause for cause in inner if isinstance(cause, BaseException))


def _diagnose_tls(error: ssl.SSLError) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        problem = _CERTIFICATE_PROBLEMS.get(code, f"cannot be verified ({error.verify_message})")
        detail = f" ({error.verify_message})" if code in _CERTIFICATE_PROBLEMS else ""
        remedy = _CERTIFICATE_REMEDIES.get(code, _TRUST_REMEDY)
        return _failed("TLS", f"the server's certificate {problem}{detail}", remedy)
    if any(text in str(error) for text in _NOT_TLS):
        return _failed(
            "TLS",
            "the server at this port does not speak TLS",
            "If it is a plain HTTP server, begin TINKER_BASE_URL with http://. Otherwise correct the port.",
        )
    return _failed(
        "TLS",
        f"no TLS connection: {error}",
        "The server and this machine have no cipher in common, or a gateway between them interferes.",
    )


def _proxy_needs_password(proxy: str) -> Finding:
    return _failed(
        "proxy",
        f"the proxy {proxy} requires a user name and a password (407)",
        "Add them to HTTPS_PROXY or HTTP_PROXY, as in http://user:password@proxy:3128.",
    )


def _diagnose_status(error: Any, target: str, proxy: Optional[str]) -> Finding:
    status = error.status_code
    if status == 407:
        return _proxy_needs_password(proxy or "between this machine and the server")
    if 300 <= status < 400:
        location = error.headers.get("location", "no address")
        return _failed(
            "HTTP",
            f"{target} redirects ({status}) to {location}",
            "If that is the right server, set TINKER_BASE_URL to its address. The API key follows no redirect.",
        )
    if status == 400 and "HTTPS" in str(error.body).upper():
        return _failed("TLS", "the port requires TLS", "Begin TINKER_BASE_URL with https://.")
    if status in (502, 503, 504):
        gateway = f"the proxy {proxy} or a gateway" if proxy else "a gateway"
        return _failed(
            "HTTP",
            f"{gateway} returns {status}: the server behind it is unavailable",
            "Try again later. If it stays unavailable, inform the operator of the server.",
        )
    if status >= 500:
        return _failed(
            "HTTP",
            f"the server has a problem ({status}): {_without_html(str(error))}",
            "Try again later, or inform the operator of the server.",
        )
    # The next checks cover the key and the path.
    return Finding("ok", f"the server responds with HTTP {status}")


def diagnose_session(error: Exception, config: Config) -> Finding:
    """Diagnose a session that could not be created: the key, the version, the address, or the server."""
    from ...errors import APIConnectionError, APIResponseValidationError, APIStatusError

    status = error.status_code if isinstance(error, APIStatusError) else 0
    full_text = _without_key(str(error), config.api_key)
    text = _without_html(full_text)
    if status in (401, 403):
        return _failed(
            "key",
            f"the API key was refused ({status})",
            "Set TINKER_API_KEY to a valid key of this server. Keys of other servers or projects are refused.",
        )
    if status in (400, 426) and "version" in text.lower():
        return _failed(
            "version",
            f"the server refuses the protocol version {config.sdk_version}: {text}",
            "Set a version that the server accepts: ServiceClient(sdk_version=...), or TINKEX_SYNC_PROTOCOL=auto.",
        )
    if status == 402:
        return _failed("billing", f"the server requires a payment: {text}", "Check your account there.")
    is_other_server = status in (404, 405, 501) or 300 <= status < 400 or text != full_text
    if is_other_server or isinstance(error, APIResponseValidationError):
        return _failed(
            "address",
            f"there is no Tinker API at this address: {text}",
            "Check TINKER_BASE_URL. A prefix such as /services/tinker may be missing or wrong.",
        )
    if status == 429:
        return _failed("limit", f"too many sessions or requests: {text}", "End other sessions, or wait.")
    if isinstance(error, APIConnectionError):
        return _failed("HTTP", f"no response to the creation of a session: {text}", "Try again.")
    return _failed("session", f"no session could be created: {text}", "Inform the operator of the server.")


def _without_key(text: str, key: Optional[str]) -> str:
    """Hide the API key, which a server may repeat in an error."""
    return text.replace(key, "...") if key else text


def _without_html(text: str) -> str:
    """Replace an HTML page in the text of an error, because it does not describe the fault."""
    return re.sub(r"<(!doctype|html)\b.*", "(an HTML page)", text, flags=re.IGNORECASE | re.DOTALL)
