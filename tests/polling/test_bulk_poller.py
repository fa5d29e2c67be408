"""One poll for all samples of a sampling session, on servers of protocol 0.38.0 that support it."""

import itertools
import threading

import pytest
from scripted_server import Answer, bare_session

from tinkex_sync import errors, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.plugins.events import Source
from tinkex_sync.polling.bulk_poller import BulkPoller

CONFIG = {"fwdbwd_max_chunk_len": 1024, "sample_use_retrieve_futures": True}
PROMPT = types.ModelInput.from_ints([1, 2])
ONE = types.SamplingParams(max_tokens=2)


class BulkServer:
    """Scripts asample, retrieve_futures and retrieve_future; each sample is complete immediately."""

    def __init__(self, server, sizes=True, first=()):
        self._lock = threading.Condition()
        self.server, self.sizes = server, sizes
        self.accepted, self.finished = 0, []
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.defaults["asample"] = self.accept
        server.script("retrieve_futures", *first)
        server.defaults["retrieve_futures"] = self.poll
        server.defaults["retrieve_future"] = self.result

    def accept(self, request):
        with self._lock:
            self.accepted += 1
            name = f"req-{self.accepted}"
            self.finished.append(name)
            self._lock.notify_all()
        return Answer(body={"request_id": name})

    def poll(self, request):
        with self._lock:
            if "timeout" not in request.body:
                self._lock.wait_for(lambda: len(self.finished) > request.body["prev_cursor"], 1.0)
            found = self.finished[request.body["prev_cursor"] :]
            cursor = len(self.finished)
        done = [{"state": "finished", "request_id": name} for name in found]
        if self.sizes:
            for one in done:
                one["response_payload_uncompressed_size"] = 100
        return Answer(body={"completions": done, "cursor": cursor})

    def result(self, request):
        number = int(request.body["request_id"].partition("-")[2])
        sequence = {"tokens": [number], "stop_reason": "stop"}
        return Answer(body={"type": "sample", "sequences": [sequence]})

    def acknowledged(self):
        return sorted(
            {name for one in self.server.sent("retrieve_futures") for name in one.body["retrieved_request_ids"]}
        )


def sampler_of(server, session, config=CONFIG):
    server.script("client/config", Answer(body=config))
    session.open()
    return SamplingClient(session, "sess-1:sample:0")


def until(condition):
    tick = threading.Event()
    for _ in range(2000):
        if condition():
            return True
        tick.wait(0.01)
    return False


def test_one_sample_is_waited_for_fetched_and_acknowledged():
    with bare_session(protocol="auto") as (server, session):
        bulk = BulkServer(server)
        sampler = sampler_of(server, session)
        assert sampler.sample(PROMPT, 1, ONE).sequences[0].tokens == [1]
        assert until(lambda: bulk.acknowledged() == ["req-1"])
        first = server.sent("retrieve_futures")[0].body
        assert first == {
            "target": {"type": "sampling_session", "sampling_session_id": "sess-1:sample:0", "cloned_sampler_id": 0},
            "prev_cursor": 0,
            "retrieved_request_ids": [],
        }
        (fetch,) = server.sent("retrieve_future")
        assert fetch.body == {"request_id": "req-1", "allow_metadata_only": False}
        acknowledging = [one.body for one in server.sent("retrieve_futures") if one.body["retrieved_request_ids"]]
        assert all(one["timeout"] == 0.0 for one in acknowledging)


def test_a_result_of_unknown_size_is_fetched_by_its_size_first():
    with bare_session(protocol="auto") as (server, session):
        BulkServer(server, sizes=False)
        sampler_of(server, session).sample(PROMPT, 1, ONE)
        assert server.sent("retrieve_future")[0].body["allow_metadata_only"] is True


