"""Polls for results, and repeated numbers."""

import http.client
import json
import threading
import time
import tracemalloc

import pytest
from server_calls import Wire, until

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.local import Faults, LocalServer, server_futures
from tinkex_sync.local.fault_gate import FaultGate
from tinkex_sync.local.json_bodies import RejectedRequest
from tinkex_sync.local.stats import Stats

STALLED = Faults(pause=600, pause_hold=600)


def test_500_polls_are_held_concurrently_and_all_get_results():
    with LocalServer() as server, Wire(server) as wire:
        sampler = wire.sampler(wire.session())
        server.set_faults(STALLED)
        host, port = server.base_url[len("http://") :].split(":")
        futures = [wire.sample(sampler, seq).json()["request_id"] for seq in range(500)]
        connections = [http.client.HTTPConnection(host, int(port), timeout=60) for _ in futures]
        try:
            for connection, request_id in zip(connections, futures):
                connection.request("POST", "/api/v1/retrieve_future", json.dumps({"request_id": request_id}))
            until(lambda: server.stats()["polls"] == 500)
            # The server still responds to other requests immediately.
            started = time.monotonic()
            assert wire.get("healthz").status_code == 200
            assert time.monotonic() - started < 2
            server.set_faults(Faults())
            for connection in connections:
                response = connection.getresponse()
                assert response.status == 200
                assert json.loads(response.read())["sequences"]
        finally:
            for connection in connections:
                connection.close()
        stats = server.stats()
        assert stats["max_polls"] == 500
        assert stats["polls"] == 0
        assert stats["samples_done"] == stats["samples_delivered"] == 500


def test_poll_is_held_and_then_gets_408():
    with LocalServer(hold=0.3, faults=STALLED) as server, Wire(server) as wire:
        future = wire.sample(wire.sampler(wire.session()), 0).json()
        started = time.monotonic()
        response = wire.poll(future)
        assert 0.25 < time.monotonic() - started < 3
    assert response.status_code == 408
    assert response.json()["type"] == "try_again"


def test_result_ends_the_held_poll():
    with LocalServer() as server, Wire(server) as wire:
        sampler = wire.sampler(wire.session())
        server.set_faults(Faults(pause=0.5, pause_hold=60))
        started = time.monotonic()
        assert wire.poll(wire.sample(sampler, 0).json()).status_code == 200
        assert time.monotonic() - started < 10


def test_held_poll_reports_a_pause_that_begins():
    with LocalServer() as server, Wire(server) as wire:
        sampler = wire.sampler(wire.session())
        server.set_faults(STALLED)
        future = wire.sample(sampler, 0).json()
        host, port = server.base_url[len("http://") :].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("POST", "/api/v1/retrieve_future", json.dumps(future))
            until(lambda: server.stats()["polls"] == 1)
            server.set_faults(Faults(pause=600, pause_hold=0, pause_reason="now"))
            response = connection.getresponse()
            assert response.status == 408
            assert json.loads(response.read())["queue_state_reason"] == "now"
        finally:
            connection.close()


def test_delivered_result_can_be_polled_again(wire):
    future = wire.sample(wire.sampler(wire.session()), 0).json()
    assert wire.result(future) == wire.result(future)


def test_oldest_delivered_results_are_discarded_above_the_memory_limit(monkeypatch):
    monkeypatch.setattr(server_futures, "MAX_DELIVERED_BYTES", 100)
    gate = FaultGate(Faults(), Clock())
    futures = server_futures.ServerFutures(gate, Stats(), Clock())
    first, second, unread = (futures.accept("sampling", None, ("s", number), b"")[0] for number in range(3))
    result = server_futures.OperationResult(b"x" * 60, b"y" * 30)
    for future in (first, second, unread):
        futures.finish(future, result)
    assert futures.wait(first, 0) == futures.wait(first, 0) == result
    assert futures.wait(second, 0) == result
    with pytest.raises(RejectedRequest) as rejection:
        futures.wait(first, 0)
    assert rejection.value.status == 410
    assert futures.wait(unread, 0) == result


def test_repeated_number_gets_the_same_future_and_runs_once(server, wire):
    model = wire.model()
    before = server.stats()
    first = wire.backward(model, seq=5)
    assert wire.backward(model, seq=5) == first
    wire.result(first)
    after = server.stats()
    assert after["datums_done"] - before["datums_done"] == 1
    assert after["dedupe_hits"] - before["dedupe_hits"] == 1
    assert after["chunks"][model] == [1]


def test_repeated_number_with_another_body_gets_409(wire):
    model = wire.model()
    wire.backward(model, seq=5)
    body = {"adam_params": {}, "model_id": model, "seq_id": 5}
    response = wire.post("optim_step", body)
    assert response.status_code == 409
    assert "seq_id 5" in response.json()["detail"]


