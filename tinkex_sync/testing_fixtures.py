"""Fixtures for pytest, which finds them by the entry point of this package: an embedded server and a client of it.

- ``tinkex_server``: the embedded server, one for the whole run. Faults of one test do not reach the next one.
- ``tinkex_service``: a service client of it, without plugins of the environment, closed after the test.
- ``@pytest.mark.tinkex_faults(pause=2.0, ...)``: fields of ``tinkex_sync.local.Faults`` during the test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator

import pytest

if TYPE_CHECKING:
    from .clients import ServiceClient
    from .local import LocalServer

__all__ = ["pytest_configure", "tinkex_server", "tinkex_service"]


def pytest_configure(config: Any) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "tinkex_faults(**faults): what the embedded server does wrong during the test")


@pytest.fixture(scope="session")
def _tinkex_running_server() -> Iterator[LocalServer]:
    from .local import LocalServer

    with LocalServer() as server:
        yield server


@pytest.fixture
def tinkex_server(_tinkex_running_server: LocalServer, request: Any) -> Iterator[LocalServer]:
    """The embedded server, with the faults of the marker ``tinkex_faults``.

    Raises:
        MissingExtraError: ``tinkex_sync[local]`` is not installed.
        ValueError: A fault of the marker does not exist or is out of range.
    """
    from .local import Faults

    mark = request.node.get_closest_marker("tinkex_faults")
    try:
        faults = Faults() if mark is None else Faults(**mark.kwargs)
    except TypeError as error:
        raise ValueError(
            f"@pytest.mark.tinkex_faults: {error}; help(tinkex_sync.local.Faults) lists the names"
        ) from None
    _tinkex_running_server.set_faults(faults)
    yield _tinkex_running_server
    _tinkex_running_server.set_faults(Faults())


@pytest.fixture
def tinkex_service(tinkex_server: LocalServer) -> Iterator[ServiceClient]:
    """A client of ``tinkex_server``. Plugins are added with ``tinkex_service.plugins.register(...)``."""
    from .clients import ServiceClient

    with ServiceClient(base_url=tinkex_server.base_url, api_key="local", load_plugins=False) as service:
        yield service
