"""The steps of a sample: waits, retries, timeouts, limits, and the reports about them."""

import gc
import logging
import threading

import pytest
from scripted_server import Answer, SteppedClock, bare_session
from throttle_examples import until

from tinkex_sync import RetryConfig, errors, hookimpl, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.plugins.events import Source
from tinkex_sync.plugins.queue_log import QueueLog
from tinkex_sync.polling.poller import ServerFuture, poll
from tinkex_sync.polling.queue_states import QueueStates

PROMPT = types.ModelInput.from_ints([1, 2])
ONE = types.SamplingParams(max_tokens=1)
GOOD = Answer(body={"type": "sample", "sequences": [{"tokens": [1], "stop_reason": "stop"}]})


class Resolved:
    def __init__(self):
        self.seen = []

    @hookimpl
    def tinkex_future_resolved(self, request_id, outcome):
        self.seen.append((request_id, outcome))


def sampler_of(server, session, **config):
    server.defaults["asample"] = lambda request: Answer(body={"request_id": f"rf-{request.body['seq_id']}"})
    server.defaults["retrieve_future"] = GOOD
    return SamplingClient(session, "sess-1:sample:0", retry_config=RetryConfig(**config))


def test_a_progress_limit_that_moves_ends_no_poll_and_reports_one_result():
    """While one sample waits, others succeed. The limit of the first moves, and its poll continues."""
    # The limit is 2.4 s of real time, which no sample takes, even on a busy machine.
    clock, reports = ScaledClock(25.0), Resolved()
    with bare_session(clock, (reports,)) as (server, session):
        sampler = sampler_of(server, session, progress_timeout=60.0)
        let_go, polled = threading.Event(), threading.Event()

        def held(request):
            if request.body["request_id"] != "rf-0":
                return GOOD
            polled.set()
            if let_go.is_set():
                return GOOD
            return Answer(408, {"queue_state": "active"}, hold=lambda: let_go.wait(5.0))

        server.defaults["retrieve_future"] = held
        slow = sampler.submit_sample(PROMPT, 1, ONE)
        assert polled.wait(20)
        began = clock.time()
        while clock.time() - began < 90.0:
            sampler.sample(PROMPT, 1, ONE)
        assert not slow.done()
        let_go.set()
        assert slow.result(20).sequences[0].tokens == [1]
        assert [one for one in reports.seen if one[0] == "rf-0"] == [("rf-0", "ok")]


def test_a_sample_fails_when_no_sample_succeeds_within_the_progress_timeout():
    with bare_session(ScaledClock(100.0)) as (server, session):
        sampler = sampler_of(server, session, progress_timeout=30.0)
        server.defaults["retrieve_future"] = Answer(408, {}, hold=lambda: server.stopping.wait(0.02))
        with pytest.raises(errors.APIConnectionError, match="No progress made in 30.0s"):
            sampler.sample(PROMPT, 1, ONE)


def test_a_request_without_a_response_fails_after_five_minutes():
    clock = ScaledClock(600.0)
    with bare_session(clock) as (server, session):
        sampler = sampler_of(server, session)
        server.defaults["asample"] = Answer(body={}, hold=lambda: server.stopping.wait(20))
        began = clock.time()
        with pytest.raises(errors.APITimeoutError):
            sampler.sample(PROMPT, 1, ONE)
        assert 240.0 <= clock.time() - began <= 1000.0
        assert len({request.headers["x-idempotency-key"] for request in server.sent("asample")}) == 1
        assert len(server.sent("asample")) >= 2


@pytest.mark.parametrize("submitted", [False, True])
def test_a_retryable_exception_submits_the_sample_again_with_a_new_seq_id(submitted):
    failed = Answer(body={"error": "bad", "category": "server"})
    named = (*RetryConfig().retryable_exceptions, errors.RequestFailedError)
    with bare_session(None if submitted else SteppedClock()) as (server, session):
        sampler = sampler_of(server, session, retryable_exceptions=named, retry_delay_base=0.01)
        server.script("retrieve_future", failed, failed, failed)
        response = sampler.submit_sample(PROMPT, 1, ONE).result(20) if submitted else sampler.sample(PROMPT, 1, ONE)
        assert response.sequences[0].tokens == [1]
        sent = server.sent("asample")
        assert [one.body["seq_id"] for one in sent] == [0, 1, 2, 3]
        assert len({one.headers["x-idempotency-key"] for one in sent}) == 4


@pytest.mark.parametrize(
    ("config", "answer", "error"),
    [
        ({}, Answer(body={"error": "bad", "category": "user"}), errors.RequestFailedError),
        ({"retryable_exceptions": ()}, Answer(410, {}), errors.PromiseExpiredError),
        ({"enable_retry_logic": False}, Answer(410, {}), errors.PromiseExpiredError),
    ],
)
def test_other_exceptions_are_final(config, answer, error):
    with bare_session(SteppedClock()) as (server, session):
        sampler = sampler_of(server, session, **config)
        server.script("retrieve_future", answer)
        with pytest.raises(error):
            sampler.sample(PROMPT, 1, ONE)
        assert len(server.sent("asample")) == 1