def test_numbers_can_have_gaps(wire):
    model = wire.model()
    assert wire.result(wire.backward(model, seq=5))["metrics"]
    assert wire.result(wire.backward(model, seq=90))["metrics"]


def test_each_model_and_each_sampler_has_numbers_of_its_own(wire):
    models = [wire.model(), wire.model()]
    assert len({wire.backward(model, seq=1)["request_id"] for model in models}) == 2
    session = wire.session()
    samplers = [wire.sampler(session, 0), wire.sampler(session, 1)]
    assert len({wire.sample(sampler, 1).json()["request_id"] for sampler in samplers}) == 2


def test_concurrent_copies_of_one_sample_run_once(server, wire):
    body = wire.sample_body(wire.sampler(wire.session()), 3)
    before = server.stats()["samples_accepted"]
    ids, start = [], threading.Barrier(12)

    def send():
        with Wire(server) as mine:
            start.wait()
            ids.append(mine.ok("asample", body)["request_id"])

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 12
    assert len(set(ids)) == 1
    assert server.stats()["samples_accepted"] - before == 1


def test_expired_result_is_computed_and_polls_get_410(server, wire):
    model = wire.model()
    before = server.stats()
    server.set_faults(Faults(expire_promises=2))
    lost = [wire.backward(model), wire.step(model)]
    kept = wire.backward(model)
    assert wire.result(kept)["metrics"]
    for future in lost:
        response = wire.poll(future)
        assert response.status_code == 410
        assert future["request_id"] in response.json()["detail"]
    assert server.stats()["optim_steps"] - before["optim_steps"] == 1


def test_configured_number_of_polls_gets_408_before_the_result(server, wire):
    model = wire.model()
    server.set_faults(Faults(try_again_polls=3))
    for future in (wire.backward(model), wire.step(model)):
        responses = [wire.poll(future) for _ in range(4)]
        assert [response.status_code for response in responses] == [408, 408, 408, 200]
        assert responses[0].json()["queue_state"] == "active"


def futures_with(faults=None):
    gate = FaultGate(faults or Faults(), Clock())
    return server_futures.ServerFutures(gate, Stats(), Clock())


def finish(futures, number, size=100, owner="s"):
    future, _ = futures.accept("sampling", None, (owner, number), b"body")
    futures.finish(future, server_futures.OperationResult(b"x" * size))
    return future.request_id


def test_number_of_a_dropped_future_is_not_run_again(monkeypatch):
    monkeypatch.setattr(server_futures, "MAX_DELIVERED_BYTES", 5000)
    futures = futures_with()
    ids = [finish(futures, number) for number in range(100)]
    for request_id in ids:
        assert futures.wait(futures.get(request_id), 0)
    with pytest.raises(RejectedRequest) as error:
        futures.accept("sampling", None, ("s", 0), b"body")
    assert error.value.status == 410
    with pytest.raises(RejectedRequest) as error:
        futures.get(ids[0])
    assert error.value.status == 410
    assert futures.accept("sampling", None, ("s", 99), b"body") == (futures.get(ids[99]), False)
    assert futures.accept("sampling", None, ("other", 0), b"body")[1]
    assert futures.accept("sampling", None, ("s", 100), b"body")[1]


def test_results_that_are_never_polled_are_dropped_above_the_memory_limit(monkeypatch):
    monkeypatch.setattr(server_futures, "MAX_UNDELIVERED_BYTES", 10_000)
    futures = futures_with()
    ids = [finish(futures, number, size=1000) for number in range(20)]
    with pytest.raises(RejectedRequest, match="discarded"):
        futures.get(ids[0])
    assert futures.wait(futures.get(ids[-1]), 0).json == b"x" * 1000


def test_ids_of_another_server_get_404():
    futures = futures_with()
    for request_id in (finish(futures_with(), 0), "", "x", "f" * 32):
        with pytest.raises(RejectedRequest) as error:
            futures.get(request_id)
        assert error.value.status == 404


def test_memory_per_finished_operation_is_bounded(monkeypatch):
    monkeypatch.setattr(server_futures, "MAX_DELIVERED_BYTES", 100_000)
    futures = futures_with()

    def run(numbers):
        for number in numbers:
            futures.wait(futures.get(finish(futures, number)), 0)

    run(range(1000))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run(range(1000, 6000))
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def test_number_set_contains_what_was_added():
    numbers, added = server_futures.NumberSet(), [7, 8, 3, 10, 9, 0, 12]
    assert 0 not in numbers
    for number in added:
        numbers.add(number)
    assert [number for number in range(20) if number in numbers] == sorted(added)
