"""Every test of the suite runs on the embedded server and on each imitation in front of it."""

import pytest
from imitations import EMBEDDED, HATCHERY, LATE, NEITHER, SKYRL, STRICT, TUFT, TUFT_TODAY, Imitation, client

from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.local import Faults

ROWS = (EMBEDDED, SKYRL, TUFT, LATE, TUFT_TODAY, HATCHERY, NEITHER, STRICT)


@pytest.fixture(params=ROWS, ids=[row.name for row in ROWS])
def imitated(request, server):
    """A server of each kind; the work is done by the embedded one."""
    server.set_faults(Faults())
    with Imitation(request.param, engine=server.base_url) as running:
        yield running
    server.set_faults(Faults())


@pytest.fixture
def user(imitated):
    """A client of it."""
    with client(imitated) as service:
        yield service


@pytest.fixture
def quick(imitated):
    """A client whose waits are short, and whose chunks are small."""
    with client(imitated, clock=ScaledClock(20), max_chunk_datums=2) as service:
        yield service
