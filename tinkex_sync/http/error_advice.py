"""Advice for the user, added to the messages of errors."""

from __future__ import annotations

import re
from typing import Optional

from ..config import Config
from ..errors import APIError, APIResponseValidationError, APIStatusError, AuthenticationError, PermissionDeniedError
from ..logs import one_line
from .retry import is_from_intermediary

#: What a server may have lost, by the text of its response, and the advice.
_LOST = {
    "model": (
        re.compile(r"\bmodel\b.*\bnot loaded\b", re.IGNORECASE | re.DOTALL),
        "the server no longer has this model in memory: go on from its last checkpoint with"
        " create_training_client_from_state_with_optimizer(), or let RestartPolicy do that",
    ),
    "session": (
        re.compile(r"\bsession\b.*\b(not found|does not exist|has expired)|unknown session", re.IGNORECASE | re.DOTALL),
        "the server no longer has this session, for example because it was restarted: make a new ServiceClient",
    ),
}


def what_is_lost(error: BaseException) -> Optional[str]:
    """Return "model" or "session" if the error shows that the server no longer has that; otherwise None."""
    if not isinstance(error, APIStatusError) or not 400 <= error.status_code <= 410:
        return None
    return next((name for name, (pattern, _) in _LOST.items() if pattern.search(str(error.body))), None)


def advise(error: APIError, config: Config, first_contact: bool) -> None:
    """Add advice for the user to the message of an error.

    Args:
        error: The final error of a call.
        config: The settings that may be wrong.
        first_contact: Whether it failed at the first contact. Later, key and address are known to be right.
    """
    advice = _first_contact_advice(error, config) if first_contact else ""
    if not advice and isinstance(error, APIStatusError):
        if error.status_code == 415 and config.protocol != "auto":
            advice = f'the server does not accept protocol {config.protocol}: set protocol="auto"'
        elif lost := what_is_lost(error):
            advice = _LOST[lost][1]
        elif is_unknown_endpoint(error) and error.request is not None:
            endpoint = f"{error.request.method} {error.request.url}"
            advice = f"this server seems to have no such endpoint: {endpoint}"
    if advice and error.args:
        error.args = (f"{error.args[0]} [{advice}]", *error.args[1:])


def _first_contact_advice(error: APIError, config: Config) -> str:
    where = f"base_url is {config.base_url}"
    is_page = (
        isinstance(error, APIStatusError) and error.status_code >= 500 and str(error.body).lstrip().startswith("<")
    )
    if isinstance(error, APIStatusError) and (is_page or is_from_intermediary(error)):
        name = one_line(error.headers.get("via") or error.headers.get("server") or "unknown")
        return f"not a Tinker server but a gateway or login page ({name}) responded: check base_url=, proxies=; {where}"
    if isinstance(error, (AuthenticationError, PermissionDeniedError)):
        problem = "the API key was refused" if config.api_key else "the server requires an API key"
        return f"{problem}: give api_key= or set TINKER_API_KEY; {where}"
    if getattr(error, "unsent", False) and not getattr(error, "is_final", False):
        return f"the server cannot be reached: check that it runs, the network and proxies; {where}"
    if isinstance(error, APIResponseValidationError):
        return f"that is not the response of a Tinker server: check base_url= or TINKER_BASE_URL; {where}"
    if not isinstance(error, APIStatusError):
        return ""
    if error.status_code in (404, 405) or 300 <= error.status_code < 400:
        return f"there is no Tinker API at this address: check base_url= or TINKER_BASE_URL; {where}"
    if "version" in str(error.body).lower():
        return f"the server refuses this protocol version: set sdk_version= (now {config.sdk_version!r})"
    return ""


def is_unknown_endpoint(error: APIError) -> bool:
    """Return whether a response is that of a framework or gateway to an unknown path, not to a missing resource."""
    if not isinstance(error, APIStatusError) or error.status_code not in (404, 405):
        return False
    body = error.body
    return body in ({"detail": "Not Found"}, {"detail": "Method Not Allowed"}, "") or (
        isinstance(body, str) and body.lstrip().startswith("<")
    )