def test_a_thousand_samples_share_the_polls_and_each_has_its_own_result():
    with bare_session(protocol="auto") as (server, session):
        bulk = BulkServer(server)
        sampler = sampler_of(server, session)
        futures = [sampler.submit_sample(PROMPT, 1, ONE) for _ in range(1000)]
        tokens = sorted(future.result(60).sequences[0].tokens[0] for future in futures)
        assert tokens == list(range(1, 1001))
        for future in futures:
            assert future.request_id == f"req-{future.result().sequences[0].tokens[0]}"
        assert until(lambda: len(bulk.acknowledged()) == 1000)
        assert until(lambda: not sampler._context.bulk._running)
        poller = sampler._context.bulk
        assert not poller._early and not poller._waiters and not poller._read


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(503, {"detail": "x"})],
        [Answer(429, {"detail": "x"})] * 2,
        [Answer(400, {"detail": "x"})] * 3,
        [Answer(402, {"detail": "pay"})],
        [Answer(drop=True)] * 2,
        [Answer(text="<html>"), Answer(302, text=""), Answer(403, text="<html>")],
    ],
)
def test_bulk_polls_are_sent_again_after_these_failures(answers):
    with bare_session(ScaledClock(50.0), protocol="auto") as (server, session):
        BulkServer(server, first=answers)
        assert sampler_of(server, session).sample(PROMPT, 1, ONE).sequences[0].tokens == [1]


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(404, {"detail": "x"})],
        [Answer(400, {"detail": "x"})] * 4,
        [Answer(body={"completions": [{"state": "odd", "request_id": "req-1"}], "cursor": 5})],
        [Answer(body={"cursor": 5})],
        [Answer(text='{"completions": [], "cursor": Infinity}')],
        [Answer(body={"completions": [], "cursor": 2**70})],
        [Answer(body={"completions": [], "cursor": -1})],
        [Answer(text="[")],
    ],
)
def test_a_final_failure_of_a_bulk_poll_fails_current_and_later_samples(answers):
    with bare_session(ScaledClock(50.0), protocol="auto") as (server, session):
        BulkServer(server, first=answers)
        sampler = sampler_of(server, session)
        with pytest.raises(errors.TinkexError):
            sampler.sample(PROMPT, 1, ONE)
        polls = len(server.sent("retrieve_futures"))
        with pytest.raises(errors.TinkexError):
            sampler.sample(PROMPT, 1, ONE)
        assert len(server.sent("retrieve_futures")) == polls


def test_closing_ends_the_wait_for_a_completion():
    with bare_session(protocol="auto") as (server, session):
        BulkServer(server)
        held = threading.Event()
        server.script("retrieve_futures", Answer(body={}, hold=lambda: (held.set(), server.stopping.wait(20))))
        future = sampler_of(server, session).submit_sample(PROMPT, 1, ONE)
        assert held.wait(20)
        session.close(None)
        with pytest.raises(errors.ClosedError):
            future.result(10)


def test_the_callers_timeout_ends_the_wait_for_a_completion():
    with bare_session(protocol="auto") as (server, session):
        BulkServer(server)
        server.defaults["retrieve_futures"] = Answer(
            body={"completions": [], "cursor": 0}, hold=lambda: server.stopping.wait(0.05)
        )
        with pytest.raises(errors.DeadlineExceeded) as caught:
            sampler_of(server, session).sample(PROMPT, 1, ONE, timeout=0.3)
        assert caught.value.phase == "polling" and caught.value.request_id == "req-1"


def test_servers_without_bulk_polls_get_one_poll_per_sample():
    with bare_session(protocol="auto") as (server, session):
        BulkServer(server)
        sampler_of(server, session, {"fwdbwd_max_chunk_len": 4}).sample(PROMPT, 1, ONE)
        assert not server.sent("retrieve_futures")


def test_polls_without_an_expected_completion_are_a_tenth_of_a_second_apart():
    with bare_session(protocol="auto") as (server, session):
        BulkServer(server)
        unknown = itertools.count()

        def answer(request):
            done = [{"state": "finished", "request_id": f"unknown-{next(unknown)}"} for _ in range(3000)]
            return Answer(body={"completions": done, "cursor": 0})

        server.defaults["retrieve_futures"] = answer
        sampler = sampler_of(server, session)
        with pytest.raises(errors.DeadlineExceeded):
            sampler.sample(PROMPT, 1, ONE, timeout=1.0)
        assert 2 <= len(server.sent("retrieve_futures")) <= 12


def test_completions_that_no_thread_waits_for_are_dropped_beyond_a_number(monkeypatch):
    monkeypatch.setattr("tinkex_sync.polling.bulk_poller._MOST_EARLY", 10)
    with bare_session(protocol="auto") as (_, session):
        poller = BulkPoller(session, Source("sampling", "s", "sess-1"), 0)
        done = [{"state": "finished", "request_id": f"r{number}"} for number in range(25)]
        assert not poller._apply({"completions": done, "cursor": 25}, 0, [])
        assert list(poller._early) == [f"r{number}" for number in range(15, 25)]
