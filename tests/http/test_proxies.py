"""Proxies and certificates: SOCKS, settings that cannot work, and errors that name the proxy and the remedy."""

import socket
import socketserver
import sys
import threading
import types as modules

import pytest
from scripted_server import Answer, ScriptedServer
from tls_certificate import certificate

from tinkex_sync import Config, ServiceClient, types
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.errors import APIConnectionError, APIStatusError, ClosedError, ConfigError, DeadlineExceeded
from tinkex_sync.http.request import Request
from tinkex_sync.http.transport import Transport, connection_remedy, find_proxies


@pytest.fixture
def connect():
    made = []

    def make(base_url="https://tinker.example", **settings):
        timer = Timer(Clock())
        made.append(timer)
        made.append(Transport(Config(base_url=base_url, **settings), timer))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address = True, True


@pytest.fixture
def proxy():
    """Return a function that starts a TCP server with this handler and returns HOST:PORT."""
    running = []

    def start(handle, tls=None):
        handler = type("Handler", (socketserver.BaseRequestHandler,), {"handle": handle})
        server = Tcp(("127.0.0.1", 0), handler)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def socks5(names):
    """Return the handler of a SOCKS5 proxy that connects each name to its port."""

    def handle(self):
        sock = self.request
        sock.recv(sock.recv(2)[1])
        sock.sendall(b"\x05\x00")
        assert sock.recv(4)[3] == 3
        name = sock.recv(sock.recv(1)[0]).decode()
        sock.recv(2)
        with socket.create_connection(("127.0.0.1", names[name])) as target:
            sock.sendall(b"\x05\x00\x00\x01\0\0\0\0\0\0")
            threading.Thread(target=copy, args=(target, sock), daemon=True).start()
            copy(sock, target)

    return handle


def copy(one, other):
    try:
        while block := one.recv(65536):
            other.sendall(block)
    except OSError:
        pass


def test_a_socks_proxy_resolves_the_name_and_forwards_requests(connect, proxy):
    pytest.importorskip("socks")
    with ScriptedServer() as server:
        server.defaults["healthz"] = Answer(body={"status": "ok"})
        pause = threading.Event()
        server.script("telemetry", lambda request: pause.wait(10.0) and Answer(body={}))
        address = proxy(socks5({"tinker.example": int(server.base_url.rpartition(":")[2])}))
        transport = connect("http://tinker.example", proxies={"http": f"socks5h://{address}"})
        assert transport.send(Request("healthz"), {}, None).json() == {"status": "ok"}
        with pytest.raises(DeadlineExceeded):
            transport.send(Request("telemetry", {}), {}, Clock().time() + 0.3)
        pause.set()


def test_a_socks_proxy_without_pysocks_is_refused_with_the_remedy(connect, monkeypatch):
    monkeypatch.setitem(sys.modules, "socks", None)
    with pytest.raises(ConfigError, match="pip install pysocks") as caught:
        connect(proxies={"https": "socks5h://joe:hidden@proxy:1080"})
    assert "socks5h://proxy:1080" in str(caught.value) and "hidden" not in str(caught.value)


def test_a_socks_proxy_with_pysocks_is_accepted(connect, monkeypatch):
    module = modules.ModuleType("socks")
    module.__spec__ = object()
    monkeypatch.setitem(sys.modules, "socks", module)
    connect(proxies={"https": "socks5h://proxy:1080"})


@pytest.mark.parametrize("address", ["ftp://proxy:21", "http://", "http://proxy:x", "http://[", "socks9://p"])
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_a_proxy_that_cannot_work_is_refused_at_construction(connect, monkeypatch, address, source):
    if source == "environment":
        monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(ConfigError, match="HTTP_PROXY"):
        connect(**({"proxies": {"https": address}} if source == "argument" else {}))


def test_certificates_and_bundles_that_cannot_be_used_are_refused_at_construction(connect, tmp_path):
    _, bundle = certificate(tmp_path)
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(ConfigError, match="client_certificate .* key"):
        connect(client_certificate=str(bundle))  # The file contains no key.
    with pytest.raises(ConfigError, match="client_certificate"):
        connect(client_certificate=(str(bundle), str(broken)))
    with pytest.raises(ConfigError, match="verify="):
        connect(verify=str(broken))
    connect(client_certificate=(str(bundle), str(tmp_path / "key.pem")), verify=str(bundle))


def refuse_connect(self):
    self.request.recv(65536)
    self.request.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_requires_a_password_ends_the_call_with_the_remedy(proxy, scheme):
    address = proxy(refuse_connect)
    with pytest.raises((APIConnectionError, APIStatusError), match="set user and password") as caught:
        ServiceClient(
            base_url=f"{scheme}://tinker.example",
            api_key="k",
            proxies={scheme: f"http://joe:hidden@{address}"},
            load_plugins=False,
        )
    assert address in str(caught.value) and "hidden" not in str(caught.value)
    assert caught.value.attempts == 1