@pytest.mark.parametrize("status", [200, 408])
def test_a_pause_is_logged_each_minute_for_both_forms_of_the_response(status, caplog):
    clock = SteppedClock()
    with bare_session(clock, (QueueLog(clock),)) as (server, session), caplog.at_level(logging.WARNING):
        paused = {"type": "try_again", "request_id": "rf-1", "queue_state": "paused_capacity"}

        def wait(request):
            clock.advance(10.0)
            return Answer(status, paused)

        server.script("retrieve_future", *[wait] * 20)
        server.defaults["retrieve_future"] = Answer(body={"metrics": {}})
        call = session.begin(Source("training", "model-1", "sess-1"), "optim_step")
        states = QueueStates(session.observers, clock)
        poll(session, ServerFuture("rf-1", "optim_step"), call, states=states)
        session.end(call)
        said = [one for one in caplog.records if "Training is paused" in one.getMessage()]
        assert len(said) == 4


class Crowd:
    """The number of samples that the server has accepted and not yet returned."""

    def __init__(self, server):
        self._lock = threading.Lock()
        self.now = self.most = self.served = 0
        server.defaults["asample"] = self.promise
        server.defaults["retrieve_future"] = self.give

    def promise(self, request):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        return Answer(body={"request_id": f"rf-{request.body['seq_id']}"})

    def give(self, request):
        with self._lock:
            self.now -= 1
            self.served += 1
        return GOOD


