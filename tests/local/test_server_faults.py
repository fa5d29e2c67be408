"""Each way in which the embedded server can be told to misbehave."""

import contextlib
import http.client
import time

import pytest
import requests
from server_calls import Wire, until

from tinkex_sync.local import Faults, LocalServer


@pytest.fixture(scope="module")
def running():
    with LocalServer() as server:
        yield server


@pytest.fixture
def server(running):
    running.set_faults(Faults())
    return running


@pytest.fixture
def wire(server):
    with Wire(server) as client:
        yield client


def tally(server, path="asample"):
    return server.stats()["requests"].get(f"/api/v1/{path}", {})


def test_a_bucket_admits_its_size_and_then_the_rate(server, wire):
    sampler = wire.sampler(wire.session())
    before = server.stats()
    server.set_faults(
        Faults(
            admit_per_second=0.5,
            admit_burst=4,
            retry_after=0.5,
            refusal_state="paused_capacity",
            refusal_reason="full",
        )
    )
    answers = [wire.sample(sampler, seq) for seq in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
    refusal = answers[4]
    assert refusal.headers["Retry-After"] == "0.5"
    assert refusal.json()["queue_state"] == "paused_capacity"
    assert refusal.json()["queue_state_reason"] == "full"
    # The next one is let in after two seconds, under the number that was refused.
    until(lambda: wire.sample(sampler, 4).status_code == 200)
    after = server.stats()
    assert after["samples_refused"] - before["samples_refused"] >= 1
    assert after["samples_accepted"] - before["samples_accepted"] == 5


def test_a_refusal_says_no_more_than_it_was_told(server, wire):
    sampler = wire.sampler(wire.session())
    server.set_faults(Faults(admit_per_second=0.001))
    wire.sample(sampler, 0)
    refusal = wire.sample(sampler, 1)
    assert refusal.status_code == 429
    assert "Retry-After" not in refusal.headers
    assert set(refusal.json()) == {"detail"}


def test_a_repetition_of_an_admitted_sample_takes_no_token(server, wire):
    sampler = wire.sampler(wire.session())
    server.set_faults(Faults(admit_per_second=0.001))
    assert wire.sample(sampler, 0).json() == wire.sample(sampler, 0).json()


@pytest.mark.parametrize("kind", ["training", "sampling"])
def test_a_pause_stops_its_kind_and_is_told_to_polls(server, wire, kind):
    model, sampler = wire.model(), wire.sampler(wire.session())
    server.set_faults(
        Faults(
            pause=300, pause_kind=kind, pause_state="paused_rate_limit", pause_reason="lunch", pause_hold=0.05
        )
    )
    promises = {"training": wire.backward(model), "sampling": wire.sample(sampler, 0).json()}
    paused = promises.pop(kind)
    assert wire.poll(paused).status_code == 408
    assert wire.poll(paused).json() == {
        "type": "try_again",
        "request_id": paused["request_id"],
        "queue_state": "paused_rate_limit",
        "queue_state_reason": "lunch",
    }
    (other,) = promises.values()
    assert "error" not in wire.result(other)
    done = server.stats()
    server.set_faults(Faults())
    assert "error" not in wire.result(paused)
    counter = {"training": "datums_done", "sampling": "samples_done"}[kind]
    assert server.stats()[counter] == done[counter] + 1


def test_a_pause_of_both_ends_by_itself(server, wire):
    sampler = wire.sampler(wire.session())
    server.set_faults(Faults(pause=0.5))
    started = time.monotonic()
    assert wire.result(wire.sample(sampler, 0).json())["sequences"]
    assert 0.4 < time.monotonic() - started < 5


def test_latency_delays_its_endpoint_and_no_other(server, wire):
    server.set_faults(Faults(latency={"healthz": 0.3}))
    started = time.monotonic()
    wire.get("get_server_capabilities")
    between = time.monotonic()
    wire.get("healthz")
    assert between - started < 0.3 <= time.monotonic() - between


def test_the_first_requests_fail_with_the_given_statuses(server, wire):
    server.set_faults(Faults(fail_first={"/api/v1/get_server_capabilities": [500, 503]}))
    statuses = [wire.get("get_server_capabilities").status_code for _ in range(4)]
    assert statuses == [500, 503, 200, 200]
    assert wire.get("healthz").status_code == 200


def test_an_injected_error_looks_like_a_gateway_unless_it_is_given_a_detail(server, wire):
    server.set_faults(Faults(fail_first={"healthz": [502, 500]}, retry_after=3))
    first = wire.get("healthz")
    assert first.headers["Retry-After"] == "3"
    assert first.headers["Content-Type"].startswith("text/plain")
    server.set_faults(Faults(fail_first={"healthz": [500]}, error_detail="out of memory"))
    assert wire.get("healthz").json() == {"detail": "out of memory"}


def test_a_share_of_requests_fails_and_the_same_seed_fails_the_same(server, wire):
    def run(seed):
        server.set_faults(Faults(error_rate={"*": 0.4}, error_status=503, seed=seed))
        return [wire.get("healthz").status_code for _ in range(40)]

    first = run(1)
    assert set(first) == {200, 503}
    assert run(1) == first
    assert run(2) != first


def test_a_connection_dropped_before_the_work_did_nothing(server, wire):
    sampler = wire.sampler(wire.session())
    before = server.stats()
    server.set_faults(Faults(drop_before={"asample": 1}))
    with pytest.raises(requests.ConnectionError):
        wire.sample(sampler, 0)
    assert server.stats()["samples_accepted"] == before["samples_accepted"]
    assert wire.sample(sampler, 0).status_code == 200
    assert tally(server)["dropped before"] == 1


def test_a_connection_dropped_after_the_work_left_it_done(server, wire):
    sampler = wire.sampler(wire.session())
    before = server.stats()
    server.set_faults(Faults(drop_after={"asample": 1}))
    with pytest.raises(requests.ConnectionError):
        wire.sample(sampler, 0)
    again = wire.sample(sampler, 0)
    assert again.status_code == 200
    assert wire.result(again.json())["sequences"]
    after = server.stats()
    assert after["samples_accepted"] - before["samples_accepted"] == 1
    assert after["dedupe_hits"] - before["dedupe_hits"] == 1
    assert tally(server)["dropped after"] == 1


def test_a_lost_answer_is_repeated_by_idempotency_key(server, wire):
    session, key = wire.session(), {"X-Idempotency-Key": "lost-answer"}
    body = {"session_id": session, "base_model": "tinkex/tiny"}
    server.set_faults(Faults(drop_after={"create_model": 1}))
    with pytest.raises(requests.ConnectionError):
        wire.post("create_model", body, **key)
    model = wire.result(wire.ok("create_model", body, **key))["model_id"]
    assert wire.get(f"sessions/{session}").json()["training_run_ids"] == [model]


def test_a_body_is_cut_off(server, wire):
    server.set_faults(Faults(truncate={"get_server_capabilities": 1}))
    host, port = server.base_url[len("http://") :].split(":")
    # Not through requests, which takes half a body for a whole one where urllib3 is older than 2.
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        connection.request("GET", "/api/v1/get_server_capabilities")
        answer = connection.getresponse()
        assert answer.status == 200
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
    assert wire.get("get_server_capabilities").json()["supported_models"]


def test_promises_expire_with_the_work_done(server, wire):
    model = wire.model()
    before = server.stats()
    server.set_faults(Faults(expire_promises=2))
    lost = [wire.backward(model), wire.step(model)]
    kept = wire.backward(model)
    assert wire.result(kept)["metrics"]
    for promise in lost:
        answer = wire.poll(promise)
        assert answer.status_code == 410
        assert promise["request_id"] in answer.json()["detail"]
    assert server.stats()["optim_steps"] - before["optim_steps"] == 1


def test_each_promise_is_answered_408_so_often_before_its_result(server, wire):
    model = wire.model()
    server.set_faults(Faults(try_again_polls=3))
    for promise in (wire.backward(model), wire.step(model)):
        answers = [wire.poll(promise) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [408, 408, 408, 200]
        assert answers[0].json()["queue_state"] == "active"


def test_faults_can_be_read_and_set_by_anybody_with_http(server, wire):
    url = f"{server.base_url}/__faults"
    given = requests.post(url, json={"latency": {"/api/v1/asample": 0.01}, "admit_burst": 3}, timeout=10)
    assert given.status_code == 200
    assert requests.get(url, timeout=10).json()["latency"] == {"asample": 0.01}


BAD = [
    ({"no_such_fault": 1}, "no_such_fault"),
    ({"latency": {"asmaple": 1}}, "asmaple"),
    ({"latency": {"asample": -1}}, "-1"),
    ({"latency": 3}, "latency"),
    ({"error_rate": {"asample": 2}}, "error_rate"),
    ({"error_status": 200}, "error_status"),
    ({"fail_first": {"asample": [200]}}, "fail_first"),
    ({"fail_first": {"asample": 500}}, "fail_first"),
    ({"drop_after": {"asample": "x"}}, "drop_after"),
    ({"admit_per_second": 0}, "admit_per_second"),
    ({"admit_burst": 0}, "admit_burst"),
    ({"pause": -1}, "pause"),
    ({"pause_kind": "all"}, "pause_kind"),
    ({"pause_state": "tired"}, "pause_state"),
    ({"expire_promises": True}, "expire_promises"),
]


@pytest.mark.parametrize(("given", "named"), BAD)
def test_a_wrong_fault_is_refused_by_name(server, given, named):
    with pytest.raises(ValueError, match=named):
        Faults.from_dict(given)
    answer = requests.post(f"{server.base_url}/__faults", json=given, timeout=10)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]


def test_faults_survive_the_way_through_json():
    faults = Faults(latency={"*": 0.1}, fail_first={"asample": [500]}, admit_per_second=3, retry_after=2)
    assert Faults.from_dict(faults.to_dict()) == faults
