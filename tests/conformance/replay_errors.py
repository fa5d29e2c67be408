"""Replay of errors: the exception for one response, and the result of polling a list of responses."""

import pickle
import re
import threading
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
import requests as python_requests
from polling_rules import expected_polls
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import errors
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.errors import APIResponseValidationError, RequestFailedError, TinkexError
from tinkex_sync.http.endpoints import ENDPOINTS, OPERATIONS
from tinkex_sync.http.request import Request
from tinkex_sync.plugins.events import Source
from tinkex_sync.polling.poller import ServerFuture, poll

from .registry import RENAMED_ERRORS, error_class, no_excuse, not_understood, only, replay, same
from .replay_retries import HTTPX_OTHERS, HTTPX_TIMEOUTS

#: The recorded error for a body of the wrong form has the details in its cause. Our error has them in its text.
WRONG_FORM = "Data returned by API invalid for expected schema."
OUTCOME = ("returned", "value", "exception", "mro", "str", "message", "status_code", "body", "cause")
MORE = ("request_id", "category", "pickle", "polls", "gaps_s")
#: Endpoint by the type of its result.
KINDS = {kind.result_type.__name__: name for name, kind in OPERATIONS.items() if name != "forward"}
KINDS["SaveWeightsForSamplerResponse"] = "save_weights_for_sampler"


def answer_of(spec: Dict[str, Any]) -> Answer:
    only(spec, "status", "headers", "body", "body_text", "drop_connection")
    return Answer(
        spec["status"], spec["body"], spec["body_text"], spec["headers"], drop=bool(spec.get("drop_connection", False))
    )


@replay("errors")
def raised(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = case["input"]
    expected = only(case["expected"], *OUTCOME, *MORE)
    if "construct" in given:
        constructed(only(given, "construct")["construct"], expected, row)
    elif given.get("call") == "retrieve_future":
        polled(only(given, "call", "request_id", "expected_type", "server"), expected, row)
    else:
        direct(case["name"], only(given, "call", "max_retries", "server", "strict"), expected, row)


# One request, retries off


def direct(name: str, given: Dict[str, Any], expected: Dict[str, Any], row: Optional[int]) -> None:
    no_excuse(row, 6, 8, 13)
    endpoint, parts, path = _operation(given["call"])
    if given["max_retries"] != 0:
        not_understood(f"max_retries {given['max_retries']}")
    if not given["strict"] and row != 8:
        not_understood("an answer that is not validated: ours always are (row 8)")
    timed_out = "read_timeout" in name
    held = threading.Event()
    answer = answer_of(given["server"])
    if timed_out:
        answer.hold = held.wait
    with bare_session(Clock(), read_timeout=0.2 if timed_out else 20.0) as (server, session):
        server.script(path, answer)
        outcome: Any
        try:
            row_sent_once = replace(ENDPOINTS[endpoint], policy=None)
            outcome = session.call(Request(row_sent_once, path_values=parts))
        except Exception as error:
            outcome = error
        finally:
            held.set()
        assert len(server.sent(path)) == 1
    if row == 8:
        # Unknown keys are ignored, and every body that cannot be decoded raises the same error.
        assert isinstance(outcome, APIResponseValidationError)
        assert outcome.status_code == given["server"]["status"]
        check_pickle(outcome)
    elif "returned" in expected:
        assert type(outcome).__name__ == expected["returned"]
    else:
        check_error(outcome, expected, row)


def _operation(call: str) -> Tuple[str, Dict[str, str], str]:
    """Return the endpoint, the parts of its path, and the path, of a call such as "GET /api/v1/sessions/s"."""
    method, _, path = call.partition(" /api/v1/")
    for endpoint in ENDPOINTS.values():
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/?]+)", endpoint.path)
        found = re.fullmatch(pattern, path)
        if endpoint.method == method and found:
            return endpoint.name, found.groupdict(), path
    return not_understood(f"the call {call!r}")


