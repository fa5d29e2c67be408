"""The suite runs on request only: it needs programs of the operating system, and waits for real timeouts."""

import contextlib
import logging
import os
import ssl

import pytest
from gateway_table import Row, write_page
from main_job import BLOCKING, MANY, STEPS, run_main_job
from tls_front import tls_front

from tinkex_sync import ServiceClient
from tinkex_sync.local import Faults, LocalServer

_ROWS = []


def pytest_collection_modifyitems(items):
    if not os.environ.get("TINKEX_GATEWAYS"):
        skip = pytest.mark.skip(reason="the suite of gateways runs on request: tox -e gateways, or TINKEX_GATEWAYS=1")
        for item in items:
            if "gateways" in item.path.parts:
                item.add_marker(skip)


def pytest_sessionfinish():
    page = os.environ.get("TINKEX_GATEWAYS_PAGE")
    if page and _ROWS:
        write_page(page, _ROWS)


@pytest.fixture(scope="session")
def direct(tmp_path_factory):
    """The results of the main job over a direct connection."""
    with (
        LocalServer() as server,
        ServiceClient(base_url=server.base_url, api_key="local", load_plugins=False) as service,
    ):
        return run_main_job(service, tmp_path_factory.mktemp("direct"))


@pytest.fixture
def counted(server):
    """Return a function that returns the numbers of operations that the server has carried out in this test."""
    names = ("optim_steps", "datums_done", "samples_done")
    before = server.stats()

    def read(*names_read):
        stats = server.stats()
        return {name: stats[name] - before[name] for name in names_read or names}

    return read


class Recorder(logging.Handler):
    """Keeps the lines that the client logs from WARNING on."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines += record.getMessage().splitlines()


@pytest.fixture
def logged():
    handler = Recorder()
    logger = logging.getLogger("tinkex_sync")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@pytest.fixture
def record(logged):
    """Return a function that adds a row to the table of the recorded run."""

    def add(gateway, situation, work, cut=0, result="each carried out once"):
        _ROWS.append(Row(gateway.name, situation, work, result, cut, len(logged)))

    return add


@pytest.fixture
def check_main_job(server, direct, counted, logged, record, tmp_path):
    """Return a function that runs the main job through a gateway and compares it with the direct connection."""

    def check(gateway, situation, base_url, *, slow=True, **settings):
        def slow_down(phase):
            server.set_faults(Faults(pause=7.0, pause_hold=60.0) if slow and phase != "download" else Faults())

        with ServiceClient(base_url=base_url, api_key="local", load_plugins=False, **settings) as service:
            results = run_main_job(service, tmp_path, slow_down)
        assert results == direct
        samples = BLOCKING + MANY
        assert counted() == {"optim_steps": STEPS, "datums_done": STEPS, "samples_done": samples}
        cut = gateway.requests_cut()
        assert len(logged) <= 5 and not any("<" in line for line in logged), logged
        record(gateway, situation, f"{STEPS} steps, 2 saves, {samples} samples, 1 download", cut, "equal to direct")
        return cut

    yield check
    server.set_faults(Faults())


@pytest.fixture
def tls(server, tmp_path):
    """Return a function that puts TLS in front of the embedded server, and returns port and bundle."""
    trustme = pytest.importorskip("trustme", reason="pip install trustme")
    trusted = trustme.CA()
    bundle = tmp_path / "bundle.pem"
    trusted.cert_pem.write_to_path(str(bundle))
    with contextlib.ExitStack() as stack:

        def start(*names, **certificate):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trusted.issue_cert(*names, **certificate).configure_cert(context)
            return stack.enter_context(tls_front(server.base_url, context)), str(bundle)

        yield start


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets the proxies of the environment."""

    def put(url, no_proxy=""):
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("HTTPS_PROXY", url)
        monkeypatch.setenv("NO_PROXY", no_proxy)

    return put