@pytest.mark.parametrize("submitted", [True, False])
def test_no_more_samples_are_in_progress_than_connections_are_allowed(submitted):
    with bare_session() as (server, session):
        crowd = Crowd(server)
        sampler = SamplingClient(session, "s", retry_config=RetryConfig(max_connections=3))
        if submitted:
            futures = [sampler.submit_sample(PROMPT, 1, ONE) for _ in range(60)]
            assert all(future.result(30).sequences for future in futures)
        else:
            threads = [threading.Thread(target=sampler.sample, args=(PROMPT, 1, ONE)) for _ in range(60)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
        assert crowd.served == 60 and 1 <= crowd.most <= 3
        places = sampler._context.running
        assert (places.balance, places.waiting) == (3, 0)


def test_the_wait_for_a_place_ends_by_timeout_withdrawal_and_close_and_leaks_none():
    with bare_session() as (server, session):
        sampler = SamplingClient(session, "s", retry_config=RetryConfig(max_connections=1))
        held, let_go = threading.Event(), threading.Event()
        server.defaults["asample"] = Answer(body={"request_id": "rf-0"})
        server.defaults["retrieve_future"] = lambda request: Answer(
            body=GOOD.body, hold=lambda: (held.set(), let_go.wait(20))
        )
        first = sampler.submit_sample(PROMPT, 1, ONE)
        assert held.wait(20)
        waiting = sampler.submit_sample(PROMPT, 1, ONE)
        with pytest.raises(errors.DeadlineExceeded) as late:
            sampler.sample(PROMPT, 1, ONE, timeout=0.05)
        assert late.value.sent == "no"
        assert waiting.cancel()
        let_go.set()
        assert first.result(20).sequences
        assert sampler.sample(PROMPT, 1, ONE).sequences
        assert len(server.sent("asample")) == 2
        held.clear()
        let_go.clear()
        last = sampler.submit_sample(PROMPT, 1, ONE)
        assert held.wait(20)
        queued = sampler.submit_sample(PROMPT, 1, ONE)
        ended = []

        def blocked():
            try:
                sampler.sample(PROMPT, 1, ONE)
            except errors.ClosedError:
                ended.append(True)

        thread = threading.Thread(target=blocked)
        thread.start()
        session.close()
        thread.join(20)
        let_go.set()
        assert ended == [True]
        for future in (last, queued):
            assert isinstance(future.exception(20), errors.ClosedError)


def test_four_samples_that_wait_for_a_retry_do_not_block_other_submitted_samples():
    with bare_session(dispatchers=4) as (server, session):
        sampler = sampler_of(server, session)
        accept = server.defaults["asample"]

        def fail_some(request):
            is_bad = request.body["prompt"]["chunks"][0]["tokens"] == [9]
            return Answer(503, {}, headers={"Retry-After": "50"}) if is_bad else accept(request)

        server.defaults["asample"] = fail_some
        bad = [sampler.submit_sample(types.ModelInput.from_ints([9]), 1, ONE) for _ in range(4)]
        until(lambda: [call.phase for call in session.open_calls()] == ["retrying"] * 4)
        good = [sampler.submit_sample(PROMPT, 1, ONE) for _ in range(40)]
        assert all(future.result(10).sequences for future in good)
        assert not any(future.done() for future in bad)
        assert session.throttle.status()["in_flight"] == 0


@pytest.mark.parametrize("wait", ["dispatcher", "place", "permit", "turn"])
def test_the_timeout_of_a_submitted_sample_ends_every_wait_before_it_is_sent(wait):
    limits = {"max_dispatches": 1} if wait in ("dispatcher", "permit") else {}
    connections = {"max_connections": 1} if wait == "place" else {}
    with bare_session(dispatchers=1, **limits) as (server, session):
        sampler = sampler_of(server, session, **connections)
        if wait == "dispatcher":
            server.script("asample", Answer(body={}, hold=lambda: server.stopping.wait(20)))
        elif wait == "place":
            server.defaults["retrieve_future"] = Answer(408, {}, hold=lambda: server.stopping.wait(0.02))
        else:
            server.script("asample", Answer(429, {}, headers={"Retry-After": "50"}))
        first = sampler.submit_sample(PROMPT, 1, ONE)
        until(lambda: server.sent("retrieve_future" if wait == "place" else "asample"))
        if wait in ("permit", "turn"):
            until(lambda: session.throttle.status()["pace"] is not None)
        late = sampler.submit_sample(PROMPT, 1, ONE, timeout=0.05)
        error = late.exception(10)
        assert isinstance(error, errors.DeadlineExceeded)
        assert error.phase in ("queued", "throttled") and error.sent == "no"
        assert not first.done()
        assert len(server.sent("asample")) == 1
        until(lambda: len(session.open_calls()) == 1)


@pytest.mark.parametrize("submitted", [False, True])
def test_a_sample_that_is_refused_without_end_fails_for_lack_of_progress(submitted):
    with bare_session(ScaledClock(100.0)) as (server, session):
        sampler = sampler_of(server, session, progress_timeout=30.0)
        server.defaults["asample"] = Answer(429, {})
        with pytest.raises(errors.APIConnectionError, match="No progress made in 30.0s"):
            if submitted:
                sampler.submit_sample(PROMPT, 1, ONE).result(20)
            else:
                sampler.sample(PROMPT, 1, ONE)
        assert session.throttle.status()["in_flight"] == 0


def test_thousands_of_submitted_samples_need_few_threads_while_they_wait():
    with bare_session(dispatchers=4) as (server, session):
        sampler = sampler_of(server, session)
        server.defaults["asample"] = Answer(429, {}, headers={"Retry-After": "50"})
        futures = [sampler.submit_sample(PROMPT, 1, ONE) for _ in range(3000)]
        until(lambda: session.throttle.status()["waiting"] >= 900)
        assert sum(thread.name.startswith("tinkex-") for thread in threading.enumerate()) <= 100
        session.close()
        assert all(isinstance(future.exception(10), errors.ClosedError) for future in futures)


def test_no_permit_place_or_wake_is_lost_when_the_server_limits_and_fails():
    """Blocking and submitted samples, timeouts and cancellations share one throttle with few places."""
    pace = {"pace_start": 1000.0, "pace_floor": 500.0, "small_backoff": 0.01}
    with bare_session(max_dispatches=5, dispatchers=3, **pace) as (server, session):
        sampler = sampler_of(server, session, max_connections=8)
        accept, lock, count = server.defaults["asample"], threading.Lock(), [0]

        def misbehave(request):
            with lock:
                count[0] += 1
                number = count[0]
            if number % 7 == 0:
                return Answer(429, {}, headers={"retry-after-ms": "10"})
            if number % 11 == 0:
                return Answer(503, {}, headers={"retry-after-ms": "10"})
            return accept(request)

        server.defaults["asample"] = misbehave
        outcomes = []

        def block():
            for number in range(20):
                try:
                    sampler.sample(PROMPT, 1, ONE, timeout=0.02 if number % 5 == 0 else None)
                    outcomes.append("ok")
                except errors.DeadlineExceeded:
                    outcomes.append("late")

        threads = [threading.Thread(target=block) for _ in range(6)]
        for thread in threads:
            thread.start()
        futures = [
            sampler.submit_sample(PROMPT, 1, ONE, timeout=0.02 if number % 5 == 0 else None) for number in range(200)
        ]
        for future in futures[::9]:
            future.cancel()
        for thread in threads:
            thread.join(30)
        assert len(outcomes) == 120
        for future in futures:
            if not future.cancelled():
                error = future.exception(30)
                assert error is None or isinstance(error, errors.DeadlineExceeded), error
        until(lambda: not session.open_calls())
        status, places = session.throttle.status(), sampler._context.running
        assert (status["in_flight"], status["waiting"]) == (0, 0)
        assert status["bytes_left"] == session.throttle.limits.dispatch_bytes
        assert (places.balance, places.waiting) == (8, 0)


def test_an_unread_error_is_logged_when_the_sample_ends_without_garbage_collection(caplog):
    with bare_session() as (server, session):
        sampler = sampler_of(server, session)
        server.defaults["retrieve_future"] = Answer(body={"error": "bad prompt", "category": "user"})
        gc.collect()
        gc.disable()
        try:
            sampler.submit_sample(PROMPT, 1, ONE)
            until(lambda: "bad prompt" in caplog.text)
        finally:
            gc.enable()
        assert "Unread error: operation=sample" in caplog.text