def check_error(error: Any, expected: Dict[str, Any], row: Optional[int]) -> None:
    """Assert the class, base classes, texts, attributes, cause and pickling of an exception."""
    assert isinstance(error, Exception), f"expected {expected['exception']}, got {error!r}"
    names = [kind.__name__ for kind in type(error).__mro__]
    assert names[0] == _ours(expected["exception"])
    assert [name for name in names if name in map(_ours, expected["mro"])] == list(map(_ours, expected["mro"]))
    for text in {expected["str"], expected.get("message", expected["str"])}:
        if row == 13:
            # Our text adds the reason and the address.
            assert str(error).startswith(text)
        elif text == WRONG_FORM:
            assert type(error) is APIResponseValidationError and str(error)
        else:
            assert str(error) == text == getattr(error, "message", text)
    for name in ("status_code", "request_id", "category"):
        if name in expected:
            assert getattr(error, name) == expected[name]
    if "body" in expected:
        assert same(error.body, expected["body"])  # type: ignore[attr-defined]
    check_cause(error, expected.get("cause"))
    if expected["pickle"].get("ok") or row == 13:
        check_pickle(error)
    else:
        not_understood("an error that does not survive pickle: all of ours do (row 13)")


def check_cause(error: BaseException, name: Optional[str]) -> None:
    """Assert that the cause is the recorded exception, or the exception that replaces it here.

    A built-in exception that reports an unreadable body may be missing: its text is part of the error then.
    """
    cause = error.__cause__
    if name in (None, "ValidationError") or (cause is None and isinstance(error, APIResponseValidationError)):
        return
    if name in HTTPX_TIMEOUTS:
        assert isinstance(cause, python_requests.Timeout), repr(cause)
    elif name in HTTPX_OTHERS:
        assert isinstance(cause, HTTPX_OTHERS[name]), repr(cause)
    else:
        # The transport reports every lost connection with one class, which is an OSError.
        kind = error_class(str(name))
        assert isinstance(cause, OSError if issubclass(kind, OSError) else kind), repr(cause)


def _ours(name: str) -> str:
    return RENAMED_ERRORS.get(name, name)


def check_pickle(error: Any) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.args, again.__dict__) == (str(error), error.args, error.__dict__)


# Polling


def polled(given: Dict[str, Any], expected: Dict[str, Any], row: Optional[int]) -> None:
    no_excuse(row, 4, 5, 6, 8, 18, 22)
    if given["expected_type"] not in KINDS:
        not_understood(f"the type {given['expected_type']}")
    endpoint = KINDS[given["expected_type"]]
    answers = [answer_of(spec) for spec in given["server"]]
    clock = SteppedClock()
    with bare_session(clock) as (server, session):
        server.script("retrieve_future", *answers)
        good = server.defaults["retrieve_future"] = Answer(body=_good(endpoint))
        call = session.begin(Source("training", "model-1", "s"), endpoint)
        outcome: Any
        try:
            outcome = poll(session, ServerFuture(given["request_id"], endpoint, 0.5), call)
        except Exception as error:
            outcome = error
        finally:
            session.end(call)
        polls = server.sent("retrieve_future")
    assert all(request.body == {"request_id": given["request_id"]} for request in polls)
    headers = [
        {name: value for name, value in request.headers.items() if name.startswith("x-tinker-")} for request in polls
    ]
    gaps = [after.time - before.time for before, after in zip(polls, polls[1:])]
    if row in (None, 18):
        check_recording(outcome, headers, gaps, expected)
    else:
        check_table(outcome, headers, gaps, answers, good, given)


#: A valid result of each operation.
RESULTS: Dict[str, Dict[str, Any]] = {
    "create_model": {"type": "create_model", "model_id": "m"},
    "unload_model": {"type": "unload_model", "model_id": "m"},
    "forward_backward": {"loss_fn_output_type": "x", "loss_fn_outputs": [], "metrics": {}},
    "optim_step": {"metrics": None},
    "save_weights": {"type": "save_weights", "path": "tinker://r/weights/w"},
    "load_weights": {"type": "load_weights"},
    "save_weights_for_sampler": {"type": "save_weights_for_sampler", "path": "tinker://r/sampler_weights/w"},
    "asample": {"type": "sample", "sequences": []},
}


