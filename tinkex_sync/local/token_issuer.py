"""Tokens that replace the API key for a limited time: JSON Web Tokens (RFC 7519, HS256)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from typing import Any, Callable, Optional

import orjson

__all__ = ["TokenIssuer"]


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


_HEADER = _base64url(orjson.dumps({"alg": "HS256", "typ": "JWT"}))


class TokenIssuer:
    """Issues tokens and checks them. Immutable, so threads may share an instance.

    The secret belongs to the instance, so the tokens of an earlier process are not valid.

    Args:
        lifetime: Seconds for which a token is valid.
        now: Returns the current time in seconds.
    """

    def __init__(self, lifetime: float, now: Callable[[], float] = time.time) -> None:
        self._lifetime = lifetime
        self._now = now
        self._secret = secrets.token_bytes(32)

    def issue(self) -> str:
        """Issue a token that is valid from now on."""
        start = self._now()
        claims = {"iat": start, "exp": start + self._lifetime, "jti": secrets.token_hex(8)}
        body = f"{_HEADER}.{_base64url(orjson.dumps(claims))}"
        return f"{body}.{self._signature(body)}"

    def _signature(self, body: str) -> str:
        return _base64url(hmac.new(self._secret, body.encode(), hashlib.sha256).digest())

    def find_problem(self, token: str) -> Optional[str]:
        """Check a token.

        Args:
            token: The token of a request.

        Returns:
            The reason why the token is not valid, or None if it is valid.
        """
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(body).encode(), signature.encode()):
            return "this server did not issue this token"
        part = body.partition(".")[2]
        claims: Any = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return "this token has expired" if claims["exp"] <= self._now() else None