@pytest.mark.parametrize(
    ("host", "no_proxy", "is_exempt"),
    [
        ("10.1.2.3:8000", "10.1.2.3:8000", True),
        ("10.1.2.3:8000", "10.1.2.3", True),
        ("10.1.2.3:8000", "10.1.2.3:8001", False),
        ("10.1.2.3:8000", "other, 10.1.0.0/16", True),
        ("10.1.2.3", "10.1.2.3:80", True),
        ("[fd00::1]:8000", "[fd00::1]:8000", True),
        ("[fd00::1]:8000", "[fd00::1]", True),
        ("[fd00::1]:8000", "fd00::1", True),
        ("[fd00::1]:8000", "[fd00::2]", False),
        ("tinker.example:8000", "TINKER.example:8000", True),
        ("tinker.example:8000", "tinker.example:8001", False),
        ("tinker.example", ".example", True),
        ("127.0.0.1:8000", "", True),
        ("[::1]:8000", "", True),
    ],
)
def test_no_proxy_names_hosts_numeric_addresses_and_ports(monkeypatch, host, no_proxy, is_exempt):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    url = f"http://{host}/archive"
    assert find_proxies(Config(base_url="http://tinker.example"), url).get("http") == (
        None if is_exempt else "http://proxy:3128"
    )
    given = {"http": "http://given:3128"}
    assert find_proxies(Config(base_url="http://tinker.example", proxies=given), url) == given


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        ("OSError: Tunnel connection failed: 407 Proxy Authentication Required", "set user and password of the proxy"),
        ("GeneralProxyError: Socket error: SOCKS5 authentication failed", "set user and password of the proxy"),
        ("All offered SOCKS5 authentication methods were rejected", "set user and password of the proxy"),
        ("CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired", "must be renewed"),
        ("CERTIFICATE_VERIFY_FAILED] IP address mismatch, certificate is not valid for '::1'", "set base_url="),
        ("CERTIFICATE_VERIFY_FAILED] self-signed certificate", "set verify= or REQUESTS_CA_BUNDLE"),
    ],
)
def test_connection_failures_that_no_retry_changes_have_a_remedy(cause, remedy):
    assert connection_remedy(cause).startswith(remedy) or remedy in connection_remedy(cause)
    assert connection_remedy("ConnectionRefusedError: port 4070") == ""


@pytest.mark.parametrize(
    ("host", "trusted", "remedy"),
    [("127.0.0.1", True, "set base_url= to a name"), ("localhost", False, "set verify= or REQUESTS_CA_BUNDLE")],
)
def test_a_certificate_that_is_not_valid_ends_the_call_with_the_remedy(tmp_path, host, trusted, remedy):
    tls, bundle = certificate(tmp_path)
    with ScriptedServer() as server:
        server.use_tls(tls)
        url = server.base_url.replace("localhost", host)
        with pytest.raises(APIConnectionError, match=remedy) as caught:
            ServiceClient(base_url=url, api_key="k", verify=str(bundle) if trusted else True, load_plugins=False)
    assert host in str(caught.value) and "check that it runs" not in str(caught.value)
    assert caught.value.attempts == 1


def test_an_unreachable_proxy_is_named(connect):
    transport = connect("http://tinker.example", proxies={"http": "http://joe:hidden@127.0.0.1:9"})
    with pytest.raises(APIConnectionError, match="through proxy http://127.0.0.1:9") as caught:
        transport.send(Request("healthz"), {}, None)
    assert "hidden" not in str(caught.value)


def test_413_is_final_and_names_the_setting():
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "s", "type": "create_session"})
        server.defaults["create_model"] = Answer(body={"request_id": "r-1"})
        server.defaults["retrieve_future"] = Answer(body={"type": "create_model", "model_id": "m"})
        server.defaults["forward_backward"] = Answer(413, text="<html>too large</html>")
        with ServiceClient(base_url=server.base_url, api_key="k", protocol="0.7", load_plugins=False) as service:
            training = service.create_lora_training_client("base")
            datum = types.Datum(types.ModelInput.from_ints([1]), {"target_tokens": [1]})
            with pytest.raises(APIStatusError, match=r"max_chunk_bytes= lower \(now 5000000\)") as caught:
                training.forward_backward([datum], "cross_entropy")
        assert caught.value.attempts == 1 and len(server.sent("forward_backward")) == 1


def tunnel(self):
    """Connect to the port that a CONNECT request names."""
    sock, head = self.request, b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65536)
    port = int(head.split()[1].rpartition(b":")[2])
    with socket.create_connection(("127.0.0.1", port)) as target:
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=copy, args=(target, sock), daemon=True).start()
        copy(sock, target)


@pytest.mark.parametrize(("scheme", "resumed"), [("http", 1), ("https", 0)])
def test_connections_through_a_proxy_share_certificates_and_are_cut_by_close(connect, proxy, tmp_path, scheme, resumed):
    tls, bundle = certificate(tmp_path)
    address = proxy(tunnel, tls if scheme == "https" else None).replace("127.0.0.1", "localhost")
    with ScriptedServer() as server:
        server.use_tls(tls)
        server.script("healthz", *[Answer(body={"status": "ok"}, headers={"Connection": "close"})] * 2)
        proxies = {"https": f"{scheme}://{address}"}
        transport = connect(server.base_url, proxies=proxies, verify=str(bundle))
        for _ in range(2):
            assert transport.send(Request("healthz"), {}, None).json() == {"status": "ok"}
        # TLS within TLS does not resume sessions.
        assert transport.status() == {"in_flight": 0, "connections_opened": 2, "tls_sessions_resumed": resumed}
        began, ends = threading.Event(), threading.Event()
        server.script("healthz", Answer(body={}, hold=lambda: (began.set(), ends.wait(20.0))))
        closer = threading.Thread(target=lambda: (began.wait(20.0), transport.close()))
        closer.start()
        with pytest.raises(ClosedError):
            transport.send(Request("healthz"), {}, None)
        closer.join()
        ends.set()
