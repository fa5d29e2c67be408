"""Cancellation of samples that were sent, on servers that support it."""

import concurrent.futures
import threading

import pytest
from scripted_server import Answer, bare_session

from tinkex_sync import errors, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.protocol import negotiation as protocol

PROMPT = types.ModelInput.from_ints([1, 2])
ONE = types.SamplingParams(max_tokens=2)


def held_sampler(server, session, dynamic):
    """Return a sampler without results, an event that is set by a poll, and one that ends the polls."""
    server.script("client/config", Answer(body={"fwdbwd_max_chunk_len": 4}))
    server.script("client/dynamic_config", dynamic)
    server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
    server.defaults["asample"] = Answer(body={"request_id": "req-1"})
    polled, let_go = threading.Event(), threading.Event()
    held = Answer(410, {"detail": "gone"}, hold=lambda: (polled.set(), let_go.wait(20)))
    server.defaults["retrieve_future"] = held
    server.defaults["cancel_future"] = Answer(body={})
    session.open()
    return SamplingClient(session, "sess-1:sample:0"), polled, let_go


def until(condition):
    tick = threading.Event()
    return any(condition() or tick.wait(0.01) for _ in range(1000))


def test_a_sent_sample_is_cancelled_on_the_server_and_not_sent_again():
    with bare_session(protocol="auto") as (server, session):
        sampler, polled, let_go = held_sampler(server, session, Answer(body={"sample_cancel_enabled": True}))
        future = sampler.submit_sample(PROMPT, 1, ONE)
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        assert polled.wait(20)
        assert future.cancel() and future.cancelled() and ended.is_set()
        assert not concurrent.futures.wait([future], 0).not_done
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(1)
        assert until(lambda: server.sent("cancel_future"))
        assert server.sent("cancel_future")[0].body == {"request_id": "req-1"}
        let_go.set()
        assert until(lambda: not session.open_calls())
        assert len(server.sent("asample")) == 1
        assert future.cancel() is False or future.cancelled()


def test_without_support_by_the_server_a_sent_sample_continues():
    for dynamic in (Answer(404, {}), Answer(body={"sample_cancel_enabled": False})):
        protocol.forget()
        with bare_session(protocol="auto") as (server, session):
            sampler, polled, let_go = held_sampler(server, session, dynamic)
            future = sampler.submit_sample(PROMPT, 1, ONE)
            assert polled.wait(20)
            assert future.cancel() is False and not future.done()
            assert not server.sent("cancel_future")
            session.close(None)
            let_go.set()
            assert isinstance(future.exception(10), errors.ClosedError)


def test_a_timeout_of_the_wait_cancels_nothing():
    with bare_session(protocol="auto") as (server, session):
        sampler, polled, let_go = held_sampler(server, session, Answer(body={"sample_cancel_enabled": True}))
        future = sampler.submit_sample(PROMPT, 1, ONE)
        assert polled.wait(20)
        with pytest.raises(errors.DeadlineExceeded):
            future.result(0.05)
        assert not future.done() and not server.sent("cancel_future")
        future.cancel()
        let_go.set()
