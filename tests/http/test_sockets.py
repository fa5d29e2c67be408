"""Requests that are cut: while they connect, in the TLS handshake, while they read, and at the deadline."""

import socket
import threading

import pytest
from imitations import TUFT, Imitation
from scripted_server import Answer, ScriptedServer
from tls_certificate import certificate

from tinkex_sync import ServiceClient
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.config import Config
from tinkex_sync.errors import APIConnectionError, APITimeoutError, ClosedError, DeadlineExceeded
from tinkex_sync.http.request import Request
from tinkex_sync.http.sockets import Exchange, SocketRegistry, close_idle
from tinkex_sync.http.transport import Transport

clock = Clock()


def send(transport, endpoint, body=None, deadline=None):
    """Make one HTTP request to an endpoint."""
    return transport.send(Request(endpoint, body), {}, deadline)


@pytest.fixture
def transport_to():
    made = []

    def make(base_url, **settings):
        timer = Timer(clock)
        transport = Transport(Config(base_url=base_url, api_key="tml-key", **settings), timer)
        made.extend([transport, timer])
        return transport

    yield make
    for one in made:
        one.close()


@pytest.fixture
def blackhole():
    """Yield the address of a port whose backlog is full, so that connecting to it hangs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    try:
        while True:
            filler = socket.socket()
            fillers.append(filler)
            filler.settimeout(0.2)
            filler.connect(listener.getsockname())
            assert len(fillers) < 64
    except (socket.timeout, BlockingIOError):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for sock in (listener, *fillers):
            sock.close()


@pytest.fixture
def mute():
    """Yield the address of a port that accepts connections and sends nothing."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def call(function, *args, **kwargs):
    """Run a function in a thread; return the thread and the list for its result or error."""
    box = []

    def run():
        try:
            box.append(function(*args, **kwargs))
        except Exception as error:
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, box


def until(condition):
    tick = threading.Event()
    for _ in range(2000):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("the condition was not met in time")


def elapsed(function):
    started = clock.time()
    function()
    return clock.time() - started


def test_connecting_is_cut_by_close(transport_to, blackhole):
    transport = transport_to(blackhole, connect_timeout=60.0)
    thread, box = call(send, transport, "healthz")
    until(lambda: list(transport.registry._sockets))
    transport.close()
    assert elapsed(lambda: thread.join(5)) < 1
    assert isinstance(box[0], ClosedError)


def test_connecting_is_cut_at_the_deadline(transport_to, blackhole):
    transport = transport_to(blackhole, connect_timeout=60.0)
    started = clock.time()
    with pytest.raises(DeadlineExceeded) as caught:
        send(transport, "healthz", deadline=started + 0.2)
    assert 0.2 <= clock.time() - started < 1.2
    assert caught.value.sent == "no"


def test_connecting_times_out_by_itself(transport_to, blackhole):
    transport = transport_to(blackhole, connect_timeout=0.1)
    with pytest.raises(APITimeoutError) as caught:
        send(transport, "healthz")
    assert caught.value.unsent


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_server_is_cut_by_close(transport_to, mute, scheme):
    transport = transport_to(f"{scheme}://{mute}")
    thread, box = call(send, transport, "healthz")
    until(lambda: transport.registry.opened)
    transport.close()
    assert elapsed(lambda: thread.join(5)) < 1
    assert isinstance(box[0], ClosedError)


@pytest.mark.parametrize(("scheme", "sent"), [("http", "unknown"), ("https", "no")])
def test_a_silent_server_is_cut_at_the_deadline(transport_to, mute, scheme, sent):
    transport = transport_to(f"{scheme}://{mute}")
    started = clock.time()
    with pytest.raises(DeadlineExceeded) as caught:
        send(transport, "healthz", deadline=started + 0.2)
    assert 0.2 <= clock.time() - started < 1.2
    # In the TLS handshake nothing of the request has left.
    assert caught.value.sent == sent


def test_a_dripping_body_is_cut_at_the_deadline(transport_to):
    with Imitation(TUFT) as server:
        transport = transport_to(server.base_url)
        server.script["get_info"] = ["drip"]
        started = clock.time()
        with pytest.raises(DeadlineExceeded):
            send(transport, "get_info", body=b"{}", deadline=started + 0.3)
        assert 0.3 <= clock.time() - started < 1.3


def test_a_deadline_that_has_passed_sends_nothing(transport_to):
    with Imitation(TUFT) as server:
        transport = transport_to(server.base_url)
        with pytest.raises(DeadlineExceeded) as caught:
            send(transport, "get_info", body=b"{}", deadline=clock.time() - 1)
        assert caught.value.sent == "no"
        assert server.arrived == []


def test_a_connection_is_reused_after_a_deadline_that_was_met(transport_to):
    with Imitation(TUFT) as server:
        transport = transport_to(server.base_url)
        for _ in range(20):
            send(transport, "get_server_capabilities", deadline=clock.time() + 30)
        assert transport.registry.opened == 1


