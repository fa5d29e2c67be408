"""Tokens that stand in the place of the key for a while: JSON Web Tokens (RFC 7519, HS256) of this process."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from typing import Any, Callable, Optional

import orjson

__all__ = ["Tokens"]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


_HEAD = _text(orjson.dumps({"alg": "HS256", "typ": "JWT"}))


class Tokens:
    """Issues tokens and knows its own. A restarted server has another secret: old tokens are not valid there."""

    def __init__(self, life: float, now: Callable[[], float] = time.time) -> None:
        self._life = life
        self._now = now
        self._secret = secrets.token_bytes(32)

    def issue(self) -> str:
        """A token that is good from now on."""
        start = self._now()
        claims = {"iat": start, "exp": start + self._life, "jti": secrets.token_hex(8)}
        body = f"{_HEAD}.{_text(orjson.dumps(claims))}"
        return f"{body}.{self._signature(body)}"

    def _signature(self, body: str) -> str:
        return _text(hmac.new(self._secret, body.encode(), hashlib.sha256).digest())

    def complaint(self, token: str) -> Optional[str]:
        """What is wrong with a token; None: nothing."""
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(body).encode(), signature.encode()):
            return "this token is not one of this server's"
        part = body.partition(".")[2]
        claims: Any = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return "this token has expired" if claims["exp"] <= self._now() else None
