"""Single HTTP requests: headers, redirects, statuses, deprecation notes and settings of the connection."""

import logging

import pytest
import requests
from scripted_server import Answer, ScriptedServer

from tinkex_sync import __version__, errors
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.config import Config
from tinkex_sync.errors import ConfigError, status_error
from tinkex_sync.http.request import Request
from tinkex_sync.http.transport import Transport

OK = Answer(body={"status": "ok"})
LOGGER = "tinkex_sync.http.transport"


@pytest.fixture
def server():
    with ScriptedServer() as running:
        running.defaults["healthz"] = OK
        yield running


@pytest.fixture
def connect(server):
    """Return a function that makes a transport to the server, or to ``base_url``."""
    made = []

    def make(base_url=None, **settings):
        timer = Timer(Clock())
        config = Config(**{"base_url": base_url or server.base_url, "api_key": "tml-key", **settings})
        made.extend([Transport(config, timer), timer])
        return made[-2]

    yield make
    for one in made:
        one.close()


def get(transport, **headers):
    return transport.send(Request("healthz"), headers, None)


def test_a_response_has_status_headers_in_lower_case_and_decoded_body(server, connect):
    server.script("healthz", Answer(201, {"a": 1}, headers={"X-Mine": "yes"}))
    response = get(connect())
    assert (response.status, response.headers["x-mine"], response.json()) == (201, "yes", {"a": 1})
    assert 0 <= response.elapsed < 20


def test_headers_of_the_user_replace_those_of_the_client(server, connect):
    get(connect())
    get(connect(headers={"user-agent": "mine", "X-More": "1"}))
    plain, replaced = (one.headers for one in server.requests)
    assert (plain["x-api-key"], plain["user-agent"]) == ("tml-key", f"tinkex-sync/{__version__}")
    assert (replaced["x-api-key"], replaced["user-agent"], replaced["x-more"]) == ("tml-key", "mine", "1")


def test_headers_of_a_request_replace_all_others(server, connect):
    get(connect(), **{"X-API-Key": "token"})
    assert server.requests[0].headers["x-api-key"] == "token"


def test_the_headers_for_cloudflare_access_are_sent_if_both_are_set(server, connect):
    get(connect(cloudflare_access_client_id="id", cloudflare_access_client_secret="secret"))
    sent = server.requests[0].headers
    assert (sent["cf-access-client-id"], sent["cf-access-client-secret"]) == ("id", "secret")


def test_the_default_query_is_added_to_every_request(server, connect):
    transport = connect(default_query={"a": "x y", "b": True, "c": [1, 2]})
    get(transport)
    transport.send(Request("healthz", query={"d": 4}), {}, None)
    assert [one.query for one in server.requests] == [
        {"a": "x y", "b": "true", "c": "1,2"},
        {"d": "4", "a": "x y", "b": "true", "c": "1,2"},
    ]


def test_a_body_is_json_unless_its_content_type_is_given(server, connect):
    server.defaults["get_info"] = OK
    transport = connect()
    transport.send(Request("get_info", {"model_id": "m"}), {}, None)
    transport.send(Request("get_info", b"packed"), {"Content-Type": "application/x-protobuf"}, None)
    assert [one.headers["content-type"] for one in server.requests] == ["application/json", "application/x-protobuf"]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 415, 422, 429, 500, 503])
def test_another_status_is_raised_as_its_error_with_body_and_request(server, connect, status):
    server.script("healthz", Answer(status, {"detail": "why"}, headers={"Retry-After": "3"}))
    with pytest.raises(errors.APIStatusError, match="why") as caught:
        get(connect())
    assert type(caught.value) is type(status_error(status, body=None))
    assert (caught.value.status_code, caught.value.body) == (status, {"detail": "why"})
    assert caught.value.retry_after == 3.0
    assert (caught.value.request.method, caught.value.request.url) == ("GET", f"{server.base_url}/api/v1/healthz")


def test_the_body_of_an_error_that_is_not_json_is_its_text(server, connect):
    server.script("healthz", Answer(502, text=" <html>Bad Gateway</html>\n"))
    with pytest.raises(errors.APIStatusError) as caught:
        get(connect())
    assert caught.value.body == "<html>Bad Gateway</html>"


def test_a_password_in_the_address_is_in_no_error(server, connect):
    server.script("healthz", Answer(500, {"detail": "x"}), Answer(drop=True))
    transport = connect(server.base_url.replace("http://", "http://user:hidden@"))
    for _ in range(2):
        with pytest.raises(errors.APIError) as caught:
            get(transport)
        assert "hidden" not in f"{caught.value} {caught.value.request}"


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_on_the_same_server_is_followed_with_method_and_body(server, connect, status):
    server.script("get_info", Answer(status, text="", headers={"Location": "/api/v1/moved"}))
    server.defaults["moved"] = OK
    connect().send(Request("get_info", {"model_id": "m"}), {"X-Mine": "1"}, None)
    moved = server.sent("moved")[0]
    assert (moved.method, moved.body, moved.headers["x-mine"]) == ("POST", {"model_id": "m"}, "1")


