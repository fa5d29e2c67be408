"""Retry policies, run on a clock whose waits pass immediately."""

import logging
import pickle
import threading
from dataclasses import replace

import pytest
import tenacity
from retry_runs import POLICIES, run
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync.config import Config, RetryStrategies
from tinkex_sync.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APITimeoutError,
    ConfigError,
    InternalServerError,
    status_error,
)
from tinkex_sync.http.request import Request
from tinkex_sync.http.retry import Attempts, RetryConfig, RetryLog, retry_after


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
        runs(Attempts(replace(POLICIES["submit"], stop=tenacity.stop_after_attempt(4)), clock), clock, [last] * 4)
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
        raise status_error(503, body="")

    with pytest.raises(InternalServerError):
        run(attempts, send, clock.advance)
    assert cuts == [300.0, 139.0]
    assert clock.time() == 1300.0


def test_a_first_attempt_without_a_response_is_followed_by_one_of_the_same_length(clock):
    attempts = Attempts(POLICIES["submit"], clock)
    cuts = []

    def send(made):
        cuts.append(made.ends_at() - clock.time())
        clock.advance(cuts[-1])
        raise APITimeoutError

    with pytest.raises(APITimeoutError):
        run(attempts, send, clock.advance)
    assert cuts == [300.0, 300.0]
    assert clock.time() == 1600.0


PAGE = "<html>Sign in</html>"


@pytest.mark.parametrize(
    ("failure", "is_retried"),
    [
        (status_error(302, body=""), True),
        (status_error(400, body=PAGE), True),
        (status_error(401, body=PAGE), True),
        (status_error(403, body="<p>Forbidden</p>"), True),
        (status_error(302, body="moved"), True),
        (status_error(403, body="Forbidden"), False),
        (status_error(407, body=""), True),
        (status_error(421, body=PAGE), True),
        (status_error(499, body=""), True),
        (APIResponseValidationError(body=PAGE), True),
        (APIResponseValidationError(body=" "), True),
        (APIResponseValidationError(body='{"half": '), False),
        (APIResponseValidationError(body={"no": "id"}), False),
        (status_error(400, body={"detail": "x"}), False),
        (status_error(401, body={"detail": "x"}), False),
        (status_error(404, body=PAGE), False),
        (status_error(413, body=PAGE), False),
    ],
)
def test_a_response_of_an_intermediary_is_retried_but_not_at_the_first_contact(clock, failure, is_retried):
    attempts = Attempts(POLICIES["submit"], clock)
    if is_retried:
        assert runs(attempts, clock, [failure] * 3) == "ok"
        assert attempts.in_doubt  # the server may have read the request
    first = Attempts(POLICIES["submit"], clock, unreachable_after=15.0)
    with pytest.raises(type(failure)):
        runs(first if is_retried else attempts, clock, [failure])


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
        "Still retrying: operation=asample calls=1 elapsed=7s attempts=4"
    ]


def test_many_calls_that_retry_for_one_reason_log_one_warning_with_their_number(clock, caplog):
    log = RetryLog(clock)
    waiting = [Attempts(POLICIES["poll"], clock) for _ in range(256)]
    clock.advance(11.0)
    for attempts in waiting:
        log.report(attempts, 1.0, status_error(503, body="<html>\n" + 999 * "x"), "retrieve_future", len(waiting))
    log.report(waiting[0], 1.0, APIConnectionError("Connection refused"), "retrieve_future", 256)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert messages[0].startswith("Still retrying: operation=retrieve_future calls=256 elapsed=11s")
    assert "\n" not in messages[0] and len(messages[0]) < 500
    assert "APIConnectionError: Connection refused" in messages[1]
    clock.advance(300.0)
    log.report(waiting[1], 1.0, APIConnectionError("Connection refused"), "retrieve_future", 256)
    assert len(caplog.records) == 3


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
    with pytest.raises(ConfigError, match=r"mapping of policies \(short, .*, got \{'sample':"):
        Config(retry_strategies={"sample": RetryStrategies()})
