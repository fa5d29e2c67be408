"""Payment waits (402): calls wait, report it, and fail when the limit has passed."""

import logging

import pytest
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import errors, hookimpl, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.http.payment_wait import PaymentWait
from tinkex_sync.http.request import Request
from tinkex_sync.plugins.events import Source
from tinkex_sync.plugins.registry import Observers
from tinkex_sync.polling.poller import ServerFuture, poll

UNPAID = Answer(402, {"detail": "top up"})
SOURCE = Source("training", "model-1", "sess-1")


class Recorder:
    def __init__(self):
        self.reports = []

    @hookimpl
    def tinkex_billing_paused(self, source, waited, limit, error):
        self.reports.append((source.kind, waited, limit, type(error).__name__))


def unpaid():
    return errors.status_error(402, body={"detail": "top up"})


def test_a_call_waits_for_payment_succeeds_and_reports_each_minute(caplog):
    clock, recorder = SteppedClock(), Recorder()
    with bare_session(clock, (recorder,)) as (server, session):
        server.script("get_info", *[UNPAID] * 40)
        body = {"model_data": {"model_name": "m"}, "model_id": "model-1"}
        server.defaults["get_info"] = Answer(body=body)
        assert session.payment_wait.status() is None
        with caplog.at_level(logging.WARNING):
            assert session.call(Request("get_info", {"model_id": "model-1"})).model_id == "model-1"
        assert clock.waits == [5.0] * 40
        # During 200 s of waiting: immediately, then every 60 s.
        assert [waited for _, waited, _, _ in recorder.reports] == [0.0, 60.0, 120.0, 180.0]
        assert recorder.reports[0] == ("service", 0.0, 3600.0, "BillingError")
        assert sum("requires payment" in one.getMessage() for one in caplog.records) == 4
        state = session.payment_wait.status()
        assert state is not None and state["limit"] == 3600.0 and "top up" in state["reason"]
        clock.advance(11.0)
        assert session.payment_wait.status() is None


def test_payment_waits_do_not_count_towards_the_retry_limit():
    """The five minutes of the policy do not run meanwhile, nor does an outage before it count twice."""
    clock = SteppedClock()
    with bare_session(clock) as (server, session):
        server.script("get_info", *[UNPAID] * 100, Answer(503), UNPAID)
        server.defaults["get_info"] = Answer(body={"model_data": {}, "model_id": "model-1"})
        session.call(Request("get_info", {"model_id": "model-1"}))
        assert sum(clock.waits) > 500.0


@pytest.mark.parametrize(("limit", "sent"), [(0.0, 1), (12.0, 4)])
def test_the_error_is_raised_when_the_limit_has_passed(limit, sent):
    clock = SteppedClock()
    with bare_session(clock, billing_pause=limit) as (server, session):
        server.defaults["get_info"] = UNPAID
        with pytest.raises(errors.BillingError, match="top up.*billing_pause"):
            session.call(Request("get_info", {"model_id": "model-1"}))
        assert len(server.sent("get_info")) == sent
        assert sum(clock.waits) == limit


def test_the_servers_limit_applies_unless_the_user_sets_one():
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.script("client/config", Answer(body={"billing_exception_max_pause_duration_sec": 0}))
        session.open()
        server.defaults["get_info"] = UNPAID
        with pytest.raises(errors.BillingError):
            session.call(Request("get_info", {"model_id": "model-1"}))


def test_the_timeout_of_a_call_ends_its_wait():
    clock = SteppedClock()
    with bare_session(clock) as (server, session):
        server.defaults["get_info"] = UNPAID
        with pytest.raises(errors.DeadlineExceeded):
            session.call(Request("get_info", {"model_id": "model-1"}, deadline=clock.time() + 7.0))
        assert sum(clock.waits) == 7.0


def test_session_creation_does_not_wait():
    with bare_session(SteppedClock()) as (server, session):
        server.defaults["create_session"] = UNPAID
        with pytest.raises(errors.BillingError):
            session.open()


def test_polls_wait_too():
    clock = SteppedClock()
    with bare_session(clock) as (server, session):
        server.script("retrieve_future", UNPAID, UNPAID)
        server.defaults["retrieve_future"] = Answer(body={"metrics": {"a": 1.0}})
        call = session.begin(SOURCE, "optim_step")
        assert poll(session, ServerFuture("rf-1", "optim_step"), call).metrics == {"a": 1.0}
        session.end(call)
        assert clock.waits.count(5.0) == 2


def test_samples_wait_at_the_throttle():
    with bare_session(SteppedClock()) as (server, session):
        server.script("asample", UNPAID, UNPAID)
        server.defaults["asample"] = Answer(body={"request_id": "rf-1"})
        server.defaults["retrieve_future"] = Answer(
            body={"type": "sample", "sequences": [{"tokens": [1], "stop_reason": "stop"}]}
        )
        session.session_id = "sess-1"
        sampler = SamplingClient(session, "sampler-1")
        prompt = types.ModelInput.from_ints([1, 2])
        assert sampler.sample(prompt, 1, types.SamplingParams(max_tokens=1)).sequences[0].tokens == [1]
        sent = server.sent("asample")
        assert len(sent) == 3 and len({request.body["seq_id"] for request in sent}) == 1


def test_an_incident_ends_five_minutes_after_the_last_refusal():
    clock = SteppedClock()
    payment_wait = PaymentWait(lambda: 1000.0, clock, Observers(autoload=False))
    for _ in range(3):
        assert payment_wait.pause(unpaid(), SOURCE, "") == 5.0
        clock.advance(299.0)
    assert payment_wait.pause(unpaid(), SOURCE, "") == 5.0
    clock.advance(104.0)
    with pytest.raises(errors.BillingError, match="waited 1001 s"):
        payment_wait.pause(unpaid(), SOURCE, "")
    clock.advance(301.0)
    assert payment_wait.pause(unpaid(), SOURCE, "") == 5.0