def test_a_refused_connection_is_unsent_and_a_broken_response_is_not(transport_to):
    with Imitation(TUFT) as server:
        transport = transport_to(server.base_url)
        server.script["get_info"] = ["before"]
        with pytest.raises(APIConnectionError) as caught:
            send(transport, "get_info", body=b"{}")
        assert not caught.value.unsent
    with pytest.raises(APIConnectionError) as caught:
        send(transport, "get_info", body=b"{}")
    assert caught.value.unsent


def test_a_response_with_an_incomplete_body_is_an_error(transport_to):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)

    def serve():
        peer, _ = listener.accept()
        peer.recv(65536)
        peer.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{"a": 1}')
        peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    transport = transport_to(f"http://127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(APIConnectionError) as caught:
        send(transport, "healthz")
    assert not caught.value.unsent
    thread.join()
    listener.close()


def test_after_close_nothing_is_sent_and_no_descriptor_is_open(transport_to):
    with Imitation(TUFT) as server:
        transport = transport_to(server.base_url)
        send(transport, "get_server_capabilities")
        sockets = list(transport.registry._sockets)
        assert len(sockets) == 1
        transport.close()
        transport.close()
        until(lambda: all(sock.fileno() == -1 for sock in sockets))
        with pytest.raises(ClosedError):
            send(transport, "get_server_capabilities")
        assert len(server.arrived) == 1


def test_a_finished_exchange_cannot_be_cut():
    left, right = socket.socketpair()
    exchange = Exchange()
    with exchange:
        exchange.attach(left)
    exchange.cut()
    left.sendall(b"still open")
    assert right.recv(100) == b"still open"
    left.close()
    right.close()


def test_an_exchange_that_is_cut_before_it_connects_cuts_its_socket():
    left, right = socket.socketpair()
    exchange = Exchange()
    with exchange:
        exchange.cut()
        exchange.attach(left)
    assert right.recv(100) == b""
    left.close()
    right.close()


def test_a_registry_that_was_shut_down_shuts_later_sockets_too():
    registry = SocketRegistry()
    first, far = socket.socketpair()
    registry.add(first)
    assert registry.shut_down()
    assert far.recv(100) == b""
    second, far_too = socket.socketpair()
    registry.add(second)
    assert far_too.recv(100) == b""
    for sock in (first, far, second, far_too):
        sock.close()


def test_tls_requests_succeed_and_are_cut_by_close(transport_to, tmp_path):
    context, bundle = certificate(tmp_path)
    with Imitation(TUFT) as server:
        server.use_tls(context)
        transport = transport_to(server.base_url, verify=str(bundle))
        assert send(transport, "get_server_capabilities").status == 200
        server.script["get_info"] = ["silent"]
        thread, box = call(send, transport, "get_info", body=b"{}")
        server.until(lambda: len(server.arrived) == 2)
        transport.close()
        assert elapsed(lambda: thread.join(5)) < 1
        assert isinstance(box[0], ClosedError)


def test_tls_body_that_drips_is_cut_at_the_deadline(transport_to, tmp_path):
    context, bundle = certificate(tmp_path)
    with Imitation(TUFT) as server:
        server.use_tls(context)
        transport = transport_to(server.base_url, verify=str(bundle))
        server.script["get_info"] = ["drip"]
        started = clock.time()
        with pytest.raises(DeadlineExceeded):
            send(transport, "get_info", body=b"{}", deadline=started + 0.3)
        assert clock.time() - started < 1.3


def test_an_unknown_certificate_is_an_error_that_names_it_and_sends_nothing(transport_to, tmp_path):
    context, _ = certificate(tmp_path)
    with Imitation(TUFT) as server:
        server.use_tls(context)
        transport = transport_to(server.base_url)
        with pytest.raises(APIConnectionError, match="(?i)certificate") as caught:
            send(transport, "healthz")
        assert caught.value.unsent


def test_a_certificate_that_is_not_valid_is_not_retried(tmp_path):
    context, _ = certificate(tmp_path)
    with Imitation(TUFT) as server:
        server.use_tls(context)
        with pytest.raises(APIConnectionError, match="(?i)certificate") as caught:
            ServiceClient(base_url=server.base_url, api_key="k", load_plugins=False)
        assert caught.value.attempts == 1


def test_only_connections_that_were_idle_for_long_are_closed(transport_to):
    barrier = threading.Barrier(3)
    with ScriptedServer() as server:
        server.defaults["healthz"] = Answer(body={}, hold=lambda: barrier.wait(20))
        transport = transport_to(server.base_url)
        for thread, _ in [call(send, transport, "healthz") for _ in range(3)]:
            thread.join(20)
        sockets = list(transport.registry._sockets)
        pool = transport._pool
        assert len(sockets) == 3
        close_idle(pool, 3600.0)
        assert [sock.fileno() for sock in sockets if sock.fileno() == -1] == []
        server.defaults["healthz"] = Answer(body={})
        send(transport, "healthz")
        assert transport.status()["connections_opened"] == 3
        close_idle(pool, 0.0)
        assert {sock.fileno() for sock in sockets} == {-1}
        send(transport, "healthz")
        assert transport.status()["connections_opened"] == 4
