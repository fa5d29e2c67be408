"""A client of the official shape, connected to the embedded server."""

import pytest

import tinkex_sync.compat as tinker
from tinkex_sync.local import Faults


@pytest.fixture
def client(server):
    server.set_faults(Faults())
    service = tinker.ServiceClient(base_url=server.base_url, api_key="local", load_plugins=False)
    yield service
    service.holder.close()
    server.set_faults(Faults())
