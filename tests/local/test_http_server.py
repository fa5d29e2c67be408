"""Connections: many at the same time, kept alive, unreadable and large bodies."""

import contextlib
import http.client
import socket
import time

import pytest
from server_calls import Wire, datum

from tinkex_sync.local import Faults, LocalServer


def test_500_clients_can_connect_simultaneously():
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


def test_requests_do_not_wait_for_delayed_acknowledgements(wire):
    wire.get("healthz")
    durations = []
    for _ in range(20):
        started = time.monotonic()
        wire.post("create_session", {"tags": ["x" * 2000]})
        durations.append(time.monotonic() - started)
    # Nagle's algorithm with delayed acknowledgements would cost 40 ms in every request.
    assert min(durations) < 0.03


def test_connection_is_kept_after_responses_and_errors(server):
    with Wire(server) as wire:
        wire.get("healthz")
        before = server.stats()["connections"]
        wire.model()
        wire.get("nonsense")
        wire.post("create_session", [1])
        wire.http.post(f"{server.base_url}/nowhere", data=b"x" * 100_000, timeout=10)
        wire.http.post(
            f"{server.base_url}/api/v1/create_session", data=iter([b'{"tags"', b": []}"]), timeout=10
        )
        wire.get("healthz")
        # server.stats() opens a new connection each time.
        assert server.stats()["connections"] - before == 1


@pytest.mark.parametrize(("length", "status"), [("x", 400), ("99999999999", 413)])
def test_unreadable_body_gets_an_error_response(server, length, status):
    host, port = server.base_url[len("http://") :].split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        connection.makefile("rb") as reader,
    ):
        connection.sendall(
            f"POST /api/v1/asample HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        response = reader.read().decode()
    assert response.startswith(f"HTTP/1.1 {status} ")
    assert '"detail"' in response


def test_body_of_five_megabytes_is_accepted(wire):
    model = wire.model()
    many = datum("ab")
    many["padding"] = "x" * 5_000_000
    assert wire.result(wire.backward(model, [many]))["metrics"]


def test_truncated_response_ends_in_the_middle_of_the_body(server, wire):
    server.set_faults(Faults(truncate={"get_server_capabilities": 1}))
    host, port = server.base_url[len("http://") :].split(":")
    # Not through requests: with urllib3 older than 2 it accepts an incomplete body.
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        connection.request("GET", "/api/v1/get_server_capabilities")
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    assert wire.get("get_server_capabilities").json()["supported_models"]
