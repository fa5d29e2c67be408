"""Polling of one server future: every row of the table, on a clock whose waits pass immediately."""

import logging
import threading

import pytest
import tenacity
from polling_rules import expected_polls
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import errors
from tinkex_sync.concurrency.clock import Clock, ScaledClock
from tinkex_sync.config import RetryStrategies
from tinkex_sync.plugins.events import Source
from tinkex_sync.polling.poller import ServerFuture, poll

RESULT = Answer(body={"metrics": {"a": 1.0}})
DETAIL = {"detail": "why"}
SOURCE = Source("training", "model-1", "sess-1")


def polled(answers, default=RESULT, clock=None, seconds=None, **settings):
    """Return outcome, requests and clock of polling one server future with these responses."""
    clock = clock or SteppedClock()
    with bare_session(clock, **settings) as (server, session):
        server.script("retrieve_future", *answers)
        server.defaults["retrieve_future"] = default
        call = session.begin(SOURCE, "optim_step")
        deadline = None if seconds is None else clock.time() + seconds
        try:
            outcome = poll(session, ServerFuture("rf-1", "optim_step", 0.5), call, deadline=deadline)
        except errors.TinkexError as error:
            outcome = error
        finally:
            session.end(call)
        return outcome, server.sent("retrieve_future"), clock


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [Answer(body={"type": "try_again", "request_id": "rf-1", "queue_state": "active"})] * 3,
        [Answer(408, {"queue_state": "paused_capacity"}), Answer(408, text="<html>"), Answer(408, text="")],
        [Answer(404, DETAIL)] * 4,
        [Answer(425, DETAIL)] * 6,
        [Answer(500, DETAIL)] * 2,
        [Answer(500, text="boom"), Answer(502), Answer(503), Answer(599)],
        [Answer(503, headers={"Retry-After": "12"}), Answer(429, headers={"retry-after-ms": "250"})],
        [Answer(503, headers={"Retry-After": "61"})],
        [
            Answer(400, text="<html>"),
            Answer(401, text=""),
            Answer(403, text="<html>"),
            Answer(302, text=""),
            Answer(499, text=""),
        ],
        [Answer(text="<html>"), Answer(407, text=""), Answer(421, text="<p>")],
        [Answer(409, text=""), Answer(409, {}), Answer(429, DETAIL)],
        [Answer(drop=True)] * 3,
        [Answer(408, {}), Answer(drop=True)],
        [Answer(503), Answer(503), Answer(408, {}), Answer(503)],
    ],
    ids=lambda answers: "-".join("drop" if a.drop else str(a.status) for a in answers) or "none",
)
def test_polling_continues_after_these_responses_until_there_is_a_result(answers):
    outcome, requests, _ = polled(answers)
    assert outcome.metrics == {"a": 1.0}
    expected = expected_polls(answers, RESULT)
    assert [int(r.headers["x-tinker-request-iteration"]) for r in requests] == expected.iterations
    gaps = [after.time - before.time for before, after in zip(requests, requests[1:])]
    assert len(gaps) == len(expected.gaps)
    for gap, (least, most) in zip(gaps, expected.gaps):
        assert least - 1e-6 <= gap <= most + 1e-6


