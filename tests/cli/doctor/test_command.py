"""The doctor before real sockets that are ill in known ways: it must name the illness, and the cure."""

import base64
import contextlib
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_runs import KEY, Commands, in_process, variables
from imitations import TUFT, TUFT_TODAY, Imitation
from scripted_server import Answer, ScriptedServer

from tinkex_sync.local import LocalServer

CERTIFICATES = Path(__file__).with_name("certificates")
SECRET = "tml-very-secret-key"
CHECKS = [
    "configuration",
    "proxy",
    "DNS",
    "TCP",
    "TLS and HTTP",
    "key and version",
    "heartbeat",
    "endpoints",
    "queue",
]


def examine(base_url, *arguments, key=SECRET, **environment):
    """Exit status, stdout, stderr, and the checks by name."""
    settings = {**variables(base_url, key), **environment}
    for name in list(settings):
        if name.lower().endswith(("_proxy", "_ca_bundle", "ssl_cert_file")) and name not in environment:
            del settings[name]
    done = in_process(settings, "-f", "json", "doctor", "--timeout", "5", *arguments)
    status, said, errors = done.returncode, done.stdout, done.stderr
    assert SECRET not in said + errors
    told = json.loads(said)
    assert [row["check"] for row in told["checks"]] == CHECKS
    assert (status == 0) == told["ok"] == all(row["verdict"] != "failed" for row in told["checks"])
    return status, errors, {row["check"]: row for row in told["checks"]}


def failed(base_url, check, fault, *arguments, **environment):
    """The text of the one check that fails; those before it are well, those after it are not run."""
    status, errors, checks = examine(base_url, *arguments, **environment)
    assert status == 1
    row = checks[check]
    assert (row["verdict"], row["fault"]) == ("failed", fault), checks
    assert row["remedy"]
    assert f"{fault}: {row['finding']}" in errors
    assert row["remedy"] in errors
    place = CHECKS.index(check)
    assert [checks[name]["verdict"] for name in CHECKS[:place]] == ["ok"] * place
    assert {checks[name]["verdict"] for name in CHECKS[place + 1 :]} <= {"skipped"}
    return row["finding"] + " / " + row["remedy"]


def test_a_server_in_good_health(server):
    status, _, checks = examine(server.base_url, "--model", "tinkex/tiny", key=KEY)
    assert status == 0, checks
    assert {row["verdict"] for row in checks.values()} == {"ok"}
    assert checks["key and version"]["data"]["wire"] == "json"
    assert "one token from tinkex/tiny" in checks["queue"]["finding"]
    assert examine(server.base_url, key=KEY)[2]["queue"]["verdict"] == "skipped"


def test_a_table_for_people(command):
    done = command("doctor")
    assert done.returncode == 0
    assert "All is well" in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_no_key():
    settings = {
        name: value for name, value in variables("http://localhost:9").items() if "API_KEY" not in name
    }
    done = Commands(settings)("doctor", "-f", "json")
    assert done.returncode == 1
    first = json.loads(done.stdout)["checks"][0]
    assert first["verdict"] == "failed"
    assert "TINKER_API_KEY" in first["finding"]


def test_settings_that_are_none():
    assert "ftp://x" in failed("ftp://x", "configuration", "configuration")
    assert "/no/such" in failed(
        "https://localhost", "configuration", "configuration", REQUESTS_CA_BUNDLE="/no/such"
    )


def test_a_name_that_nobody_knows():
    text = failed("http://no-such-host.invalid", "DNS", "DNS")
    assert "no-such-host.invalid" in text
    assert "TINKER_BASE_URL" in text


@contextlib.contextmanager
def listening(serve=None):
    """A port; ``serve(connection)`` runs for each that connects, without it nobody answers."""
    with socket.create_server(("localhost", 0)) as listener:
        stopping = threading.Event()
        kept = []

        def accept():
            with contextlib.suppress(OSError):
                while not stopping.is_set():
                    connection, _ = listener.accept()
                    kept.append(connection)
                    if serve is not None:
                        with contextlib.suppress(OSError):
                            serve(connection)

        thread = threading.Thread(target=accept, name="listener", daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield port
        finally:
            stopping.set()
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
                pass
            thread.join(5)
            for connection in kept:
                connection.close()


def test_a_port_where_nobody_listens():
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
    text = failed(f"http://localhost:{port}", "TCP", "TCP")
    assert "refused" in text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_listens_and_says_nothing(scheme):
    with listening() as port:
        text = failed(f"{scheme}://localhost:{port}", "TLS and HTTP", "HTTP", "--timeout", "0.5")
    assert "says nothing for 0.5 s" in text


class Api(BaseHTTPRequestHandler):
    """A server of something else: 200 and a page for everything."""

    def do_GET(self):
        content = b"<html>hello</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def running(handler, certificate=None, kind=ThreadingHTTPServer):
    with kind(("localhost", 0), handler) as http:
        http.handle_error = lambda *_: None  # clients that do not trust us hang up
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATES / certificate)
            http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=lambda: http.serve_forever(0.02), name="http", daemon=True)
        thread.start()
        try:
            yield http.server_address[1]
        finally:
            http.shutdown()
            thread.join(5)


