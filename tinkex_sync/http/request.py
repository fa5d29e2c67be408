"""The request value that clients pass down to the transport."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Dict, Mapping, Optional, Union
from urllib.parse import urlencode

from ..errors import Polled
from ..plugins.events import Source
from ..protocol import json_wire
from .call_state import CallState
from .endpoints import ENDPOINTS, Endpoint


def new_idempotency_key() -> str:
    """Return a key that identifies one logical request through all its retries."""
    return f"tinkex-sync-{uuid.uuid4()}"


@dataclass(frozen=True)
class Request:
    """One logical request. Its bytes and its idempotency key are the same in every attempt. Immutable."""

    #: Name of a row of ``endpoints.ENDPOINTS``, or a row of its own.
    endpoint: Union[str, Endpoint]
    #: A value that JSON can express, wire types included, or encoded bytes; None: no body.
    body: Any = None
    #: Values for the braces in the endpoint's path.
    path_values: Mapping[str, str] = field(default_factory=dict)
    query: Optional[Mapping[str, Any]] = None
    #: Headers beside those of every request.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The client it is sent for; default: that of ``call``, else the service client.
    source: Optional[Source] = None
    #: The call it belongs to; its phase and ``sent`` are kept up to date.
    call: Optional[CallState] = None
    #: Time of the client's clock at which it ends with DeadlineExceeded.
    deadline: Optional[float] = None
    #: Whether it is the first contact with the server, after which errors name the settings to check.
    first_contact: bool = False
    #: The server future that it polls, for errors.
    polled: Optional[Polled] = None
    #: Number of the attempt, for observers, where no record of attempts is kept.
    attempt: int = 1
    idempotency_key: str = field(default_factory=new_idempotency_key)

    @cached_property
    def row(self) -> Endpoint:
        """The endpoint's row."""
        return self.endpoint if isinstance(self.endpoint, Endpoint) else ENDPOINTS[self.endpoint]

    @cached_property
    def path(self) -> str:
        """Path below the server's address, query included, quoted."""
        path = self.row.url(**self.path_values)
        return f"{path}?{urlencode(self.query)}" if self.query else path

    @cached_property
    def content(self) -> Optional[bytes]:
        """The encoded body."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return json_wire.encode(self.body)

    def all_headers(self, key: Optional[str]) -> Dict[str, str]:
        """Return the headers of this request, those that the endpoint and the method require included.

        Args:
            key: Value of ``X-API-Key``; None: the transport's.
        """
        headers = dict(self.headers)
        if self.row.accept:
            headers["Accept"] = self.row.accept
        if self.row.method != "GET":
            headers["X-Idempotency-Key"] = self.idempotency_key
        if key is not None:
            headers["X-API-Key"] = key
        return headers
