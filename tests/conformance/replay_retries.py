"""Replays of retries: inside one call, around one send, and around a whole sample."""

import json
import math
import re
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
import requests
from retry_runs import POLICIES, run
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import RetryConfig, SamplingClient, types
from tinkex_sync.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    PromiseExpiredError,
    RequestFailedError,
    TinkexError,
    status_error,
)
from tinkex_sync.http.request import Request
from tinkex_sync.http.retry import Attempts, retry_after

from .registry import RENAMED_ERRORS, error_class, no_excuse, not_understood, only, replay

RUN = {
    "training_run_id": "run-1",
    "base_model": "b",
    "model_owner": "o",
    "is_lora": False,
    "last_request_time": "2025-01-01T00:00:00Z",
}

#: Exceptions of the recorded transport. Its timeouts correspond to our APITimeoutError, and its other errors to
#: exceptions of requests.
HTTPX_TIMEOUTS = ("TimeoutException", "ReadTimeout", "ConnectTimeout", "WriteTimeout", "PoolTimeout")
HTTPX_OTHERS = {
    "ConnectError": requests.ConnectionError,
    "ReadError": requests.ConnectionError,
    "WriteError": requests.ConnectionError,
    "RemoteProtocolError": requests.ConnectionError,
    "NetworkError": requests.ConnectionError,
    "InvalidURL": requests.exceptions.InvalidURL,
}


_OTHER_ERRORS: Dict[str, Callable[[], BaseException]] = {
    "timeout_error": TimeoutError,
    "APIConnectionError": APIConnectionError,
    "APITimeoutError": APITimeoutError,
    "APIResponseValidationError": APIResponseValidationError,
    "RetryableException": lambda: PromiseExpiredError("gone"),
    "BadRequestError": lambda: a_status(400),
    "AuthenticationError": lambda: a_status(401),
    "PermissionDeniedError": lambda: a_status(403),
    "NotFoundError": lambda: a_status(404),
    "ConflictError": lambda: a_status(409),
    "UnprocessableEntityError": lambda: a_status(422),
    "RateLimitError": lambda: a_status(429),
    "InternalServerError": lambda: a_status(500),
    # Exceptions whose constructor takes more than a text.
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
    "JSONDecodeError": lambda: json.JSONDecodeError("x", "x", 0),
}


def a_status(status: int) -> APIStatusError:
    return status_error(status, body={})


def make_error(name: str) -> BaseException:
    """Return an exception by its recorded name: "status_503", "APIStatusError 503", "httpx_ReadTimeout", "OSError"."""
    found = re.fullmatch(r"(?:status_|APIStatusError )(\d{3})", name)
    if found:
        return a_status(int(found[1]))
    found = re.fullmatch(r"response_validation_error(?:_status_(\d{3}))?", name)
    if found:
        return APIResponseValidationError(status_code=int(found[1] or 200))
    found = re.fullmatch(r"RequestFailedError(?:_(\w+))?", name)
    if found:
        return RequestFailedError("m", request_id="r", category=found[1] or "unknown")
    found = re.fullmatch(r"httpx[._](\w+)", name)
    if found and found[1] in HTTPX_TIMEOUTS:
        return APITimeoutError()
    if found and found[1] in HTTPX_OTHERS:
        return HTTPX_OTHERS[found[1]]("x")
    if name in _OTHER_ERRORS:
        return _OTHER_ERRORS[name]()
    # A built-in exception, an official class with a text alone, or a class of ours.
    return error_class(name)("x")


# Inside one call


def shape_answer(spec: Dict[str, Any], row: Optional[int]) -> Answer:
    only(spec, "status", "headers", "drop_connection")
    # A 409 is final only if its body has a detail.
    body = {"detail": "x"} if row == 23 else {}
    return Answer(spec["status"], body, headers=spec["headers"], drop=bool(spec.get("drop_connection", False)))


def expected_by_row_22_or_23(
    server: List[Dict[str, Any]], waits: List[float], attempts: int
) -> Tuple[List[float], int, Optional[int]]:
    """Return waits, number of requests and final status (None for success) by rows 22 and 23.

    After a drop of a connection that was used before, the request is sent again immediately. A drop of a new
    connection counts as a failure. 409 (with a detail) and 501 are final after three attempts.
    """
    made: List[float] = []
    requests_sent = attempt = 0
    served = False
    answers = iter(server)
    while True:
        attempt += 1
        answer = next(answers, None)
        requests_sent += 1
        if answer is not None and answer.get("drop_connection") and served:
            answer = next(answers, None)
            requests_sent += 1
            served = False
        if answer is None:
            return made, requests_sent, None
        dropped = bool(answer.get("drop_connection"))
        served = not dropped
        status = answer["status"]
        should_retry = answer["headers"].get("x-should-retry")
        limit = min(attempts, 3) if status in (409, 501) and should_retry not in ("true", "false") else attempts
        if not dropped and status < 300:
            return made, requests_sent, None
        if attempt >= limit and not dropped:
            return made, requests_sent, status
        retry_after_s = retry_after({name.lower(): value for name, value in answer["headers"].items()})
        made.append(retry_after_s if retry_after_s is not None and not dropped else waits[attempt - 1])


