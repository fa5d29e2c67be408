"""Clients for the length of one command."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator

from .output import Output

if TYPE_CHECKING:
    from ..clients import ServiceClient
    from ..clients.rest import RestClient

__all__ = ["connected_rest", "connected_service"]

#: Somebody is sitting there waiting for one answer.
_IMPATIENT = {"retry_for": 15.0, "max_retries": 3}


@contextmanager
def connected_service(output: Output, **settings: Any) -> Iterator[ServiceClient]:
    """A service client on the server the user named."""
    from ..clients import ServiceClient

    with ServiceClient(base_url=output.base_url, **settings) as client:
        yield client


@contextmanager
def connected_rest(output: Output) -> Iterator[RestClient]:
    """A REST client that gives up after 15 s rather than five minutes."""
    with connected_service(output, **_IMPATIENT) as client:
        yield client.create_rest_client()
