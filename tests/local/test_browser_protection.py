"""Requests of web pages are rejected, and links do not depend on the header Host."""

import http.client

import pytest
from server_calls import Wire

from tinkex_sync.local import LocalServer
from tinkex_sync.local.browser_protection import find_problem, is_wildcard

CONTROL = ("/__faults", "/__stats")
OWN = "127.0.0.1:8000"


@pytest.mark.parametrize("path", CONTROL)
@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "10.0.0.1"])
def test_control_endpoint_rejects_a_foreign_host(path, host):
    assert "Host" in find_problem(path, host, None, "127.0.0.1")


@pytest.mark.parametrize("path", CONTROL)
@pytest.mark.parametrize("host", [OWN, "localhost:1", "LOCALHOST", "[::1]:8000", "127.1.2.3"])
def test_control_endpoint_accepts_a_loopback_host(path, host):
    assert find_problem(path, host, None, "127.0.0.1") is None
    assert find_problem(path, host, f"http://{host}", "127.0.0.1") is None


def test_control_endpoint_accepts_the_configured_host():
    assert find_problem("/__stats", "box.example:8000", None, "box.example") is None
    assert find_problem("/__stats", "0.0.0.0:8000", None, "0.0.0.0") is not None


@pytest.mark.parametrize("path", [*CONTROL, "/api/v1/asample"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "https://localhost.evil.example:8000"])
def test_foreign_origin_is_rejected(path, origin):
    assert "Origin" in find_problem(path, OWN, origin, "127.0.0.1")


def test_control_endpoint_rejects_the_origin_of_another_local_server():
    assert "Origin" in find_problem("/__faults", OWN, "http://127.0.0.1:3000", "127.0.0.1")
    assert find_problem("/api/v1/asample", OWN, "http://127.0.0.1:3000", "127.0.0.1") is None


def test_wildcard_addresses_are_recognized():
    assert [is_wildcard(host) for host in ("0.0.0.0", "::", "", "127.0.0.1", "localhost")] == [True] * 3 + [False] * 2


def test_server_rejects_requests_of_web_pages_with_403(server):
    host, port = server.base_url[len("http://") :].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    headers = {"Host": "evil.example", "Origin": "http://evil.example", "Content-Type": "text/plain"}
    for method, path in (("POST", "/__faults"), ("GET", "/__stats"), ("POST", "/api/v1/create_session")):
        connection.request(method, path, b'{"pause": 3600}', headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 403
    connection.close()
    assert server.stats()["polls"] == 0


@pytest.mark.parametrize("protocol", ["0.7", "both"])
def test_links_contain_the_configured_address(protocol):
    with LocalServer(protocol=protocol) as server, Wire(server, Host="evil.example") as wire:
        model = wire.model()
        wire.save(model, "a")
        checkpoint = f"training_runs/{model}/checkpoints/weights/a"
        links = [wire.get(f"{checkpoint}/archive").headers["Location"]]
        if protocol == "both":
            links += wire.get(f"{checkpoint}/external_weights_urls").json()["urls"].values()
        for link in links:
            assert link.startswith(f"{server.base_url}/archives/")
