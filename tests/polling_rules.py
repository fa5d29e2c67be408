"""The polls and the outcome that a list of responses leads to, by rule 2 of SERVERS; for replays and poller tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple, Type

from scripted_server import Answer

from tinkex_sync.errors import (
    APIResponseValidationError,
    PromiseExpiredError,
    RequestFailedError,
    ResultLostError,
    status_error,
)
from tinkex_sync.http.retry import retry_after

_FINAL = (400, 401, 403, 422, 501)
_WAITS = (408, 429)
#: Statuses of gateways, if the body is not JSON; and those after which the server's response may be lost.
_GATEWAYS = (*range(300, 400), 400, 401, 403, 407, 421, 499)
_LOSSES = (502, 504, 524)


@dataclass
class ExpectedPolls:
    """The expected polls of one server future."""

    #: Type of the error; None: there is a result.
    error: Optional[Type[BaseException]]
    status: Optional[int]
    #: Least and most seconds before each poll except the first.
    gaps: List[Tuple[float, float]]
    #: ``X-Tinker-Request-Iteration`` of each poll.
    iterations: List[int]


def expected_polls(answers: List[Answer], result: Answer) -> ExpectedPolls:
    """Return the polls that follow from a list of responses and then ``result``, on a new connection."""
    gaps: List[Tuple[float, float]] = []
    iterations: List[int] = []
    number = failures = confirmations = early = 0
    known = abandoned = served = False
    queue = [*answers, result]

    def end(error: Optional[Type[BaseException]], status: Optional[int] = None) -> ExpectedPolls:
        return ExpectedPolls(error, status, gaps, iterations)

    while True:
        answer = queue.pop(0)
        iterations.append(number)
        if answer.drop and served:
            # Sent again immediately on a new connection. The response may have been sent on the old one.
            abandoned = True
            answer = queue.pop(0)
            iterations.append(number)
            gaps.append((0.0, 0.0))
        served = not answer.drop
        number += 1
        status, body = answer.status, _decoded(answer)
        has_detail = isinstance(body, dict) and "detail" in body
        if answer.drop:
            abandoned = True
            failures += 1
            gaps.append(_backed_off(failures, None))
        elif status in _GATEWAYS and not isinstance(body, dict) or (status == 200 and _is_page(body)):
            abandoned = True
            failures += 1
            gaps.append(_backed_off(failures, answer))
        elif 200 <= status < 300:
            if not isinstance(body, dict):
                return end(APIResponseValidationError)
            if body.get("type") == "try_again":
                known, failures, confirmations = True, 0, 0
                gaps.append((0.1, 0.1))
            else:
                return end(RequestFailedError if "error" in body else None)
        elif status == 408:
            known, failures, confirmations = True, 0, 0
            gaps.append((0.1, 0.1))
        elif status == 410:
            return end(PromiseExpiredError)
        elif status == 404 and not known:
            if abandoned:
                return end(ResultLostError)
            failures += 1
            gaps.append(_backed_off(failures, answer))
        elif status == 404:
            return end(ResultLostError if abandoned else type(status_error(404, body={})), 404)
        elif status == 425:
            known = True
            early += 1
            gaps.append(_backed_off(early, None))
        elif status == 500 and has_detail:
            confirmations += 1
            if confirmations == 3:
                return end(RequestFailedError)
            gaps.append(((3.0, 3.0), (7.0, 7.0))[confirmations - 1])
        elif status in _FINAL or (status == 409 and has_detail) or (status < 500 and status not in (409, 429)):
            return end(type(status_error(status, body={})), status)
        else:
            abandoned = abandoned or status in _LOSSES
            failures += 1
            gaps.append(_backed_off(failures, answer))


def _is_page(body: Any) -> bool:
    return isinstance(body, str) and (not body or body.startswith("<"))


def _backed_off(failures: int, answer: Optional[Answer]) -> Tuple[float, float]:
    if answer is not None:
        requested = retry_after({name.lower(): value for name, value in answer.headers.items()})
        if requested is not None:
            return requested, requested
    most = min(0.5 * 2.0 ** (failures - 1), 30.0)
    return 0.75 * most, most


def _decoded(answer: Answer) -> Any:
    import json

    try:
        decoded: Dict[str, Any] = json.loads(answer.content())
    except ValueError:
        return answer.text
    return decoded
