"""Clients that exist for the duration of one command, and their address in messages."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator

from .output import Output

if TYPE_CHECKING:
    from ..clients import ServiceClient
    from ..clients.rest import RestClient

__all__ = ["connected_rest", "connected_service"]

#: Settings for a single lookup: the user waits for it, so an error after 15 s is better than five minutes of retries.
_SHORT_RETRY = {"retry_for": 15.0, "max_retries": 3}


@contextmanager
def connected_service(output: Output, **settings: Any) -> Iterator[ServiceClient]:
    """Open a service client for the server of ``--base-url`` or ``TINKER_BASE_URL``, and close it at the end.

    Args:
        settings: Further arguments of :class:`ServiceClient`.
    """
    from ..clients import ServiceClient

    with ServiceClient(base_url=output.base_url, **settings) as client:
        yield client


@contextmanager
def connected_rest(output: Output) -> Iterator[RestClient]:
    """Open a REST client that retries for at most 15 s, and close it at the end."""
    with connected_service(output, **_SHORT_RETRY) as client:
        yield client.create_rest_client()
