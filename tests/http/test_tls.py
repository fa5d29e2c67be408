"""Certificates, and the TLS context that all connections of a client share."""

import ssl
import threading

import pytest
import requests
from scripted_server import Answer, ScriptedServer
from tls_certificate import certificate
from urllib3.util.ssl_ import create_urllib3_context

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.config import Config
from tinkex_sync.errors import APIConnectionError, ConfigError
from tinkex_sync.http import tls
from tinkex_sync.http.request import Request
from tinkex_sync.http.transport import Transport


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def server(folder):
    """Yield a server with TLS; ``bundle`` is the certificate that its clients must trust."""
    context, bundle = certificate(folder)
    with ScriptedServer() as running:
        running.use_tls(context)
        running.defaults["healthz"] = Answer(body={"status": "ok"})
        running.bundle = str(bundle)
        yield running


@pytest.fixture
def connect(server):
    made = []

    def make(**settings):
        timer = Timer(Clock())
        config = Config(**{"base_url": server.base_url, "api_key": "k", "verify": server.bundle, **settings})
        made.extend([Transport(config, timer), timer])
        return made[-2]

    yield make
    for one in made:
        one.close()


def get(transport):
    return transport.send(Request("healthz"), {}, None).json()


def send_concurrently(server, transport, count):
    """Send ``count`` requests, each on a connection of its own."""
    together = threading.Barrier(count, timeout=20)
    server.script("healthz", *[Answer(body={}, hold=together.wait)] * count)
    threads = [threading.Thread(target=get, args=(transport,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_connections_share_one_context_and_the_certificates_are_read_once(server, connect, monkeypatch):
    loads = []
    load = ssl.SSLContext.load_verify_locations
    monkeypatch.setattr(
        ssl.SSLContext, "load_verify_locations", lambda self, *args: (loads.append(args), load(self, *args))
    )
    transport = connect()
    send_concurrently(server, transport, 4)
    assert transport.status()["connections_opened"] == 4
    assert loads == [(server.bundle, None)]


def test_a_second_connection_resumes_the_session_of_the_first(server, connect):
    transport = connect()
    assert [get(transport), get(transport)] == [{"status": "ok"}] * 2
    assert transport.status()["tls_sessions_resumed"] == 0
    send_concurrently(server, transport, 3)
    assert transport.status() == {"in_flight": 0, "connections_opened": 3, "tls_sessions_resumed": 2}


def test_a_session_is_kept_when_a_connection_closes_after_one_request(server, connect):
    transport = connect()
    server.script("healthz", *[Answer(body={}, headers={"Connection": "close"})] * 2)
    get(transport)
    get(transport)
    assert transport.status() == {"in_flight": 0, "connections_opened": 2, "tls_sessions_resumed": 1}


def test_an_untrusted_certificate_is_refused_at_every_connection_and_accepted_without_verification(connect, folder):
    (folder / "other").mkdir()
    _, other = certificate(folder / "other")
    transport = connect(verify=str(other))
    for _ in range(2):
        with pytest.raises(APIConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            get(transport)
    with pytest.warns(match="Unverified HTTPS request"):
        assert get(connect(verify=False)) == {"status": "ok"}


@pytest.mark.skipif(
    not hasattr(requests.adapters.HTTPAdapter, "get_connection_with_tls_context"),
    reason="before 2.32, requests sends any request on a connection that is open",
)
def test_a_request_of_the_user_on_the_session_is_verified_by_its_own_setting(server, connect):
    session = requests.Session()
    transport = connect(session_factory=lambda: session)
    get(transport)
    with pytest.raises(requests.exceptions.SSLError):
        session.get(f"{server.base_url}/api/v1/healthz", verify=True)
    with pytest.warns(match="Unverified HTTPS request"):
        session.get(f"{server.base_url}/api/v1/healthz", verify=False)
    assert get(transport) == {"status": "ok"}


def test_a_client_certificate_is_presented(server, connect, folder):
    presented = []
    required, bundle = certificate(folder)
    required.verify_mode = ssl.CERT_REQUIRED
    required.load_verify_locations(bundle)
    with ScriptedServer() as strict:
        strict.use_tls(required)
        strict.defaults["healthz"] = Answer(body={}, hold=lambda: presented.append(1))
        own = {"base_url": strict.base_url, "verify": str(bundle)}
        get(connect(client_certificate=(str(bundle), str(folder / "key.pem")), **own))
        with pytest.raises(APIConnectionError):
            get(connect(**own))
    assert presented == [1]


def test_the_settings_of_urllib3_are_kept_except_that_sessions_have_tickets():
    context, theirs = tls.make_context(True), create_urllib3_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (context.minimum_version, context.verify_flags) == (theirs.minimum_version, theirs.verify_flags)
    assert context.options == theirs.options & ~ssl.OP_NO_TICKET
    assert context.get_ca_certs()


def test_a_folder_of_certificates_is_accepted(folder):
    assert tls.make_context(str(folder)).verify_mode == ssl.CERT_REQUIRED


def test_a_file_that_is_no_bundle_is_refused(folder):
    (folder / "text.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="verify="):
        tls.make_context(str(folder / "text.pem"))


def test_the_environment_names_the_bundle_unless_the_user_does(folder, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("CURL_CA_BUNDLE", str(folder))
    assert tls.find_certificates(True) == str(folder)
    assert tls.find_certificates(False) is False
    assert tls.find_certificates("mine.pem") == "mine.pem"
