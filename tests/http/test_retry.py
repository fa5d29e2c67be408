"""Retry policies, run on a clock whose waits pass immediately."""

import logging
import pickle
import threading
from dataclasses import replace

import pytest
import tenacity
from retry_runs import POLICIES, run
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import hookimpl, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.config import Config, RetryStrategies
from tinkex_sync.errors import (
    APIConnectionError,
    APITimeoutError,
    ClosedError,
    ConfigError,
    DeadlineExceeded,
    InternalServerError,
    NotFoundError,
    status_error,
)
from tinkex_sync.http.request import Request
from tinkex_sync.http.retry import Attempts, RetryConfig, retry_after


@pytest.fixture
def clock():
    return SteppedClock()


def runs(attempts, clock, failures):
    """Run a call that fails with ``failures`` one after another, then succeeds."""
    left = list(failures)

    def send(made):
        if left:
            raise left.pop(0)
        return "ok"

    return run(attempts, send, lambda seconds: clock.wait(threading.Event(), seconds) and None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "60"}, 60.0),
        ({"retry-after": "60.1"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}, None),
        ({"retry-after": "1 Jan 999999999999999999 00:00 +0000"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 +99999999"}, None),
        ({"retry-after": " "}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after_is_read_as_seconds_milliseconds_or_date(headers, seconds):
    assert retry_after(headers) == seconds


def test_the_final_error_contains_the_number_of_attempts_and_their_time(clock):
    last = status_error(503, body="busy")
    with pytest.raises(InternalServerError) as caught:
        runs(
            Attempts(replace(POLICIES["submit"], stop=tenacity.stop_after_attempt(4)), clock),
            clock,
            [last] * 4,
        )
    assert caught.value is last
    assert (last.attempts, last.elapsed) == (4, 7.0)
    assert str(last) == "busy (gave up after 4 attempts in 7.0 s)"
    again = pickle.loads(pickle.dumps(last))
    assert (str(again), again.attempts, again.elapsed) == (str(last), 4, 7.0)


@pytest.mark.parametrize("name", ["short", "submit"])
@pytest.mark.parametrize("status", [409, 501])
def test_409_with_detail_and_501_are_final_at_the_third_attempt(clock, name, status):
    attempts = Attempts(POLICIES[name], clock)
    with pytest.raises(Exception) as caught:
        runs(attempts, clock, [status_error(status, body={"detail": "x"}) for _ in range(9)])
    assert (caught.value.status_code, attempts.number) == (status, 3)


def test_a_409_without_detail_is_retried_like_others(clock):
    attempts = Attempts(POLICIES["submit"], clock)
    assert runs(attempts, clock, [status_error(409, body={}) for _ in range(9)]) == "ok"


def test_an_attempt_that_cannot_end_before_the_limit_is_not_started(clock):
    attempts = Attempts(POLICIES["submit"], clock)

    def send(made):
        clock.advance(140.0)
        raise status_error(504, body="")

    with pytest.raises(InternalServerError):
        run(attempts, send, clock.advance)
    # The third would have begun 17 seconds before the end, and the second took 140.
    assert (attempts.number, clock.time()) == (2, 1000.0 + 140 + 1 + 140)


def test_a_late_attempt_is_cut_at_the_limit(clock):
    attempts = Attempts(POLICIES["submit"], clock)
    cuts = []

    def send(made):
        cuts.append(made.ends_at() - clock.time())
        clock.advance(160.0 if made.number == 1 else cuts[-1])
        raise APITimeoutError

    with pytest.raises(APITimeoutError):
        run(attempts, send, clock.advance)
    assert cuts == [300.0, 139.0]
    assert clock.time() == 1300.0


def test_excluded_time_does_not_count_towards_the_limit(clock):
    attempts = Attempts(POLICIES["submit"], clock)

    def send(made):
        if made.number < 4:
            clock.advance(200.0)
            made.exclude(200.0)
            raise status_error(503, body="")
        return "ok"

    assert run(attempts, send, clock.advance) == "ok"
    assert attempts.elapsed == pytest.approx(7.0)


def test_submit_waits_have_jitter_only_while_other_calls_wait(clock):
    attempts = Attempts(POLICIES["submit"], clock)
    attempts.random = lambda: 1.0
    failures = [status_error(503, body="") for _ in range(2)]
    runs(attempts, clock, failures)
    attempts = Attempts(POLICIES["submit"], clock)
    attempts.random, attempts.is_crowded = (lambda: 1.0), (lambda: True)
    runs(attempts, clock, failures)
    assert clock.waits == [1.0, 2.0, 0.75, 1.5]


def test_a_warning_is_logged_after_ten_seconds_of_retrying(clock, caplog):
    with caplog.at_level(logging.WARNING, "tinkex_sync.http.retry"):
        runs(Attempts(POLICIES["submit"], clock), clock, [status_error(503, body="x") for _ in range(7)])
    assert [record.getMessage().partition(" error=")[0] for record in caplog.records] == [
        "Still retrying a call: elapsed=7s attempts=4"
    ]


@pytest.mark.parametrize(
    ("failures", "in_doubt"),
    [
        ([status_error(429, body="")], False),
        ([status_error(501, body="")], False),
        ([status_error(503, body=""), status_error(429, body="")], True),
        ([APIConnectionError()], True),
        ([APITimeoutError()], True),
    ],
)
def test_an_attempt_is_in_doubt_if_the_server_may_have_received_it(clock, failures, in_doubt):
    attempts = Attempts(POLICIES["submit"], clock)
    runs(attempts, clock, failures)
    assert attempts.in_doubt is in_doubt


def test_an_attempt_that_was_not_sent_is_not_in_doubt(clock):
    refused = APIConnectionError()
    refused.unsent = True
    attempts = Attempts(POLICIES["submit"], clock)
    runs(attempts, clock, [refused])
    assert attempts.in_doubt is False


def test_a_sleep_ends_at_the_deadline_and_at_close(clock):
    with bare_session(clock) as (server, session):
        server.defaults["healthz"] = Answer(503, text="")
        with pytest.raises(DeadlineExceeded) as caught:
            session.call(Request("healthz", deadline=clock.time() + 5.0))
        assert (caught.value.phase, clock.time()) == ("retrying", 1005.0)
        session.closing.set()
        with pytest.raises(ClosedError):
            session.sleep(1.0)


def test_a_request_on_a_dropped_kept_alive_connection_is_sent_again_immediately(clock):
    with bare_session(clock) as (server, session):
        server.script("unload_model", Answer(body={"request_id": "a"}), Answer(drop=True))
        server.defaults["unload_model"] = Answer(body={"request_id": "b"})
        session.call(Request("unload_model", {"model_id": "m"}))
        attempts = session.attempts("submit")
        reply = session.call(Request("unload_model", {"model_id": "m"}), attempts)
        sent = server.sent("unload_model")
    assert (reply.request_id, clock.waits, attempts.number, attempts.in_doubt) == ("b", [], 1, True)
    assert [request.connection for request in sent] == [0, 0, 1]
    keys = [request.headers["x-idempotency-key"] for request in sent]
    assert keys[0] != keys[1] == keys[2]


def test_retry_config_sets_the_delays_of_resubmissions():
    config = RetryConfig(retry_delay_base=2.0, retry_delay_max=9.0, jitter_factor=0.5)
    assert [config.resubmit_delay(n, lambda: 0.5) for n in range(5)] == [2.0, 4.0, 8.0, 9.0, 9.0]
    assert [config.resubmit_delay(0, lambda: 0.0), config.resubmit_delay(3, lambda: 0.999999)] == [1.0, 9.0]
    with pytest.raises(ValueError, match="max_connections must be positive, got -1"):
        RetryConfig(max_connections=-1)


def test_strategies_of_the_user_replace_those_of_a_policy(clock):
    strategies = RetryStrategies(
        retry=tenacity.retry_if_exception_type(InternalServerError),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(7.0),
    )
    with bare_session(clock, retry_strategies={"short": strategies}) as (server, session):
        server.defaults["healthz"] = Answer(503, text="")
        with pytest.raises(InternalServerError) as caught:
            session.call(Request("healthz"))
    assert (caught.value.attempts, clock.waits) == (3, [7.0, 7.0])


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"mapping of short, .*, got \{'sample':"):
        Config(retry_strategies={"sample": RetryStrategies()})


class AttemptRecorder:
    """Records attempt and status of every request."""

    def __init__(self):
        self.attempts = []

    @hookimpl
    def tinkex_request_finished(self, path, attempt, status):
        self.attempts.append((path.rpartition("/")[2], attempt, status))


def test_observers_get_the_number_of_each_attempt(clock):
    recorder = AttemptRecorder()
    with bare_session(clock, (recorder,)) as (server, session):
        server.script("healthz", Answer(500), Answer(503), Answer(500), Answer(body={"status": "ok"}))
        session.call(Request("healthz"))
    assert recorder.attempts == [
        ("healthz", 1, 500),
        ("healthz", 2, 503),
        ("healthz", 3, 500),
        ("healthz", 4, 200),
    ]


def test_observers_get_the_number_of_each_attempt_of_samples_and_polls(clock):
    recorder = AttemptRecorder()
    with bare_session(clock, (recorder,)) as (server, session):
        server.script("asample", Answer(429, {}), Answer(503), Answer(body={"request_id": "rf-1"}))
        server.script("retrieve_future", Answer(503), Answer(503), Answer(408, {}), Answer(503))
        server.defaults["retrieve_future"] = Answer(
            body={"type": "sample", "sequences": [{"tokens": [1], "stop_reason": "stop"}]}
        )
        sampler = SamplingClient(session, "sampler-1")
        sampler.sample(types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=1))
    assert recorder.attempts == [
        ("asample", 1, 429),
        ("asample", 2, 503),
        ("asample", 3, 200),
        ("retrieve_future", 1, 503),
        ("retrieve_future", 2, 503),
        ("retrieve_future", 3, 408),
        # The server has answered that the operation is in progress: the next poll is a new request.
        ("retrieve_future", 1, 503),
        ("retrieve_future", 2, 200),
    ]


@pytest.mark.parametrize("endpoint", ["asample", "get_info"])
def test_a_missing_endpoint_is_named_in_the_error(clock, endpoint):
    with bare_session(clock) as (server, session):
        server.defaults[endpoint] = Answer(404, {"detail": "Not Found"})
        with pytest.raises(NotFoundError, match=f"no such endpoint: POST http.*/api/v1/{endpoint}"):
            if endpoint == "asample":
                sampler = SamplingClient(session, "sampler-1")
                sampler.sample(types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=1))
            else:
                session.call(Request("get_info", {"model_id": "m"}))
