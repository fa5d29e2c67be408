"""Long polls: held, woken, many at once."""

import http.client
import json
import socket
import time

import pytest
from server_calls import Wire, until

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.local import Faults, LocalServer, server_futures
from tinkex_sync.local.fault_gate import FaultGate
from tinkex_sync.local.json_bodies import ErrorResponse
from tinkex_sync.local.stats import Stats

STALLED = Faults(pause=600, pause_hold=600)


def test_five_hundred_polls_are_held_at_once_and_all_are_answered():
    with LocalServer() as server, Wire(server) as wire:
        sampler = wire.sampler(wire.session())
        server.set_faults(STALLED)
        host, port = server.base_url[len("http://") :].split(":")
        promises = [wire.sample(sampler, seq).json()["request_id"] for seq in range(500)]
        connections = [http.client.HTTPConnection(host, int(port), timeout=60) for _ in promises]
        try:
            for connection, request_id in zip(connections, promises):
                connection.request("POST", "/api/v1/retrieve_future", json.dumps({"request_id": request_id}))
            until(lambda: server.stats()["polls"] == 500)
            # With all of them held the server still answers others at once.
            started = time.monotonic()
            assert wire.get("healthz").status_code == 200
            assert time.monotonic() - started < 2
            server.set_faults(Faults())
            for connection in connections:
                answer = connection.getresponse()
                assert answer.status == 200
                assert json.loads(answer.read())["sequences"]
        finally:
            for connection in connections:
                connection.close()
        stats = server.stats()
        assert stats["max_polls"] == 500
        assert stats["polls"] == 0
        assert stats["samples_done"] == stats["samples_delivered"] == 500


def test_five_hundred_clients_may_connect_at_the_same_instant():
    with LocalServer() as server:
        host, port = server.base_url[len("http://") :].split(":")
        sockets = [socket.socket() for _ in range(500)]
        try:
            for one in sockets:
                one.setblocking(False)
                one.connect_ex((host, int(port)))
            for one in sockets:
                one.settimeout(20)
                one.sendall(b"GET /api/v1/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            for one in sockets:
                assert one.recv(100).startswith(b"HTTP/1.1 200 ")
        finally:
            for one in sockets:
                one.close()


@pytest.fixture(scope="module")
def running():
    with LocalServer(hold=0.3) as server:
        yield server


@pytest.fixture
def wire(running):
    running.set_faults(Faults())
    with Wire(running) as client:
        yield client


def test_a_poll_is_held_and_then_told_to_try_again(running, wire):
    sampler = wire.sampler(wire.session())
    running.set_faults(STALLED)
    promise = wire.sample(sampler, 0).json()
    started = time.monotonic()
    answer = wire.poll(promise)
    assert 0.25 < time.monotonic() - started < 3
    assert answer.status_code == 408
    assert answer.json()["type"] == "try_again"


def test_a_poll_ends_before_the_client_that_sends_it_gives_up(running):
    with LocalServer(faults=STALLED) as server, Wire(server) as wire:
        promise = wire.ok("create_model", {"session_id": wire.session(), "base_model": "tinkex/tiny"})
        started = time.monotonic()
        answer = wire.post("retrieve_future", promise, **{"x-stainless-read-timeout": "0.5"})
        assert time.monotonic() - started < 5
        assert answer.status_code == 408


def test_a_result_ends_the_poll_that_waits_for_it(running, wire):
    with LocalServer() as server, Wire(server) as wire:
        sampler = wire.sampler(wire.session())
        server.set_faults(Faults(pause=0.5, pause_hold=60))
        started = time.monotonic()
        assert wire.poll(wire.sample(sampler, 0).json()).status_code == 200
        assert time.monotonic() - started < 10


def test_a_pause_that_begins_is_told_to_polls_that_are_held():
    with LocalServer() as server, Wire(server) as wire:
        sampler = wire.sampler(wire.session())
        server.set_faults(STALLED)
        promise = wire.sample(sampler, 0).json()
        host, port = server.base_url[len("http://") :].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("POST", "/api/v1/retrieve_future", json.dumps(promise))
            until(lambda: server.stats()["polls"] == 1)
            server.set_faults(Faults(pause=600, pause_hold=0, pause_reason="now"))
            answer = connection.getresponse()
            assert answer.status == 408
            assert json.loads(answer.read())["queue_state_reason"] == "now"
        finally:
            connection.close()


def test_a_result_may_be_fetched_again_when_its_answer_was_lost(wire):
    promise = wire.sample(wire.sampler(wire.session()), 0).json()
    assert wire.result(promise) == wire.result(promise)


def test_delivered_results_are_forgotten_when_they_take_too_much_memory(monkeypatch):
    monkeypatch.setattr(server_futures, "MAX_DELIVERED_BYTES", 100)
    gate = FaultGate(Faults(), Clock())
    promises = server_futures.ServerFutures(gate, Stats(), Clock())
    first, second, unread = (promises.accept("sampling", None, ("s", number), b"")[0] for number in range(3))
    result = server_futures.OperationResult(b"x" * 60, b"y" * 30)
    for promise in (first, second, unread):
        promises.finish(promise, result)
    assert promises.wait(first, 0) == promises.wait(first, 0) == result
    assert promises.wait(second, 0) == result
    with pytest.raises(ErrorResponse) as refusal:
        promises.wait(first, 0)
    assert refusal.value.status == 410
    assert promises.wait(unread, 0) == result


def test_polls_wait_for_no_packet_of_the_other_side(wire):
    wire.get("healthz")
    started = time.monotonic()
    for _ in range(20):
        wire.post("create_session", {"tags": ["x" * 2000]})
    # Nagle's algorithm against delayed acknowledgements would cost 40 ms each.
    assert time.monotonic() - started < 20 * 0.03
