"""The heartbeat of a session: its interval, its failures and its end."""

import gc
import logging
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from imitations import NEITHER, PARAMS, STRICT, Imitation, client, prompt, training

from tinkex_sync import InternalServerError, NotFoundError, RateLimitError, hookimpl
from tinkex_sync.concurrency.clock import ScaledClock


@pytest.fixture
def server():
    with Imitation(NEITHER) as running:
        yield running


class Watch:
    """Records the missed heartbeats."""

    def __init__(self):
        self.changed = threading.Condition()
        self.missed = []

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, 20)

    @hookimpl
    def tinkex_heartbeat_missed(self, source, misses, silent_for, error):
        with self.changed:
            self.missed.append((source.session_id, misses, silent_for, error))
            self.changed.notify_all()


def beats(server):
    return len(server.requests_to("session_heartbeat"))


def test_heartbeats_start_one_interval_after_the_session(server):
    watch = Watch()
    with client(server, heartbeat_interval=0.02, plugins=[watch]) as service:
        server.until(lambda: sum(row[0] == "session_heartbeat" for row in server.arrived) >= 3)
        assert server.requests_to("session_heartbeat")[0][3] == {"session_id": "session"}
        assert service.status()["heartbeat_age"] < 10
    assert watch.missed == []
    with client(server) as service:
        assert service.status()["heartbeat_age"] >= 0
        training(service)
        count = beats(server)
    assert beats(server) == count


def test_failed_heartbeats_are_counted_until_the_next_success(server):
    watch = Watch()
    server.script["session_heartbeat"] = [
        (503, "busy"),
        (429, {"detail": "slow down"}),
        (404, {"detail": "gone"}),
        None,
        (500, "oops"),
    ]
    with client(server, heartbeat_interval=0.02, plugins=[watch]):
        watch.until(lambda: len(watch.missed) >= 4)
    assert [row[1] for row in watch.missed[:4]] == [1, 2, 3, 1]
    assert {row[0] for row in watch.missed} == {"session"}
    silences = [row[2] for row in watch.missed[:4]]
    assert silences[0] < silences[1] < silences[2]
    # A beat is not retried: the next one comes soon enough.
    kinds = [type(row[3]) for row in watch.missed[:3]]
    assert kinds == [InternalServerError, RateLimitError, NotFoundError]


def test_two_minutes_without_heartbeat_are_logged_and_calls_still_succeed(server, caplog):
    server.script["session_heartbeat"] = [(404, {"detail": "session expired"})] * 10_000
    # A second of a busy machine is a quarter of an hour of this clock: nothing but the heartbeat may time out.
    names = ("connect_timeout", "read_timeout", "poll_timeout", "heartbeat_timeout", "progress_timeout")
    with (
        client(server, clock=ScaledClock(1000), **dict.fromkeys(names, 1e5)) as service,
        caplog.at_level(logging.WARNING),
    ):
        sampler = service.create_sampling_client(base_model="base")
        server.until(lambda: sum(row[0] == "session_heartbeat" for row in server.arrived) >= 20)
        assert sampler.sample(prompt(), 1, PARAMS)
    warnings = [one.message for one in caplog.records if "Session heartbeat failed" in one.message]
    assert warnings
    seconds = int(warnings[0].split("failed for ")[1].split()[0])
    assert seconds >= 120
    assert "for session session. Last exception: NotFoundError: " in warnings[0]
    assert "the session will be terminated" in warnings[0]


def test_a_missing_heartbeat_endpoint_is_not_logged(caplog):
    with Imitation(STRICT) as server, client(server, heartbeat_interval=0.02) as service:
        server.until(lambda: sum(row[0] == "session_heartbeat" for row in server.arrived) >= 3)
        assert service.get_server_capabilities()
    assert caplog.records == []


def test_a_heartbeat_that_hangs_ends_at_its_timeout(server):
    watch = Watch()
    server.script["session_heartbeat"] = ["silent"]
    with client(server, heartbeat_interval=0.02, heartbeat_timeout=0.1, plugins=[watch]):
        watch.until(lambda: watch.missed)
        server.until(lambda: sum(row[0] == "session_heartbeat" for row in server.arrived) >= 2)
    assert isinstance(watch.missed[0][3], TimeoutError)


def test_no_heartbeat_is_sent_after_close(server, no_threads_left):
    service = client(server, heartbeat_interval=0.01)
    server.until(lambda: any(row[0] == "session_heartbeat" for row in server.arrived))
    service.close()
    count = beats(server)
    assert not threading.Event().wait(0.05)
    assert beats(server) - count <= 1  # One may have been on its way.


def test_the_heartbeat_does_not_keep_a_dropped_client(server, no_threads_left):
    service = client(server, heartbeat_interval=0.01)
    server.until(lambda: any(row[0] == "session_heartbeat" for row in server.arrived))
    gone = weakref.ref(service.session)
    with pytest.warns(ResourceWarning, match="unclosed client of session 'session'"):
        del service
        for _ in range(100):
            gc.collect()
            if gone() is None:
                break
            # A beat on its way holds it until its answer is there.
            threading.Event().wait(0.01)
    assert gone() is None


@pytest.mark.parametrize("response", [(410, {"detail": "session ended"}), (404, {"detail": "Session not found"})])
def test_a_session_that_the_server_has_ended_gets_no_further_heartbeat(server, caplog, response):
    server.script["session_heartbeat"] = [response]
    with client(server, heartbeat_interval=0.01):
        server.until(lambda: any(row[0] == "session_heartbeat" for row in server.arrived))
        wait_until_no_thread("tinkex-heartbeat-session")
        count = beats(server)
    assert (count, beats(server)) == (1, 1)
    assert "The server has ended the session: session=session" in caplog.text


def wait_until_no_thread(name):
    ends, tick = time.monotonic() + 10, threading.Event()
    while any(thread.name == name for thread in threading.enumerate()):
        assert time.monotonic() < ends
        tick.wait(0.005)


def test_connections_that_are_not_used_for_a_minute_are_closed(server):
    with client(server, heartbeat_interval=30.0, clock=ScaledClock(500.0)) as service:
        sampler = service.create_sampling_client(base_model="tiny")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: sampler.sample(prompt(number), 1, PARAMS), range(40)))
        registry = service.session.transport.registry
        opened = list(registry._sockets)
        assert opened
        # The heartbeats themselves keep one connection in use.
        server.until(lambda: sum(sock.fileno() != -1 for sock in opened) <= 1)
        assert sampler.sample(prompt(1), 1, PARAMS).sequences
