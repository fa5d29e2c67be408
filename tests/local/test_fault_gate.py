"""Injection of faults into requests and operations."""

import time

import pytest
import requests
from server_calls import until

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.local import Faults
from tinkex_sync.local.fault_gate import FaultGate


def tally(server, path="asample"):
    return server.stats()["requests"].get(f"/api/v1/{path}", {})


@pytest.mark.parametrize("kind", ["training", "sampling"])
def test_pause_stops_its_kind_and_polls_report_it(server, wire, kind):
    model, sampler = wire.model(), wire.sampler(wire.session())
    server.set_faults(
        Faults(pause=300, pause_kind=kind, pause_state="paused_rate_limit", pause_reason="lunch", pause_hold=0.05)
    )
    futures = {"training": wire.backward(model), "sampling": wire.sample(sampler, 0).json()}
    paused = futures.pop(kind)
    assert wire.poll(paused).status_code == 408
    assert wire.poll(paused).json() == {
        "type": "try_again",
        "request_id": paused["request_id"],
        "queue_state": "paused_rate_limit",
        "queue_state_reason": "lunch",
    }
    (other,) = futures.values()
    assert "error" not in wire.result(other)
    done = server.stats()
    server.set_faults(Faults())
    assert "error" not in wire.result(paused)
    counter = {"training": "datums_done", "sampling": "samples_done"}[kind]
    assert server.stats()[counter] == done[counter] + 1


def test_pause_ends_after_its_duration(server, wire):
    sampler = wire.sampler(wire.session())
    server.set_faults(Faults(pause=0.5))
    started = time.monotonic()
    assert wire.result(wire.sample(sampler, 0).json())["sequences"]
    assert 0.4 < time.monotonic() - started < 5


def test_latency_delays_only_its_endpoint(server, wire):
    server.set_faults(Faults(latency={"healthz": 0.3}))
    started = time.monotonic()
    wire.get("get_server_capabilities")
    between = time.monotonic()
    wire.get("healthz")
    assert between - started < 0.3 <= time.monotonic() - between


def test_first_requests_fail_with_the_configured_statuses(server, wire):
    server.set_faults(Faults(fail_first={"/api/v1/get_server_capabilities": [500, 503]}))
    statuses = [wire.get("get_server_capabilities").status_code for _ in range(4)]
    assert statuses == [500, 503, 200, 200]
    assert wire.get("healthz").status_code == 200


def test_injected_error_is_plain_text_unless_a_detail_is_configured(server, wire):
    server.set_faults(Faults(fail_first={"healthz": [502, 500]}, retry_after=3))
    first = wire.get("healthz")
    assert first.headers["Retry-After"] == "3"
    assert first.headers["Content-Type"].startswith("text/plain")
    server.set_faults(Faults(fail_first={"healthz": [500]}, error_detail="out of memory"))
    assert wire.get("healthz").json() == {"detail": "out of memory"}


def test_seed_determines_which_share_of_requests_fails(server, wire):
    def run(seed):
        server.set_faults(Faults(error_rate={"*": 0.4}, error_status=503, seed=seed))
        return [wire.get("healthz").status_code for _ in range(40)]

    first = run(1)
    assert set(first) == {200, 503}
    assert run(1) == first
    assert run(2) != first


def test_connection_dropped_before_handling_has_no_effect(server, wire):
    sampler = wire.sampler(wire.session())
    before = server.stats()
    server.set_faults(Faults(drop_before={"asample": 1}))
    with pytest.raises(requests.ConnectionError):
        wire.sample(sampler, 0)
    assert server.stats()["samples_accepted"] == before["samples_accepted"]
    assert wire.sample(sampler, 0).status_code == 200
    assert tally(server)["dropped before"] == 1


def test_connection_dropped_after_handling_has_its_effect(server, wire):
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


def test_unpaid_account_gets_402_until_the_time_is_over(wire_0_38, server_0_38):
    sampler, model = wire_0_38.sampler(wire_0_38.session()), wire_0_38.model()
    server_0_38.set_faults(Faults(unpaid=60))
    assert wire_0_38.sample(sampler, 0).status_code == 402
    assert wire_0_38.post("optim_step", {"model_id": model, "seq_id": 1}).status_code == 402
    assert wire_0_38.get("sessions").status_code == 200
    server_0_38.set_faults(Faults(unpaid=0.3))
    until(lambda: wire_0_38.sample(sampler, 0).status_code == 200)
    server_0_38.set_faults(Faults(fail_first={"asample": [402, 402]}))
    assert [wire_0_38.sample(sampler, number).status_code for number in (1, 1, 1)] == [402, 402, 200]
    server_0_38.set_faults(Faults())


class ManualClock(Clock):
    """A clock that a test advances."""

    def __init__(self):
        self.now = 100.0

    def time(self):
        return self.now


def test_token_bucket_admits_its_size_and_then_the_rate():
    clock = ManualClock()
    gate = FaultGate(Faults(admit_per_second=0.5, admit_burst=4), clock)
    assert [gate.admit_sample() for _ in range(5)] == [True] * 4 + [False]
    clock.now += 1.9
    assert not gate.admit_sample()
    clock.now += 0.2
    assert [gate.admit_sample() for _ in range(2)] == [True, False]
    clock.now += 1000.0
    assert [gate.admit_sample() for _ in range(5)] == [True] * 4 + [False]


def test_replaced_faults_restart_all_counts():
    gate = FaultGate(Faults(reject_tokens=1, fail_first={"*": [500]}), ManualClock())
    assert (gate.rejects_token(), gate.rejects_token()) == (True, False)
    assert [gate.decide("asample").status for _ in range(2)] == [500, None]
    gate.replace(gate.faults)
    assert (gate.rejects_token(), gate.rejects_token()) == (True, False)
    assert [gate.decide("asample").status for _ in range(2)] == [500, None]
