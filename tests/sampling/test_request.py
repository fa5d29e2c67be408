"""How samples end that take long, and what is told of them meanwhile."""

import logging
import threading

import pytest
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import RetryConfig, errors, hookimpl, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.plugins.hookspecs import Source
from tinkex_sync.plugins.queue_log import QueueLog
from tinkex_sync.polling.poller import Promise, poll
from tinkex_sync.polling.queue_states import QueueStates

PROMPT = types.ModelInput.from_ints([1, 2])
ONE = types.SamplingParams(max_tokens=1)
GOOD = Answer(body={"type": "sample", "sequences": [{"tokens": [1], "stop_reason": "stop"}]})


class Resolved:
    def __init__(self):
        self.told = []

    @hookimpl
    def tinkex_future_resolved(self, request_id, outcome):
        self.told.append((request_id, outcome))


def sampler_of(server, session, **config):
    server.defaults["asample"] = lambda request: Answer(body={"request_id": f"rf-{request.body['seq_id']}"})
    server.defaults["retrieve_future"] = GOOD
    return SamplingClient(session, "sess-1:sample:0", retry_config=RetryConfig(**config))


def test_a_watch_that_is_put_off_ends_no_poll_and_tells_nobody_twice():
    """While one sample waits, others succeed: the limit of the first moves, its promise is polled on."""
    clock, heard = ScaledClock(100.0), Resolved()
    with bare_session(clock, (heard,)) as (server, session):
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
        while clock.time() - began < 150.0:
            sampler.sample(PROMPT, 1, ONE)
        assert not slow.done()
        let_go.set()
        assert slow.result(20).sequences[0].tokens == [1]
        assert [one for one in heard.told if one[0] == "rf-0"] == [("rf-0", "ok")]


def test_a_server_without_progress_is_given_up_on():
    with bare_session(ScaledClock(100.0)) as (server, session):
        sampler = sampler_of(server, session, progress_timeout=30.0)
        server.defaults["retrieve_future"] = Answer(408, {}, hold=lambda: server.stopping.wait(0.02))
        with pytest.raises(errors.APIConnectionError, match="No progress made in 30.0s"):
            sampler.sample(PROMPT, 1, ONE)


def test_a_post_that_is_never_answered_ends_with_the_five_minutes():
    clock = ScaledClock(600.0)
    with bare_session(clock, read_timeout=10_000.0) as (server, session):
        sampler = sampler_of(server, session)
        server.defaults["asample"] = Answer(body={}, hold=lambda: server.stopping.wait(20))
        began = clock.time()
        with pytest.raises(errors.APITimeoutError, match="300 s"):
            sampler.sample(PROMPT, 1, ONE)
        assert 290.0 <= clock.time() - began <= 1000.0


@pytest.mark.parametrize("submitted", [False, True])
def test_what_the_user_names_is_drawn_anew_under_a_new_number(submitted):
    failed = Answer(body={"error": "bad", "category": "server"})
    named = (*RetryConfig().retryable_exceptions, errors.RequestFailedError)
    with bare_session(None if submitted else SteppedClock()) as (server, session):
        sampler = sampler_of(server, session, retryable_exceptions=named, retry_delay_base=0.01)
        server.script("retrieve_future", failed, failed, failed)
        reply = (
            sampler.submit_sample(PROMPT, 1, ONE).result(20) if submitted else sampler.sample(PROMPT, 1, ONE)
        )
        assert reply.sequences[0].tokens == [1]
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
def test_what_is_not_named_is_final(config, answer, error):
    with bare_session(SteppedClock()) as (server, session):
        sampler = sampler_of(server, session, **config)
        server.script("retrieve_future", answer)
        with pytest.raises(error):
            sampler.sample(PROMPT, 1, ONE)
        assert len(server.sent("asample")) == 1


@pytest.mark.parametrize("status", [200, 408])
def test_the_log_says_each_minute_that_a_pause_lasts_however_the_server_says_so(status, caplog):
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
        poll(session, Promise("rf-1", "optim_step"), call, states=states)
        session.end(call)
        said = [one for one in caplog.records if "Training is paused" in one.getMessage()]
        assert len(said) == 4


class Crowd:
    """How many samples the server has promised and not yet given."""

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
        places = sampler._context.places
        assert (places.balance, places.waiting) == (3, 0)


def test_waiting_for_a_place_ends_with_time_withdrawal_and_close_and_leaks_none():
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
