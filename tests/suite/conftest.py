"""Fixtures that run each test of the suite on the embedded server and on every imitation."""

import pytest
from imitations import EMBEDDED, HATCHERY, LATE, NEITHER, SKYRL, STRICT, TUFT, TUFT_0_38, Imitation, client

from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.local import Faults

PROFILES = (EMBEDDED, SKYRL, TUFT, LATE, TUFT_0_38, HATCHERY, NEITHER, STRICT)


@pytest.fixture(params=PROFILES, ids=[profile.name for profile in PROFILES])
def imitated(request, server):
    """A server with each profile. The embedded server computes the results."""
    server.set_faults(Faults())
    with Imitation(request.param, engine=server.base_url) as running:
        yield running
    server.set_faults(Faults())


@pytest.fixture
def user(imitated):
    """A client of ``imitated``."""
    with client(imitated) as service:
        yield service


@pytest.fixture
def quick(imitated):
    """A client of ``imitated`` with a 20 times faster clock and chunks of two datums."""
    with client(imitated, clock=ScaledClock(20), max_chunk_datums=2) as service:
        yield service


@pytest.fixture
def very_quick(imitated):
    """Like ``quick``, with a 60 times faster clock, for errors that the client retries for a minute."""
    with client(imitated, clock=ScaledClock(60), max_chunk_datums=2) as service:
        yield service