@replay("http_retries")
def inside_one_call(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "method", "max_retries", "random", "server")
    ends = ("exception", "status_code", "returned")
    expected = only(case["expected"], *ends, "attempts", "sleeps_s", "retry_count_headers", "idempotency_key")
    no_excuse(row, 18, 22, 23)
    names = {"GET": ("training_run", {"run": "run-1"}), "POST": ("publish_checkpoint", None)}
    if given["method"] not in names:
        not_understood(f"method {given['method']!r}")
    clock = SteppedClock()
    name = names[given["method"]][0]
    parts = {"run": "run-1", "checkpoint_path": "weights/c"}
    path = {"GET": "training_runs/run-1", "POST": "training_runs/run-1/checkpoints/weights/c/publish"}
    with bare_session(clock, max_retries=given["max_retries"]) as (server, session):
        server.defaults[path[given["method"]]] = Answer(body=RUN)
        server.script(path[given["method"]], *(shape_answer(spec, row) for spec in given["server"]))
        attempts = session.attempts("short")
        attempts.random = lambda: given["random"]
        error: Optional[BaseException] = None
        try:
            session.call(Request(name, path_values=parts), attempts)
        except TinkexError as caught:
            error = caught
        arrived = server.sent(path[given["method"]])
    if row in (22, 23):
        waits = [min(0.5 * 2.0**n, 10.0) * (1 - 0.25 * given["random"]) for n in range(given["max_retries"] + 1)]
        sleeps, count, status = expected_by_row_22_or_23(given["server"], waits, given["max_retries"] + 1)
        if (sleeps, count) == (expected["sleeps_s"], expected["attempts"]):
            not_understood(f"row {row} for a case it does not change")
        assert clock.waits == pytest.approx(sleeps)
        assert len(arrived) == count
        assert getattr(error, "status_code", None) == status
    else:
        assert clock.waits == pytest.approx(expected["sleeps_s"])
        assert len(arrived) == expected["attempts"] == len(expected["retry_count_headers"])
        if "exception" in expected:
            assert type(error).__name__ == expected["exception"]
            assert isinstance(error, APIConnectionError) or error.status_code == expected["status_code"]  # type: ignore[union-attr]
            assert error.attempts == expected["attempts"]  # type: ignore[union-attr]
        else:
            assert error is None, repr(error)
    keys = {str(request.headers.get("x-idempotency-key")) for request in arrived}
    if expected["idempotency_key"] == "absent":
        assert keys == {"None"}
    elif expected["idempotency_key"] == "same_on_every_attempt":
        assert len(keys) == 1 and keys != {"None"}
    else:
        not_understood(f"idempotency key {expected['idempotency_key']!r}")


# Around a send

_TIMES = {"once": 1, "twice": 2, "thrice": 3}


def failure_in_name(name: str) -> Tuple[str, float]:
    """Return the failure that the name of a case describes, and how often it happens."""
    found = re.fullmatch(r"(.+)_(once|twice|thrice|(\d+)_times)", name)
    if found:
        return found[1], float(found[3] or _TIMES.get(found[2], 0))
    found = re.fullmatch(r"always_(.+?)(?:_instant|_each_takes_[\d.]+s)", name)
    if found:
        what = found[1]
        return (f"status_{what}" if what.isdigit() else what), math.inf
    return not_understood(f"the name {name!r}")


