"""Repeated requests with idempotency keys."""

import threading

import pytest
import requests
from server_calls import Wire

from tinkex_sync.local import Faults


@pytest.mark.parametrize("path", ["create_session", "create_model", "create_sampling_session", "asample"])
def test_repeated_key_returns_the_recorded_response(server, wire, path):
    session = wire.session()
    bodies = {
        "create_session": {"tags": []},
        "create_model": {"session_id": session, "base_model": "tinkex/tiny"},
        "create_sampling_session": {
            "session_id": session,
            "sampling_session_seq_id": 4,
            "base_model": "tinkex/tiny",
            "model_path": None,
        },
        "asample": wire.sample_body(wire.sampler(session), None),
    }
    before = server.stats()["idempotency_hits"]
    key = {"X-Idempotency-Key": f"key-of-{path}"}
    first = wire.ok(path, bodies[path], **key)
    assert wire.ok(path, bodies[path], **key) == first
    assert server.stats()["idempotency_hits"] - before == 1
    other = wire.post(path, {**bodies[path], "x": 1}, **key)
    assert other.status_code == 409
    assert key["X-Idempotency-Key"] in other.json()["detail"]


def test_concurrent_requests_with_one_key_are_handled_once(server):
    responses, start = [], threading.Barrier(12)

    def send():
        with Wire(server) as mine:
            start.wait()
            responses.append(mine.ok("create_session", {"tags": []}, **{"X-Idempotency-Key": "twelve"})["session_id"])

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(responses) == 12
    assert len(set(responses)) == 1


def test_key_of_a_failed_request_can_be_used_again(wire):
    key = {"X-Idempotency-Key": "second-chance"}
    assert wire.post("create_session", {"tags": 1}, **key).status_code == 422
    assert wire.post("create_session", {"tags": []}, **key).status_code == 200


def test_requests_without_a_key_are_handled_each_time(wire):
    assert wire.session() != wire.session()


def test_response_lost_with_its_connection_is_replayed(server, wire):
    session, key = wire.session(), {"X-Idempotency-Key": "lost-response"}
    body = {"session_id": session, "base_model": "tinkex/tiny"}
    server.set_faults(Faults(drop_after={"create_model": 1}))
    with pytest.raises(requests.ConnectionError):
        wire.post("create_model", body, **key)
    model = wire.result(wire.ok("create_model", body, **key))["model_id"]
    assert wire.get(f"sessions/{session}").json()["training_run_ids"] == [model]
