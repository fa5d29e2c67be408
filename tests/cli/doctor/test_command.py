"""``tinkex-sync doctor`` against servers with known faults: it names the fault and the remedy."""

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
from imitations import TUFT, TUFT_0_38, Imitation
from scripted_server import Answer

from tinkex_sync.local import LocalServer

CERTIFICATES = Path(__file__).with_name("certificates")
SECRET = "tml-very-secret-key"
CHECKS = ["configuration", "proxy", "DNS", "TCP", "TLS and HTTP", "key and version", "heartbeat", "endpoints", "queue"]


def run_doctor(base_url, *arguments, key=SECRET, **environment):
    """Run the doctor and return its exit status, standard error, and the checks by name."""
    settings = {**variables(base_url, key), **environment}
    for name in list(settings):
        if name.lower().endswith(("_proxy", "_ca_bundle", "ssl_cert_file")) and name not in environment:
            del settings[name]
    done = in_process(settings, "-f", "json", "doctor", "--timeout", "5", *arguments)
    status, errors = done.returncode, done.stderr
    assert SECRET not in done.stdout + errors
    result = json.loads(done.stdout)
    assert [row["check"] for row in result["checks"]] == CHECKS
    assert (status == 0) == result["ok"] == all(row["verdict"] != "failed" for row in result["checks"])
    return status, errors, {row["check"]: row for row in result["checks"]}


def failing_check(base_url, check, fault, *arguments, **environment):
    """Require that one check fails, those before it succeed and those after it are skipped. Return its text."""
    status, errors, checks = run_doctor(base_url, *arguments, **environment)
    assert status == 1
    row = checks[check]
    assert (row["verdict"], row["fault"]) == ("failed", fault), checks
    assert row["remedy"]
    assert f"{fault}: {row['finding']}" in errors
    assert row["remedy"] in errors
    position = CHECKS.index(check)
    assert [checks[name]["verdict"] for name in CHECKS[:position]] == ["ok"] * position
    assert {checks[name]["verdict"] for name in CHECKS[position + 1 :]} <= {"skipped"}
    return row["finding"] + " / " + row["remedy"]


def test_all_checks_of_a_healthy_server_succeed(server):
    status, _, checks = run_doctor(server.base_url, "--model", "tinkex/tiny", key=KEY)
    assert status == 0, checks
    assert {row["verdict"] for row in checks.values()} == {"ok"}
    assert checks["key and version"]["data"]["wire"] == "json"
    assert "one token from tinkex/tiny" in checks["queue"]["finding"]
    assert run_doctor(server.base_url, key=KEY)[2]["queue"]["verdict"] == "skipped"


def test_the_table_contains_no_key(command):
    done = command("doctor")
    assert done.returncode == 0
    assert "No problem found" in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_a_missing_key_names_its_variable():
    settings = {name: value for name, value in variables("http://localhost:9").items() if "API_KEY" not in name}
    done = Commands(settings)("doctor", "-f", "json")
    assert done.returncode == 1
    first = json.loads(done.stdout)["checks"][0]
    assert first["verdict"] == "failed"
    assert "TINKER_API_KEY" in first["finding"]


def test_wrong_settings_fail_the_configuration():
    assert "ftp://x" in failing_check("ftp://x", "configuration", "configuration")
    assert "/no/such" in failing_check(
        "https://localhost", "configuration", "configuration", REQUESTS_CA_BUNDLE="/no/such"
    )


def test_an_unknown_host_name_fails_dns():
    text = failing_check("http://no-such-host.invalid", "DNS", "DNS")
    assert "no-such-host.invalid" in text
    assert "TINKER_BASE_URL" in text


@contextlib.contextmanager
def listening(serve=None):
    """Listen on a port. ``serve(connection)`` is called for each connection; without it there is no response."""
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


def test_a_refused_connection_fails_tcp():
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
    text = failing_check(f"http://localhost:{port}", "TCP", "TCP")
    assert "refused" in text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_without_a_response_fails_http(scheme):
    with listening() as port:
        text = failing_check(f"{scheme}://localhost:{port}", "TLS and HTTP", "HTTP", "--timeout", "0.5")
    assert "did not respond for 0.5 s" in text