@pytest.mark.parametrize(
    ("certificate", "trusted", "said", "cure"),
    [
        ("good.pem", False, "self-signed", "SSL_CERT_FILE"),
        ("expired.pem", True, "has expired", "renew"),
        ("elsewhere.pem", True, "is for another host", "TINKER_BASE_URL"),
    ],
)
def test_certificates(certificate, trusted, said, cure):
    with running(Api, certificate, HTTPServer) as port:
        bundle = {"REQUESTS_CA_BUNDLE": str(CERTIFICATES / certificate)} if trusted else {}
        text = failed(f"https://localhost:{port}", "TLS and HTTP", "TLS", **bundle)
    assert said in text
    assert cure in text


def test_a_certificate_that_is_trusted_lets_through_to_what_is_no_tinker_server():
    with running(Api, "good.pem", HTTPServer) as port:
        bundle = str(CERTIFICATES / "good.pem")
        text = failed(f"https://localhost:{port}", "key and version", "address", REQUESTS_CA_BUNDLE=bundle)
    assert "no Tinker API" in text


def test_plain_http_on_a_port_for_tls_and_the_reverse():
    with running(Api) as port:
        text = failed(f"https://localhost:{port}", "TLS and HTTP", "TLS")
        assert "does not speak TLS" in text
        assert "http://" in text
    with running(Api, "good.pem", HTTPServer) as port:
        text = failed(f"http://localhost:{port}", "TLS and HTTP", "HTTP")
        assert "http:// or https://" in text


class Proxy(BaseHTTPRequestHandler):
    """Lets nobody through without a password."""

    def refuse(self):
        right = "Basic " + base64.b64encode(b"me:pass").decode()
        self.send_response(503 if self.headers.get("Proxy-Authorization") == right else 407)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_CONNECT = refuse

    def log_message(self, *_):
        pass


def test_a_proxy_that_wants_a_password():
    with running(Proxy) as port:
        for scheme in ("http", "https"):
            proxy = {f"{scheme.upper()}_PROXY": f"http://localhost:{port}"}
            text = failed(f"{scheme}://far.invalid", "TLS and HTTP", "proxy", **proxy)
            assert "407" in text
            assert f"{scheme.upper()}_PROXY" in text
        right = {"HTTP_PROXY": f"http://me:pass@localhost:{port}"}
        text = failed("http://far.invalid", "TLS and HTTP", "HTTP", **right)
        assert "503" in text
        assert "me:pass" not in text


def test_a_proxy_that_is_not_there():
    text = failed("http://far.invalid", "DNS", "DNS", HTTP_PROXY="http://no-proxy.invalid:3128")
    assert "the name of the proxy" in text
    assert "NO_PROXY" in text
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
    text = failed("https://far.invalid", "TCP", "TCP", HTTPS_PROXY=f"http://me:pass@localhost:{port}")
    assert "the proxy runs" in text
    assert "pass@" not in text


def test_a_wrong_key(server):
    text = failed(server.base_url, "key and version", "key")
    assert "TINKER_API_KEY" in text


@pytest.fixture
def scripted():
    with ScriptedServer() as server:
        server.defaults["healthz"] = Answer(body={"status": "ok"})
        server.defaults["create_session"] = Answer(body={"session_id": "s-1"})
        yield server


def test_a_version_that_is_refused(scripted):
    gate = {"detail": f"SDK version no longer supported, key {SECRET}"}
    scripted.script("create_session", Answer(400, gate))
    text = failed(scripted.base_url, "key and version", "version")
    assert "0.7.0" in text
    assert "sdk_version" in text


@pytest.mark.parametrize(
    ("answer", "check", "fault", "said"),
    [
        (Answer(503, text="away"), "TLS and HTTP", "HTTP", "behind it is away"),
        (Answer(500, {"detail": "broken"}), "TLS and HTTP", "HTTP", "has a problem"),
        (
            Answer(302, text="", headers={"Location": "http://other.invalid/"}),
            "TLS and HTTP",
            "HTTP",
            "other.invalid",
        ),
    ],
)
def test_first_answers_that_are_bad_news(scripted, answer, check, fault, said):
    scripted.script("healthz", answer)
    assert said in failed(scripted.base_url, check, fault)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(404, {"detail": "Not Found"}), "address"),
        (Answer(402, {"detail": "pay"}), "billing"),
        (Answer(429, {"detail": "enough"}), "limit"),
        (Answer(500, {"detail": "no"}), "session"),
        (Answer(200, text="hello"), "address"),
    ],
)
def test_sessions_that_cannot_be_opened(scripted, answer, fault):
    scripted.script("create_session", answer)
    failed(scripted.base_url, "key and version", fault)