@pytest.mark.parametrize(
    ("answers", "kind", "status"),
    [
        ([Answer(400, DETAIL)], errors.BadRequestError, 400),
        ([Answer(401, DETAIL)], errors.AuthenticationError, 401),
        ([Answer(403, DETAIL)], errors.PermissionDeniedError, 403),
        ([Answer(422, DETAIL)], errors.UnprocessableEntityError, 422),
        ([Answer(501, DETAIL)], errors.InternalServerError, 501),
        ([Answer(409, DETAIL)], errors.ConflictError, 409),
        ([Answer(418, {})], errors.APIStatusError, 418),
        ([Answer(408, {}), Answer(404, {})], errors.NotFoundError, 404),
        ([Answer(drop=True), Answer(404, {})], errors.ResultLostError, None),
        ([Answer(408, {}), Answer(504, text="<html>"), Answer(404, {})], errors.ResultLostError, None),
        ([Answer(502, text="<html>"), Answer(404, {})], errors.ResultLostError, None),
        ([Answer(408, {}), Answer(drop=True), Answer(404, {})], errors.ResultLostError, None),
        ([Answer(503), Answer(410, {})], errors.PromiseExpiredError, None),
        ([Answer(500, DETAIL)] * 3, errors.RequestFailedError, None),
        ([Answer(body={"error": "boom", "category": "user"})], errors.RequestFailedError, None),
        ([Answer(body={"type": "request_failed", "error": None})], errors.RequestFailedError, None),
        ([Answer(body=None)], errors.APIResponseValidationError, None),
        ([Answer(text="{oops")], errors.APIResponseValidationError, None),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_these_responses_end_polling_with_an_error(answers, kind, status):
    error, requests, _ = polled(answers)
    assert type(error) is kind
    assert error.request_id == "rf-1"
    assert getattr(error, "status_code", None) == status or status is None
    # The last response was final: no poll was sent after it.
    assert len(requests) == len(answers)


def test_a_future_that_the_server_does_not_know_for_a_minute_is_an_error():
    error, requests, clock = polled([], default=Answer(404, DETAIL))
    assert type(error) is errors.NotFoundError
    assert requests[-1].time - requests[0].time == pytest.approx(60.0)


def test_polling_gives_up_after_15_minutes_without_one_good_response():
    error, requests, clock = polled([], default=Answer(503, text="no"))
    assert type(error) is errors.InternalServerError
    # The last wait is cut to what is left, but not below a hundredth of a second.
    assert sum(clock.waits) == pytest.approx(900.0, abs=0.011)
    assert error.attempts == len(requests)
    assert error.elapsed == pytest.approx(900.0)
    assert "rf-1" in str(error) and str(error.attempts) in str(error)


def test_one_good_response_restarts_the_15_minutes():
    bad = Answer(503, text="no", headers={"Retry-After": "50"})
    outcome, _, clock = polled(([bad] * 17 + [Answer(408, {})]) * 3)
    assert outcome.metrics == {"a": 1.0}
    assert sum(clock.waits) > 3 * 17 * 50.0


def test_polling_waits_until_the_deadline_for_a_checkpoint_that_is_being_written():
    error, requests, clock = polled([], default=Answer(425, DETAIL), seconds=5000.0)
    assert isinstance(error, errors.DeadlineExceeded)
    assert (error.phase, error.sent, error.request_id) == ("polling", "yes", "rf-1")
    assert sum(clock.waits) == pytest.approx(5000.0)


def test_a_poll_without_a_response_is_no_failure():
    free = threading.Event()
    try:
        held = Answer(408, {}, hold=free.wait)
        outcome, requests, _ = polled([held, held], clock=Clock(), poll_timeout=0.15)
    finally:
        free.set()
    assert outcome.metrics == {"a": 1.0}
    gaps = [after.time - before.time for before, after in zip(requests, requests[1:])]
    assert [int(r.headers["x-tinker-request-iteration"]) for r in requests] == [0, 1, 2]
    # A failed attempt would wait at least 0.375 s, and 0.75 s the second time.
    assert all(0.1 < gap < 0.45 for gap in gaps)


def test_only_the_first_poll_contains_the_roundtrip_time():
    _, requests, _ = polled([Answer(408, {})])
    name = "x-tinker-create-promise-roundtrip-time"
    assert [request.headers.get(name) for request in requests] == ["0.5", None]


def test_the_users_retry_strategies_apply_to_failed_polls():
    strategies = RetryStrategies(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(7))
    error, requests, clock = polled([], default=Answer(503, text="no"), retry_strategies={"poll": strategies})
    assert type(error) is errors.InternalServerError
    assert (len(requests), clock.waits) == (2, [7.0])


def test_a_retry_after_of_a_failed_poll_is_honoured():
    _, _, clock = polled([Answer(503, headers={"Retry-After": "12"})])
    assert clock.waits == [12.0]


@pytest.mark.parametrize("cut", [{"status": 504, "text": "<html>"}, {"status": 524}, {"drop": True}])
def test_a_poll_that_a_gateway_cuts_after_a_second_is_neither_a_failure_nor_logged(caplog, cut):
    clock = ScaledClock(50.0)
    released = threading.Event()
    cuts = [Answer(**cut, hold=lambda: released.wait(0.06)) for _ in range(6)]  # 3 s of the client's clock each
    outcome, requests, _ = polled(cuts, clock=clock, poll_retry_for=4.0)
    assert outcome.metrics == {"a": 1.0}
    assert len(requests) == 7
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