class Api(BaseHTTPRequestHandler):
    """A server of another kind, which returns a page with status 200 for every request."""

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
        http.handle_error = lambda *_: None  # clients that do not trust the certificate close the connection
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
    ("certificate", "is_trusted", "problem", "remedy"),
    [
        ("good.pem", False, "self-signed", "SSL_CERT_FILE"),
        ("expired.pem", True, "has expired", "renew"),
        ("elsewhere.pem", True, "is for another host", "TINKER_BASE_URL"),
    ],
)
def test_a_wrong_certificate_fails_tls(certificate, is_trusted, problem, remedy):
    with running(Api, certificate, HTTPServer) as port:
        bundle = {"REQUESTS_CA_BUNDLE": str(CERTIFICATES / certificate)} if is_trusted else {}
        text = failing_check(f"https://localhost:{port}", "TLS and HTTP", "TLS", **bundle)
    assert problem in text
    assert remedy in text


def test_a_server_with_a_trusted_certificate_and_no_tinker_api_has_a_wrong_address():
    with running(Api, "good.pem", HTTPServer) as port:
        bundle = str(CERTIFICATES / "good.pem")
        text = failing_check(f"https://localhost:{port}", "key and version", "address", REQUESTS_CA_BUNDLE=bundle)
    assert "no Tinker API" in text


def test_plain_http_on_a_tls_port_and_the_reverse_fail():
    with running(Api) as port:
        text = failing_check(f"https://localhost:{port}", "TLS and HTTP", "TLS")
        assert "does not speak TLS" in text
        assert "http://" in text
    with running(Api, "good.pem", HTTPServer) as port:
        text = failing_check(f"http://localhost:{port}", "TLS and HTTP", "HTTP")
        assert "http:// or https://" in text


class Proxy(BaseHTTPRequestHandler):
    """A proxy that requires a password."""

    def refuse(self):
        right = "Basic " + base64.b64encode(b"me:pass").decode()
        self.send_response(503 if self.headers.get("Proxy-Authorization") == right else 407)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_CONNECT = refuse

    def log_message(self, *_):
        pass


def test_a_proxy_that_requires_a_password_fails():
    with running(Proxy) as port:
        for scheme in ("http", "https"):
            proxy = {f"{scheme.upper()}_PROXY": f"http://localhost:{port}"}
            text = failing_check(f"{scheme}://far.invalid", "TLS and HTTP", "proxy", **proxy)
            assert "407" in text
            assert f"{scheme.upper()}_PROXY" in text
        right = {"HTTP_PROXY": f"http://me:pass@localhost:{port}"}
        text = failing_check("http://far.invalid", "TLS and HTTP", "HTTP", **right)
        assert "503" in text
        assert "me:pass" not in text


def test_a_missing_proxy_fails_dns_or_tcp():
    text = failing_check("http://far.invalid", "DNS", "DNS", HTTP_PROXY="http://no-proxy.invalid:3128")
    assert "the name of the proxy" in text
    assert "NO_PROXY" in text
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
    text = failing_check("https://far.invalid", "TCP", "TCP", HTTPS_PROXY=f"http://me:pass@localhost:{port}")
    assert "the proxy runs" in text
    assert "pass@" not in text


def test_a_wrong_key_fails_the_key(server):
    text = failing_check(server.base_url, "key and version", "key")
    assert "TINKER_API_KEY" in text


def test_a_refused_version_fails_the_version(scripted):
    gate = {"detail": f"SDK version no longer supported, key {SECRET}"}
    scripted.script("create_session", Answer(400, gate))
    text = failing_check(scripted.base_url, "key and version", "version")
    assert "0.7.0" in text
    assert "sdk_version" in text


@pytest.mark.parametrize(
    ("answer", "check", "fault", "reason"),
    [
        (Answer(503, text="away"), "TLS and HTTP", "HTTP", "behind it is unavailable"),
        (Answer(500, {"detail": "broken"}), "TLS and HTTP", "HTTP", "has a problem"),
        (Answer(302, text="", headers={"Location": "http://other.invalid/"}), "TLS and HTTP", "HTTP", "other.invalid"),
    ],
)
def test_an_error_of_the_first_request_fails_http(scripted, answer, check, fault, reason):
    scripted.script("healthz", answer)
    assert reason in failing_check(scripted.base_url, check, fault)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(404, {"detail": "Not Found"}), "address"),
        (Answer(402, {"detail": "pay"}), "billing"),
        (Answer(429, {"detail": "enough"}), "limit"),
        (Answer(500, {"detail": "no"}), "session"),
        (Answer(200, text="hello"), "address"),
        (Answer(501, text="<!DOCTYPE HTML>\n<html><body>Unsupported method</body></html>"), "address"),
    ],
)
def test_a_session_that_cannot_be_created_names_the_fault(scripted, answer, fault):
    scripted.script("create_session", answer)
    assert "<" not in failing_check(scripted.base_url, "key and version", fault)


