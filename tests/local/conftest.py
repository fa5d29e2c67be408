"""Embedded servers that the tests of ``tinkex_sync.local`` share."""

import pytest
from server_calls import Wire

from tinkex_sync.local import Faults, LocalServer

#: The client configuration of the shared server of protocol 0.38.0.
CLIENT_CONFIG = {
    "parallel_fwdbwd_chunks": True,
    "sample_use_retrieve_futures": True,
    "sample_join_sampling_session": True,
    "fwdbwd_max_chunk_len": 2,
}


@pytest.fixture(scope="session")
def _server_0_7():
    with LocalServer(models=["Qwen/Qwen3-8B"]) as running:
        yield running


@pytest.fixture(scope="session")
def _server_both():
    with LocalServer(protocol="both", client_config=CLIENT_CONFIG, hold=2.0) as running:
        yield running


@pytest.fixture
def server(_server_0_7):
    """A server of protocol 0.7.0. Faults that a test sets are removed after it."""
    yield _server_0_7
    _server_0_7.set_faults(Faults())


@pytest.fixture
def server_0_38(_server_both):
    """A server of both protocols with all features of 0.38.0. Faults that a test sets are removed after it."""
    pytest.importorskip("google.protobuf")
    yield _server_both
    _server_both.set_faults(Faults())


@pytest.fixture
def wire(server):
    """Requests to ``server``."""
    with Wire(server) as calls:
        yield calls


@pytest.fixture
def wire_0_38(server_0_38):
    """Requests to ``server_0_38``."""
    with Wire(server_0_38) as calls:
        yield calls