@replay("execute_with_retries")
def around_a_send(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    takes = only(case["input"], "seconds_per_attempt")["seconds_per_attempt"]
    expected = only(case["expected"], "attempts", "sleeps_s", "total_s", "result")
    no_excuse(row, 21, 23)
    what, times = failure_in_name(case["name"])
    clock = SteppedClock()
    attempts = Attempts(POLICIES["submit"], clock)
    started = clock.time()
    thrown: List[BaseException] = []

    def send(made: Attempts) -> str:
        cut_at = made.ends_at()
        assert cut_at is not None
        left = cut_at - clock.time()
        clock.advance(min(takes, left))
        if takes > left:
            raise APITimeoutError
        if made.number > times:
            return "ok"
        thrown.append(status_error(409, body={"detail": "x"}) if final_409 else make_error(what))
        raise thrown[-1]

    def sleep(seconds: float) -> None:
        clock.wait(threading.Event(), seconds)

    final_409 = row == 23 and what == "status_409"
    result: Any
    try:
        result = run(attempts, send, sleep)
    except Exception as error:
        result = error
    total = clock.time() - started
    if row == 21:
        check_row_21(takes, times, attempts, clock.waits, total, result)
        return
    if row == 23:
        if what not in ("status_409", "status_501") or times < 3:
            not_understood(f"row 23 for {case['name']}")
        assert (attempts.number, clock.waits) == (3, [1.0, 2.0])
        assert isinstance(result, APIStatusError)
        return
    assert attempts.number == expected["attempts"]
    assert clock.waits == pytest.approx(expected["sleeps_s"])
    assert total == pytest.approx(expected["total_s"])
    if expected["result"] == "ok":
        assert result == "ok"
    else:
        name = only(expected["result"], "exception")["exception"]
        assert result is thrown[-1]
        assert RENAMED_ERRORS.get(name, name) in names_of(result) or name in HTTPX_OTHERS or name in HTTPX_TIMEOUTS


def names_of(error: BaseException) -> List[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def check_row_21(takes: float, times: float, attempts: Attempts, waits: List[float], total: float, result: Any) -> None:
    """Row 21: assert that retries end after five minutes, and that the last attempt is interrupted then."""
    assert total <= 300.0 + 5.0
    assert result == "ok" or isinstance(result, (APIStatusError, APIConnectionError, TimeoutError))
    assert waits == pytest.approx([min(2.0**n, 30.0) for n in range(len(waits))])
    needed = takes * attempts.number + sum(waits)
    if result == "ok":
        assert attempts.number == times + 1 and total == pytest.approx(needed)
        return
    # No further attempt would have ended in time, or the last one was interrupted.
    assert total == pytest.approx(needed) and 300.0 - total < min(takes, 30.0) or needed > total


# Around a whole sample

_STANDS_FOR = {
    "TimeoutError": TimeoutError,
    "APIConnectionError": APIConnectionError,
    "TimeoutException": APITimeoutError,
    "RetryableException": PromiseExpiredError,
}
CONFIG_KEYS = (
    "max_connections",
    "progress_timeout",
    "retry_delay_base",
    "retry_delay_max",
    "jitter_factor",
    "enable_retry_logic",
)


@replay("retry_handler")
def around_a_sample(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "config", "random", "attempts", "exception", *CONFIG_KEYS)
    expected = only(
        case["expected"],
        *CONFIG_KEYS,
        "delays_s",
        "retry",
        "retryable_exceptions",
        "raised",
        "exception",
        "message",
        "after_s",
    )
    no_excuse(row)
    if "delays_s" in expected:
        config = RetryConfig(**only(given["config"], *CONFIG_KEYS))
        delays = [config.resubmit_delay(n, lambda: given["random"]) for n in given["attempts"]]
        assert delays == pytest.approx(expected["delays_s"])
    elif "retry" in expected:
        assert RetryConfig().is_retryable(make_error(given["exception"])) is expected["retry"]
    elif "raised" in expected:
        with pytest.raises(Exception) as caught:
            RetryConfig(**only(given, *CONFIG_KEYS))
        assert f"{type(caught.value).__name__}: {caught.value}" == expected["raised"]
    elif "after_s" in expected:
        check_stuck(RetryConfig(**only(given, *CONFIG_KEYS)), expected)
    elif not given:
        config = RetryConfig()
        for key in only(expected, *CONFIG_KEYS, "retryable_exceptions"):
            if key != "retryable_exceptions":
                assert getattr(config, key) == expected[key]
        for name in expected["retryable_exceptions"]:
            if name not in _STANDS_FOR:
                not_understood(f"the exception {name}")
            assert issubclass(_STANDS_FOR[name], config.retryable_exceptions)
    else:
        not_understood(f"a case of {sorted(given)}")


def check_stuck(config: RetryConfig, expected: Dict[str, Any]) -> None:
    """Assert that a sample fails if the server responds "try_again" forever."""
    clock = SteppedClock()
    with bare_session(clock) as (server, session):
        server.defaults["asample"] = Answer(body={"request_id": "r"})
        server.defaults["retrieve_future"] = Answer(body={"type": "try_again", "request_id": "r"})
        client = SamplingClient(session, "s:sample:0", retry_config=config)
        started = clock.time()
        with pytest.raises(TinkexError) as caught:
            client.sample(types.ModelInput.from_ints([1]), 1, types.SamplingParams())
    assert type(caught.value).__name__ == expected["exception"]
    assert str(caught.value) == expected["message"]
    assert clock.time() - started == pytest.approx(expected["after_s"], abs=0.11)