def test_a_heartbeat_that_is_refused_and_endpoints_that_are_missing(scripted):
    scripted.defaults["session_heartbeat"] = Answer(404, {"detail": "no such session"})
    there = Answer(422, {"detail": "empty body"})
    for operation in ("create_model", "forward_backward", "asample", "retrieve_future", "training_runs"):
        scripted.defaults[operation] = there
    for operation in ("get_server_capabilities", "sessions"):
        scripted.defaults[operation] = Answer(404, {"detail": "Not Found"})
    _, errors, checks = examine(scripted.base_url)
    assert checks["heartbeat"]["verdict"] == checks["endpoints"]["verdict"] == "failed"
    lost = checks["endpoints"]["data"]
    assert lost == {
        "/api/v1/get_server_capabilities": "listing of the models",
        "/api/v1/sessions": "session list",
    }
    assert "no session list" in errors
    assert not [request for request in scripted.requests if request.method == "DELETE"]


def test_a_server_that_answers_405_tells_all_by_a_method_that_nothing_has(server):
    before = server.stats()["requests"]
    checks = examine(server.base_url, key=KEY)[2]
    after = server.stats()["requests"]
    assert checks["endpoints"]["finding"] == "all 23 are there"
    for operation in ("create_model", "asample", "forward_backward"):
        assert after.get(operation, 0) == before.get(operation, 0), "it does nothing but look"


def test_what_is_not_installed_here_is_told_before_it_is_missed(scripted, monkeypatch):
    monkeypatch.setattr("tinkex_sync.protocol.json_wire.reads_protobuf", lambda: False)
    scripted.script("client/config", Answer(body={"parallel_fwdbwd_chunks": False}))
    scripted.script("create_session", Answer(body={"session_id": "s-1"}))
    found = examine(scripted.base_url)[2]["key and version"]
    assert found["verdict"] == "ok"
    assert "pip install 'tinkex-sync[proto]'" in found["finding"]


class HangsUp(dict):
    """No request has an answer."""

    def get(self, operation, default=None):
        return Answer(drop=True)


def test_a_server_that_goes_away_in_between(scripted):
    scripted.script("healthz", Answer(body={"status": "ok"}))
    scripted.script("client/config", Answer(404, {"detail": "Not Found"}))
    scripted.script("create_session", Answer(body={"session_id": "s-1"}))
    scripted.defaults = HangsUp()
    _, _, checks = examine(scripted.base_url)
    assert checks["endpoints"]["verdict"] == "failed"
    assert checks["endpoints"]["remedy"]


def test_a_server_that_hangs_up_on_what_it_did_not_expect_lacks_nothing_for_that(scripted):
    scripted.script("create_session", Answer(body={"session_id": "s-1"}))
    scripted.defaults["forward"] = Answer(drop=True)
    for operation in ("create_model", "asample"):
        scripted.defaults[operation] = Answer(422, {"detail": "empty body"})
    checks = examine(scripted.base_url)[2]
    assert checks["endpoints"]["verdict"] == "ok", checks
    assert checks["endpoints"]["finding"].startswith("20 of 21 are there")


@pytest.mark.parametrize("column", [TUFT_TODAY, TUFT], ids=lambda column: column.name)
def test_servers_that_lack_what_they_need_not_have(column):
    with LocalServer() as engine, Imitation(column, engine=engine.base_url) as running:
        status, _, checks = examine(running.base_url, "--model", "tinkex/tiny", key=running.key)
    assert status == 0, checks
    found = checks["key and version"]
    assert found["data"]["wire"] == ("protobuf" if column is TUFT_TODAY else "json")
    announced = "samples sent at once of at most 10,485,760 bytes, 2,000 in progress"
    assert found["finding"].endswith(announced) == (column is TUFT_TODAY)


def test_a_queue_that_does_not_move(scripted):
    scripted.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "x"})
    scripted.defaults["asample"] = Answer(body={"request_id": "r"})
    scripted.defaults["retrieve_future"] = Answer(
        body={"type": "try_again", "request_id": "r", "queue_state": "paused_capacity"}
    )
    checks = examine(scripted.base_url, "--model", "m", "--timeout", "1")[2]
    assert checks["queue"]["verdict"] == "failed"
    assert "paused_capacity" in checks["queue"]["finding"]