def test_a_redirect_to_another_server_is_not_followed(server, connect):
    with ScriptedServer() as other:
        server.script("healthz", Answer(307, text="", headers={"Location": f"{other.base_url}/api/v1/healthz"}))
        with pytest.raises(errors.APIStatusError) as caught:
            get(connect())
        assert caught.value.status_code == 307
        assert other.requests == []


@pytest.mark.parametrize("target", ["http://[", "//[::1", "http://h:x/"])
def test_a_redirect_to_a_text_that_is_no_url_is_not_followed(server, connect, target):
    server.script("healthz", Answer(307, text="", headers={"Location": target}))
    with pytest.raises(errors.APIStatusError) as caught:
        get(connect())
    assert caught.value.status_code == 307


def test_a_circle_of_redirects_ends(server, connect):
    server.defaults["healthz"] = Answer(307, text="", headers={"Location": "/api/v1/healthz"})
    with pytest.raises(errors.APIStatusError):
        get(connect())
    assert len(server.requests) == 5


def test_a_redirect_is_the_response_of_an_endpoint_that_accepts_it(server, connect):
    archive = "training_runs/r/checkpoints/weights/x/archive"
    server.script(archive, Answer(302, text="", headers={"Location": "https://storage.example/x"}))
    request = Request("checkpoint_archive", path_values={"run": "r", "checkpoint_path": "weights/x"})
    response = connect().send(request, {}, None)
    assert (response.status, response.headers["location"]) == (302, "https://storage.example/x")


def test_a_deprecation_note_is_logged_once_at_its_level(server, connect, caplog):
    server.script(
        "healthz",
        *[Answer(body={}, headers={"X-Deprecation-Note": "old"})] * 2,
        Answer(body={}, headers={"X-Deprecation-Note": "gone soon", "X-Deprecation-Level": "Error"}),
    )
    transport = connect()
    with caplog.at_level(logging.WARNING, LOGGER):
        for _ in range(3):
            get(transport)
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "Deprecated by the server: note=old"),
        ("ERROR", "Deprecated by the server: note=gone soon"),
    ]


def test_a_missing_certificate_file_of_the_environment_is_named(connect, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    with pytest.raises(ConfigError, match="REQUESTS_CA_BUNDLE='/no/such/bundle.pem': no such file"):
        connect()


def test_proxies_of_the_environment_are_used_except_for_this_machine(connect, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    assert connect("http://tinker.example").proxies["http"] == "http://proxy.example:3128"
    assert connect().proxies == {}
    assert connect(proxies={"http": "http://mine:1"}).proxies == {"http": "http://mine:1"}


def test_a_session_of_the_user_sends_the_requests(server, connect):
    class Own(requests.Session):
        sent = 0

        def send(self, *args, **kwargs):
            type(self).sent += 1
            return super().send(*args, **kwargs)

    def session():
        made = Own()
        made.headers["X-Own"] = "1"
        return made

    assert get(connect(session_factory=session)).json() == {"status": "ok"}
    assert (Own.sent, server.requests[0].headers["x-own"]) == (1, "1")


def test_the_status_counts_requests_in_flight_and_connections(server, connect):
    transport, inside = connect(), []
    server.script("healthz", Answer(body={}, hold=lambda: inside.append(transport.status())))
    get(transport)
    get(transport)
    assert inside == [{"in_flight": 1, "connections_opened": 1, "tls_sessions_resumed": 0}]
    assert transport.status() == {"in_flight": 0, "connections_opened": 1, "tls_sessions_resumed": 0}


def test_cookies_of_the_server_are_sent_back(server, connect):
    transport = connect()
    server.script("healthz", Answer(body={}, headers={"Set-Cookie": "node=b7; Path=/"}))
    for _ in range(3):
        get(transport)
    assert [one.headers.get("cookie") for one in server.requests] == [None, "node=b7", "node=b7"]


def test_credentials_of_a_netrc_file_are_not_sent(server, connect, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hidden")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    transport = connect()
    server.script("healthz", Answer(body={}, headers={"Set-Cookie": "node=b7; Path=/"}))
    get(transport)
    get(transport)  # through the session, because of the cookie
    assert [one.headers.get("authorization") for one in server.requests] == [None, None]


@pytest.mark.parametrize("owner, name", [(requests.Session, "send"), (requests.adapters.HTTPAdapter, "send")])
def test_a_function_of_requests_that_a_tracing_library_replaces_is_called(server, connect, monkeypatch, owner, name):
    transport, urls = connect(), []
    get(transport)
    original = getattr(owner, name)

    def traced(self, request, **options):
        urls.append(request.url)
        return original(self, request, **options)

    monkeypatch.setattr(owner, name, traced)
    get(transport)
    monkeypatch.undo()
    get(transport)
    assert urls == [f"{server.base_url}/api/v1/healthz"]
    # All of them share the connections.
    assert transport.status()["connections_opened"] == 1
