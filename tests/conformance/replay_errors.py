"""Replay of the file about errors: what is raised for a server's answer, and what polling makes of a list of them."""

import pickle
import re
import threading
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
from polling_rules import outlook
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import errors, types
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.errors import APIResponseValidationError, RequestFailedError, TinkexError
from tinkex_sync.http.endpoints import ENDPOINTS, PROMISES
from tinkex_sync.http.request import Request
from tinkex_sync.plugins.hookspecs import Source
from tinkex_sync.polling.poller import Promise, poll

from .registry import no_excuse, not_understood, only, replay, same

#: Names of the official classes, where ours differ.
OURS = {"TinkerError": "TinkexError", "RetryableException": "PromiseExpiredError"}
#: What pydantic had to say on a body of the wrong form was in the cause; here it is in the text.
WRONG_FORM = "Data returned by API invalid for expected schema."
OUTCOME = ("returned", "value", "exception", "mro", "str", "message", "status_code", "body", "cause")
MORE = ("request_id", "category", "pickle", "polls", "gaps_s")
#: Endpoint by the type its promise is awaited with.
KINDS = {kind.reply.__name__: name for name, kind in PROMISES.items()}


def answer_of(spec: Dict[str, Any]) -> Answer:
    only(spec, "status", "headers", "body", "body_text", "drop_connection")
    return Answer(
        spec["status"],
        spec["body"],
        spec["body_text"],
        spec["headers"],
        drop=bool(spec.get("drop_connection", False)),
    )


@replay("errors")
def raised(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = case["input"]
    expected = only(case["expected"], *OUTCOME, *MORE)
    if "construct" in given:
        made_by_hand(only(given, "construct")["construct"], expected, row)
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
            outcome = session.call(Request(row_sent_once, parts=parts))
        except Exception as error:
            outcome = error
        finally:
            held.set()
        assert len(server.sent(path)) == 1
    if row == 8:
        # Unknown keys are ignored, and what cannot be read as the answer is an error, whatever is wrong with it.
        assert isinstance(outcome, APIResponseValidationError)
        assert outcome.status_code == given["server"]["status"]
        check_pickle(outcome)
    elif "returned" in expected:
        assert type(outcome).__name__ == expected["returned"]
    else:
        check_error(outcome, expected, row)


def _operation(call: str) -> Tuple[str, Dict[str, str], str]:
    found = re.fullmatch(r"GET /api/v1/(training_runs|sessions|samplers)/([^/?]+)", call)
    if not found:
        return not_understood(f"the call {call!r}")
    kind = {
        "training_runs": ("training_run", "run"),
        "sessions": ("session",) * 2,
        "samplers": ("sampler",) * 2,
    }
    endpoint, field = kind[found[1]]
    return endpoint, {field: found[2]}, f"{found[1]}/{found[2]}"


def check_error(error: Any, expected: Dict[str, Any], row: Optional[int]) -> None:
    """The recorded exception: class, ancestors, texts, attributes, cause, and pickle."""
    assert isinstance(error, Exception), f"expected {expected['exception']}, got {error!r}"
    names = [kind.__name__ for kind in type(error).__mro__]
    assert names[0] == OURS.get(expected["exception"], expected["exception"])
    assert [name for name in names if name in map(_ours, expected["mro"])] == list(
        map(_ours, expected["mro"])
    )
    for text in {expected["str"], expected.get("message", expected["str"])}:
        if row == 13:
            # The text goes on to say why and where.
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
    if expected.get("cause") not in (None, "ValidationError"):
        assert type(error.__cause__).__name__ == expected["cause"]
    if expected["pickle"].get("ok") or row == 13:
        check_pickle(error)
    else:
        not_understood("an error that does not survive pickle: all of ours do (row 13)")


def _ours(name: str) -> str:
    return OURS.get(name, name)


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
            outcome = poll(session, Promise(given["request_id"], endpoint, 0.5), call)
        except Exception as error:
            outcome = error
        finally:
            session.end(call)
        polls = server.sent("retrieve_future")
    assert all(request.body == {"request_id": given["request_id"]} for request in polls)
    headers = [
        {name: value for name, value in request.headers.items() if name.startswith("x-tinker-")}
        for request in polls
    ]
    gaps = [after.time - before.time for before, after in zip(polls, polls[1:])]
    if row in (None, 18):
        by_recording(outcome, headers, gaps, expected)
    else:
        by_table(outcome, headers, gaps, answers, good, given)


def _good(endpoint: str) -> Dict[str, Any]:
    if PROMISES[endpoint].reply is not types.OptimStepResponse:
        return not_understood(f"what to answer for {endpoint}")
    return {"metrics": None}


def by_recording(
    outcome: Any, headers: List[Dict[str, Any]], gaps: List[float], expected: Dict[str, Any]
) -> None:
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
    # A pause of 0.1 s after an answer that came at once is within what was measured.
    assert gaps == pytest.approx(expected["gaps_s"], abs=0.15)


def by_table(
    outcome: Any,
    headers: List[Dict[str, Any]],
    gaps: List[float],
    answers: List[Answer],
    good: Answer,
    given: Dict[str, Any],
) -> None:
    """Rows 4, 5, 6, 8 and 22: the table of SERVERS, and errors of our tree that name the request."""
    foreseen = outlook(answers, good)
    assert [header["x-tinker-request-iteration"] for header in headers] == list(map(str, foreseen.iterations))
    assert len(gaps) == len(foreseen.gaps)
    for gap, (least, most) in zip(gaps, foreseen.gaps):
        assert least - 1e-6 <= gap <= most + 1e-6
    if foreseen.error is None:
        # Whether the last answer fits its type is the type's business.
        if isinstance(outcome, APIResponseValidationError):
            with pytest.raises(APIResponseValidationError):
                PROMISES[KINDS[given["expected_type"]]].reply.from_wire(given["server"][-1]["body"])
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


# Made by hand

MAKERS: Dict[str, Callable[[Dict[str, Any]], TinkexError]] = {
    "RequestFailedError": lambda e: RequestFailedError(
        e["message"], request_id=e["request_id"], category=e["category"]
    ),
    "RetryableException": lambda e: errors.PromiseExpiredError(e["str"]),
    "APITimeoutError": lambda e: errors.APITimeoutError(),
    "APIConnectionError": lambda e: errors.APIConnectionError(),
    "APIError": lambda e: errors.APIError(e["message"], body=e["body"]),
    "APIResponseValidationError": lambda e: APIResponseValidationError(
        status_code=e["status_code"], body=e["body"]
    ),
}


def made_by_hand(name: str, expected: Dict[str, Any], row: Optional[int]) -> None:
    no_excuse(row, 6, 13)
    cls = getattr(errors, OURS.get(name, name), None)
    if name in MAKERS:
        error: Any = MAKERS[name](expected)
    elif isinstance(cls, type) and issubclass(cls, errors.APIStatusError):
        error = cls(expected["message"], status_code=expected["status_code"], body=expected["body"])
    else:
        not_understood(f"the error {name!r}")
    check_error(error, expected, row)
