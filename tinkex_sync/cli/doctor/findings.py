"""What an answer, or the lack of one, says about the way to the server; and what to do about it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional

if TYPE_CHECKING:
    from ...config import Config

__all__ = ["Finding", "from_connecting", "from_session"]


@dataclass(frozen=True)
class Finding:
    """The verdict of one check."""

    #: "ok", "failed" or "skipped".
    verdict: str
    #: What was found.
    text: str
    #: What to do about it.
    remedy: str = ""
    #: More, for programs.
    data: Dict[str, Any] = field(default_factory=dict)
    #: What exactly failed, where one check looks at several things: "TLS", "proxy", "key", "version" and so on.
    fault: str = ""


def _failed(fault: str, text: str, remedy: str) -> Finding:
    return Finding("failed", text, remedy, fault=fault)


#: OpenSSL's codes of what is wrong with a certificate.
_CERTIFICATES: Dict[int, str] = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed, and not trusted here",
    19: "comes from an authority that is not trusted here",
    20: "comes from an authority that is not trusted here",
    21: "comes from an authority that is not trusted here",
    62: "is for another host",
    64: "is for another address",
}
_CERTIFICATE_REMEDIES: Dict[int, str] = {
    9: "Check this machine's clock.",
    10: "Whoever runs the server must renew it; if it is fresh, check this machine's clock.",
    62: "Use the name that is in the certificate as TINKER_BASE_URL, or have the certificate changed.",
    64: "Use the name that is in the certificate as TINKER_BASE_URL, or have the certificate changed.",
}
_TRUST = (
    "If you trust that authority (of a company's proxy, for instance), put its certificate into a file and name it in"
    " SSL_CERT_FILE or REQUESTS_CA_BUNDLE, or give Config(verify='system')."
)
#: What a TLS library makes of an answer that is no TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all it was made of; requests and urllib3 wrap in several ways."""
    waiting: List[BaseException] = [error]
    seen: List[BaseException] = []
    while waiting:
        one = waiting.pop(0)
        if any(one is before for before in seen):
            continue
        seen.append(one)
        yield one
        inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        waiting.extend(cause for cause in inner if isinstance(cause, BaseException))


def _tls(error: ssl.SSLError) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        what = _CERTIFICATES.get(code, f"cannot be verified ({error.verify_message})")
        detail = f" ({error.verify_message})" if code in _CERTIFICATES else ""
        return _failed(
            "TLS", f"the server's certificate {what}{detail}", _CERTIFICATE_REMEDIES.get(code, _TRUST)
        )
    if any(sign in str(error) for sign in _NO_TLS):
        return _failed(
            "TLS",
            "what answers there does not speak TLS",
            "If the server speaks plain HTTP, TINKER_BASE_URL begins with http://; or the port is another.",
        )
    return _failed(
        "TLS",
        f"no TLS connection: {error}",
        "Server and this machine agree on no way to encrypt, or something between them interferes.",
    )


def from_connecting(error: Exception, target: str, proxy: Optional[str], patience: float) -> Finding:
    """Of a request that did not end well: TLS, the proxy, or HTTP; a status can be good news."""
    from ...errors import APIStatusError, APITimeoutError

    if isinstance(error, APIStatusError):
        return _status(error, target, proxy)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, TimeoutError):
            return _tls(cause)
    if proxy is not None and "407" in str(error):
        return _wants_password(proxy)
    if proxy is not None and "Tunnel connection failed" in str(error):
        return _failed("proxy", f"the proxy {proxy} does not let us through: {error}", _NO_PROXY)
    if isinstance(error, (APITimeoutError, TimeoutError)):
        return _failed(
            "HTTP",
            f"the connection stands, but {target} says nothing for {patience:g} s",
            "The server may hang, or the port may belong to something else; with https:// try http:// and the reverse.",
        )
    return _failed(
        "HTTP",
        f"the connection broke: {error}",
        "The server, or something on the way to it, hung up: check port and http:// or https://.",
    )


_NO_PROXY = "Ask whoever runs the proxy, or list the server in NO_PROXY if it can be reached without."


def _wants_password(proxy: str) -> Finding:
    return _failed(
        "proxy",
        f"the proxy {proxy} wants a user name and password (407)",
        "Put them into HTTPS_PROXY or HTTP_PROXY, as in http://user:password@proxy:3128.",
    )


def _status(error: Any, target: str, proxy: Optional[str]) -> Finding:
    status = error.status_code
    if status == 407:
        return _wants_password(proxy or "on the way")
    if 300 <= status < 400:
        return _failed(
            "HTTP",
            f"{target} sends us elsewhere ({status}), to {error.headers.get('location', 'no address')}",
            "If that is the right server, set TINKER_BASE_URL to its address; our key follows no redirect.",
        )
    if status == 400 and "HTTPS" in str(error.body).upper():
        return _failed("TLS", "that port wants TLS", "TINKER_BASE_URL must begin with https://.")
    if status in (502, 503, 504):
        whose = f"the proxy {proxy} or a gateway" if proxy else "a gateway"
        return _failed(
            "HTTP",
            f"{whose} answers {status}: the server behind it is away",
            "Try later; if it stays so, tell whoever runs the server.",
        )
    if status >= 500:
        return _failed(
            "HTTP",
            f"the server has a problem ({status}): {error}",
            "Try later, or tell whoever runs the server.",
        )
    # Key and path are looked at by the checks after this one.
    return Finding("ok", f"answers with HTTP {status}")


def from_session(error: Exception, config: Config) -> Finding:
    """Of a session that could not be opened: the key, the version, or a server of another kind."""
    from ...errors import APIConnectionError, APIResponseValidationError, APIStatusError

    status = error.status_code if isinstance(error, APIStatusError) else 0
    text = _without(str(error), config.api_key)
    if status in (401, 403):
        return _failed(
            "key",
            f"the API key was refused ({status})",
            "Set TINKER_API_KEY to a valid key of this server; keys of another server or project do not work.",
        )
    if status in (400, 426) and "version" in text.lower():
        return _failed(
            "version",
            f"the server refuses the protocol version {config.sdk_version}: {text}",
            "Ask which version it wants and give it: ServiceClient(sdk_version=...); or TINKEX_SYNC_PROTOCOL=auto.",
        )
    if status == 402:
        return _failed("billing", f"the server wants payment first: {text}", "See to your account there.")
    if status in (404, 405) or 300 <= status < 400 or isinstance(error, APIResponseValidationError):
        return _failed(
            "address",
            f"there is no Tinker API at this address: {text}",
            "Check TINKER_BASE_URL; a prefix, such as /services/tinker, may be missing or wrong.",
        )
    if status == 429:
        return _failed("limit", f"too many sessions or requests: {text}", "End others, or wait.")
    if isinstance(error, APIConnectionError):
        return _failed("HTTP", f"no answer to the opening of a session: {text}", "Try again.")
    return _failed("session", f"no session could be opened: {text}", "Tell whoever runs the server.")


def _without(text: str, secret: Optional[str]) -> str:
    """The text, should a server repeat our key in it."""
    return text.replace(secret, "...") if secret else text