def _good(endpoint: str) -> Dict[str, Any]:
    return RESULTS[endpoint] if endpoint in RESULTS else not_understood(f"a result of {endpoint}")


def check_recording(outcome: Any, headers: List[Dict[str, Any]], gaps: List[float], expected: Dict[str, Any]) -> None:
    if "returned" in expected:
        assert type(outcome).__name__ == expected["returned"], repr(outcome)
        assert same(outcome.to_wire(), {k: v for k, v in expected["value"].items() if v is not None})
    else:
        check_error(outcome, expected, None)
    assert len(headers) == len(expected["polls"])
    for ours, theirs in zip(headers, expected["polls"]):
        recorded = {name: value for name, value in theirs.items() if name.startswith("x-tinker-")}
        assert sorted(ours) == sorted(recorded)
        assert {n: v for n, v in ours.items() if recorded[n] != "<any>"} == {
            n: v for n, v in recorded.items() if v != "<any>"
        }
        assert float(ours.get("x-tinker-create-promise-roundtrip-time", 0.5)) == 0.5
    # Our pause of 0.1 s after an immediate response is within the tolerance.
    assert gaps == pytest.approx(expected["gaps_s"], abs=0.15)


def check_table(
    outcome: Any,
    headers: List[Dict[str, Any]],
    gaps: List[float],
    answers: List[Answer],
    good: Answer,
    given: Dict[str, Any],
) -> None:
    """Rows 4, 5, 6, 8 and 22: assert the polling table of SERVERS.md, and our errors with the request id."""
    foreseen = expected_polls(answers, good)
    assert [header["x-tinker-request-iteration"] for header in headers] == list(map(str, foreseen.iterations))
    assert len(gaps) == len(foreseen.gaps)
    for gap, (least, most) in zip(gaps, foreseen.gaps):
        assert least - 1e-6 <= gap <= most + 1e-6
    if foreseen.error is None:
        # The type decides whether the last body is valid.
        if isinstance(outcome, APIResponseValidationError):
            with pytest.raises(APIResponseValidationError):
                OPERATIONS[KINDS[given["expected_type"]]].result_type.from_wire(given["server"][-1]["body"])
        else:
            assert type(outcome).__name__ == given["expected_type"]
            return
    else:
        assert type(outcome) is foreseen.error
    assert isinstance(outcome, TinkexError)
    assert outcome.request_id == given["request_id"]  # type: ignore[attr-defined]
    if foreseen.status is not None:
        assert outcome.status_code == foreseen.status  # type: ignore[attr-defined]
    if isinstance(outcome, RequestFailedError):
        body = given["server"][-1]["body"]
        if "error" in body:
            category = body.get("category")
            assert str(outcome).startswith(f"Request failed: {body['error']} ")
            assert outcome.category == (category if category in ("user", "server", "unknown") else "unknown")
            assert outcome.message == str(outcome)
    check_pickle(outcome)


# Constructed errors

MAKERS: Dict[str, Callable[[Dict[str, Any]], TinkexError]] = {
    "RequestFailedError": lambda e: RequestFailedError(
        e["message"], request_id=e["request_id"], category=e["category"]
    ),
    "TinkerError": lambda e: TinkexError(e["str"]),
    "RetryableException": lambda e: errors.PromiseExpiredError(e["str"]),
    "APITimeoutError": lambda e: errors.APITimeoutError(),
    "APIConnectionError": lambda e: errors.APIConnectionError(),
    "APIError": lambda e: errors.APIError(e["message"], body=e["body"]),
    "APIResponseValidationError": lambda e: APIResponseValidationError(status_code=e["status_code"], body=e["body"]),
}


def constructed(name: str, expected: Dict[str, Any], row: Optional[int]) -> None:
    no_excuse(row, 6, 13)
    cls = error_class(name)
    if name in MAKERS:
        error: Any = MAKERS[name](expected)
    elif issubclass(cls, errors.APIStatusError):
        error = cls(expected["message"], status_code=expected["status_code"], body=expected["body"])
    else:
        not_understood(f"the error {name!r}")
    check_error(error, expected, row)
