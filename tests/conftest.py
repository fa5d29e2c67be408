"""What every test may use: a clean environment, and one embedded server for the whole run."""

import os
import signal
import threading
import time

import pytest

from tinkex_sync import ServiceClient
from tinkex_sync.clients.base import close_rebuilt_sessions
from tinkex_sync.local import Faults, LocalServer
from tinkex_sync.local.process import BLAS_THREADS
from tinkex_sync.protocol import negotiation as protocol

# The matrices of the embedded model are small. With several BLAS threads they are slower, and results vary in bits.
# The variables must be set before numpy is imported.
os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))


def pytest_configure(config):
    # A runner in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _nothing_from_outside():
    """No settings and no proxies of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("TINKER_", "TINKEX_SYNC_")) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="module", autouse=True)
def _nothing_rebuilt():
    """Close the sessions of unpickled clients, which otherwise last as long as the process."""
    yield
    close_rebuilt_sessions()


@pytest.fixture(autouse=True)
def _nothing_known():
    """What was found out about a server does not count for the next one at its port."""
    protocol.forget()


@pytest.fixture(scope="session")
def server():
    """The embedded server; misbehaviour asked of it is taken back before the next test that uses `service`."""
    with LocalServer() as running:
        yield running


@pytest.fixture
def service(server):
    """A client of the embedded server, on its best behaviour."""
    server.set_faults(Faults())
    with ServiceClient(base_url=server.base_url, api_key="local", load_plugins=False) as client:
        yield client
    server.set_faults(Faults())


def ours():
    """Names of the client's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tinkex-")]


@pytest.fixture
def no_threads_left():
    """After the test, no thread of a client it made is alive."""
    before = {thread.ident for thread in threading.enumerate()}
    yield
    ends, tick = time.monotonic() + 5.0, threading.Event()
    while True:
        left = [
            thread.name
            for thread in threading.enumerate()
            if thread.name.startswith("tinkex-") and thread.ident not in before
        ]
        if not left:
            return
        assert time.monotonic() < ends, f"threads left: {left}"
        tick.wait(0.01)
