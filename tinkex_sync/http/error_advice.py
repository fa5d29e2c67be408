"""What a user can do about an error, added to its text."""

from __future__ import annotations

from ..config import Config
from ..errors import APIError, APIStatusError, AuthenticationError, PermissionDeniedError

__all__ = ["advise", "names_no_thing"]


def advise(error: APIError, config: Config, first_contact: bool) -> None:
    """Add to the text what the user can do about it."""
    advice = ""
    where = f"base_url is {config.base_url}"
    detail = str(error.body).lower()
    # Later errors keep the texts callers know; the key and the address were right when the client was made.
    if first_contact and isinstance(error, (AuthenticationError, PermissionDeniedError)):
        what = "the API key was refused" if config.api_key else "the server wants an API key"
        advice = f"{what}: give api_key= or set TINKER_API_KEY; {where}"
    elif first_contact and getattr(error, "unsent", False):
        advice = f"the server cannot be reached: check that it runs, the network and proxies; {where}"
    elif first_contact and isinstance(error, APIStatusError):
        if error.status_code in (404, 405) or 300 <= error.status_code < 400:
            advice = f"there is no Tinker API at this address: check base_url= or TINKER_BASE_URL; {where}"
        elif "version" in detail:
            advice = (
                f"the server refuses this protocol version: set sdk_version= (now {config.sdk_version!r})"
            )
    elif isinstance(error, APIStatusError) and error.status_code == 415 and config.protocol != "auto":
        advice = f'the server does not take protocol {config.protocol}: set protocol="auto"'
    elif names_no_thing(error) and error.request is not None:
        what = f"{error.request.method} {error.request.url}"
        advice = f"this server seems to have no such endpoint: {what}"
    elif first_contact and not isinstance(error, APIStatusError) and hasattr(error, "path"):
        advice = f"that is not what a Tinker server answers: check base_url= or TINKER_BASE_URL; {where}"
    if advice and error.args:
        error.args = (f"{error.args[0]} [{advice}]", *error.args[1:])


def names_no_thing(error: APIError) -> bool:
    """What frameworks and gateways answer for a path they do not know, as against a thing that is not there."""
    if not isinstance(error, APIStatusError) or error.status_code not in (404, 405):
        return False
    body = error.body
    return body in ({"detail": "Not Found"}, {"detail": "Method Not Allowed"}, "") or (
        isinstance(body, str) and body.lstrip().startswith("<")
    )