def test_a_refused_heartbeat_and_missing_endpoints_are_reported_together(scripted):
    scripted.defaults["session_heartbeat"] = Answer(404, {"detail": "no such session"})
    there = Answer(422, {"detail": "empty body"})
    for operation in ("create_model", "forward_backward", "asample", "retrieve_future", "training_runs"):
        scripted.defaults[operation] = there
    for operation in ("get_server_capabilities", "sessions"):
        scripted.defaults[operation] = Answer(404, {"detail": "Not Found"})
    _, errors, checks = run_doctor(scripted.base_url)
    assert checks["heartbeat"]["verdict"] == checks["endpoints"]["verdict"] == "failed"
    lost = checks["endpoints"]["data"]
    assert lost == {"/api/v1/get_server_capabilities": "the list of models", "/api/v1/sessions": "session list"}
    assert "(for session list)" in errors
    assert not [request for request in scripted.requests if request.method == "DELETE"]


def test_endpoints_are_found_without_an_effect_on_the_server(server):
    before = server.stats()["requests"]
    checks = run_doctor(server.base_url, key=KEY)[2]
    after = server.stats()["requests"]
    assert checks["endpoints"]["finding"] == "all 23 exist"
    for operation in ("create_model", "asample", "forward_backward"):
        assert after.get(operation, 0) == before.get(operation, 0), "the operation was requested"


def test_missing_protobuf_is_reported(scripted, monkeypatch):
    monkeypatch.setattr("tinkex_sync.protocol.protobuf_schema.reads_protobuf", lambda: False)
    scripted.script("client/config", Answer(body={"parallel_fwdbwd_chunks": False}))
    scripted.script("create_session", Answer(body={"session_id": "s-1"}))
    found = run_doctor(scripted.base_url)[2]["key and version"]
    assert found["verdict"] == "ok"
    assert "pip install 'tinkex-sync[proto]'" in found["finding"]


class ClosingServer(dict):
    """Responses of a server that closes every connection."""

    def get(self, operation, default=None):
        return Answer(drop=True)


def test_a_server_that_stops_during_the_checks_is_reported(scripted):
    scripted.script("healthz", Answer(body={"status": "ok"}))
    scripted.script("client/config", Answer(404, {"detail": "Not Found"}))
    scripted.script("create_session", Answer(body={"session_id": "s-1"}))
    scripted.defaults = ClosingServer()
    _, _, checks = run_doctor(scripted.base_url)
    assert checks["endpoints"]["verdict"] == "failed"
    assert checks["endpoints"]["remedy"]


def test_an_endpoint_without_a_response_is_not_missing(scripted):
    scripted.script("create_session", Answer(body={"session_id": "s-1"}))
    scripted.defaults["forward"] = Answer(drop=True)
    for operation in ("create_model", "asample"):
        scripted.defaults[operation] = Answer(422, {"detail": "empty body"})
    checks = run_doctor(scripted.base_url)[2]
    assert checks["endpoints"]["verdict"] == "ok", checks
    assert checks["endpoints"]["finding"].startswith("20 of 21 exist")


@pytest.mark.parametrize("column", [TUFT_0_38, TUFT], ids=lambda column: column.name)
def test_an_endpoint_that_is_not_used_is_not_missing(column):
    with LocalServer() as engine, Imitation(column, engine=engine.base_url) as running:
        status, _, checks = run_doctor(running.base_url, "--model", "tinkex/tiny", key=running.key)
    assert status == 0, checks
    found = checks["key and version"]
    assert found["data"]["wire"] == ("protobuf" if column is TUFT_0_38 else "json")
    limits = "10,485,760 bytes of samples in dispatch, 2,000 samples in progress"
    assert found["finding"].endswith(limits) == (column is TUFT_0_38)


def test_a_paused_queue_is_reported_with_its_state(scripted):
    scripted.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "x"})
    scripted.defaults["asample"] = Answer(body={"request_id": "r"})
    scripted.defaults["retrieve_future"] = Answer(
        body={"type": "try_again", "request_id": "r", "queue_state": "paused_capacity"}
    )
    checks = run_doctor(scripted.base_url, "--model", "m", "--timeout", "1")[2]
    assert checks["queue"]["verdict"] == "failed"
    assert "paused_capacity" in checks["queue"]["finding"]
