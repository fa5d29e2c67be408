"""Promises of the server: polling one until it is kept or broken.

The table of answers is that of SERVERS rule 2; ``POST /api/v1/retrieve_future``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

from ..errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    BillingError,
    DeadlineExceeded,
    NotFoundError,
    Polled,
    PromiseExpiredError,
    RequestFailedError,
    ResultLostError,
    TinkexError,
)
from ..http.call_state import CallState
from ..http.endpoints import PROMISES
from ..http.request import Request
from ..http.retry import MOST_BAD_POLLS, Attempts, log_long_retry
from ..protocol import json_wire
from ..session import Session
from ..types import FutureRetrieveRequest, QueueState, RequestErrorCategory
from .queue_states import QueueStates

__all__ = ["Promise", "poll"]

_log = logging.getLogger(__name__)

#: Least time between a poll that was answered at once and the next.
_BREATH = 0.1
#: How long a promise may be unknown to a server that has just given it.
_UNKNOWN_FOR = 60.0
#: A 500 that says why is tried this often, these many seconds apart.
_SAID_WHY_WAITS = (3.0, 7.0)
_STATES = frozenset(state.value for state in QueueState)


@dataclass(frozen=True)
class Promise:
    """The server's word that an operation will have a result."""

    request_id: str
    #: Row of ``endpoints.PROMISES``.
    kind: str
    #: Seconds from the start of the operation until the promise was received.
    roundtrip: float = 0.0


class _Poll:
    """One promise being polled, by one thread."""

    def __init__(
        self,
        session: Session,
        promise: Promise,
        call: CallState,
        states: Optional[QueueStates],
        deadline: Optional[float],
        extend: Optional[Callable[[], float]],
    ) -> None:
        self.session = session
        self.promise = promise
        self.kind = PROMISES[promise.kind]
        self.call = call
        self.states = states
        self.deadline = deadline
        self.extend = extend
        #: Whether the response may be the size of the result only, so that not too many results are read at once.
        self.peeks = session.capabilities.metadata_only_polls
        self.body = self._body()
        #: Bytes of ``session.fetch_budget`` that are ours.
        self.reserved = 0
        self.number = 0
        #: The server has shown that it knows the promise.
        self.known = False
        #: A poll may have been answered without our receiving it.
        self.abandoned = False
        self.policy = session.attempts("poll").policy
        self.failing: Optional[Attempts] = None
        self.unknown_since: Optional[float] = None
        self.said_why = 0
        self.tries_425 = 0
        self.bad_polls = 0

    def run(self) -> Any:
        self.call.phase, self.call.sent = "polling", "yes"
        self.call.request_id = self.promise.request_id
        while True:
            began = self.session.clock.time()
            try:
                self.call.reconnects = 0
                reply = self.session.send_once(
                    Request(
                        "retrieve_future",
                        self.body,
                        headers=self._headers(),
                        call=self.call,
                        deadline=self.deadline,
                        polled=self.polled(),
                        attempt=1 if self.failing is None else self.failing.number + 1,
                    )
                )
            except DeadlineExceeded:
                later = None if self.extend is None else self.extend()
                if later is None or later <= self.session.clock.time():
                    raise
                self.deadline = later
                pause = self._tick()
            except APIStatusError as error:
                error.request_id = self.promise.request_id
                pause = self._refused(error)
            except APITimeoutError as error:
                pause = self._broken(error) if error.unsent else self._tick()
            except APIConnectionError as error:
                pause = self._broken(error)
            else:
                answer = self._decoded(reply)
                if isinstance(answer, dict) and answer.get("type") == "try_again":
                    self._answered()
                    if self.states is not None:
                        self.states.read(self.call, self._state(answer))
                    pause = 0.0
                elif self.peeks and isinstance(answer, dict) and answer.get("status") == "complete_metadata":
                    self._answered()
                    self.reserve(answer.get("response_payload_size"))
                    pause = -1.0
                else:
                    return self._result(answer)
            self.number += 1
            self.call.polls = self.number
            # A poll repeated on a new connection may have been answered on the old one.
            self.abandoned = self.abandoned or self.call.reconnects > 0
            if pause == 0.0:
                pause = _BREATH - (self.session.clock.time() - began)
            if pause > 0:
                self.session.sleep(pause, self.deadline, self.call, "polling")

    def polled(self) -> Polled:
        """What is being polled, for errors."""
        return Polled(self.promise.request_id, self.kind.name, self.number)

    def _body(self) -> bytes:
        # A 0.7 server may refuse a key it does not know.
        peeks = self.peeks if self.session.capabilities.metadata_only_polls else None
        return json_wire.encode(FutureRetrieveRequest(self.promise.request_id, peeks))

    def reserve(self, size: Any) -> None:
        """The result is there and ``size`` bytes long: wait until there is room for it."""
        self.peeks = False
        self.body = self._body()
        if isinstance(size, int) and size > 0:
            self.session.fetch_budget.acquire(size, deadline=self.deadline)
            self.reserved = size

    def release(self) -> None:
        """Give back the room that was waited for."""
        size, self.reserved = self.reserved, 0
        if size:
            self.session.fetch_budget.release(size)

    def _headers(self) -> dict[str, str]:
        headers = {
            **self.session.capabilities.wire.accept_header(self.kind.reply),
            "X-Tinker-Request-Iteration": str(self.number),
            "X-Tinker-Request-Type": self.kind.name,
        }
        if self.number == 0:
            headers["X-Tinker-Create-Promise-Roundtrip-Time"] = str(self.promise.roundtrip)
        return headers

    # What answers do; each returns the seconds to wait: 0.0 for none but a breath, below 0 for not even that.

    def _state(self, answer: Dict[str, Any]) -> Dict[str, Any]:
        """Return the response with a queue state: servers of 0.38 return reasons without one, and unknown states."""
        if not self.session.capabilities.open_queue_states or answer.get("queue_state") in _STATES:
            return answer
        told = {**answer, "queue_state": None}
        if answer.get("queue_state_reason"):
            told["queue_state"] = QueueState.UNKNOWN.value
        return told

    def _answered(self) -> None:
        self.known, self.failing, self.said_why = True, None, 0

    def _tick(self) -> float:
        self.abandoned = True
        self.failing = None
        return 0.0

    def _broken(self, error: APIConnectionError) -> float:
        self.abandoned = self.abandoned or not error.unsent
        return self._retry(error)

    def _refused(self, error: APIStatusError) -> float:
        status = error.status_code
        if status in (408, 429) and self.states is not None:
            self.states.read(self.call, error.body)
        if status == 408:
            self._answered()
            return 0.0
        if status == 410:
            raise PromiseExpiredError(
                f"promise expired/broken for request {self.promise.request_id}",
                request_id=self.promise.request_id,
            ) from error
        if status == 404:
            return self._not_found(error)
        if status == 425:
            # A checkpoint is being written; only the caller's timeout limits that.
            self.known = True
            self.tries_425 += 1
            attempts = self.session.attempts("poll")
            attempts.number = self.tries_425
            return self.policy.backoff(attempts, error)
        if isinstance(error, BillingError):
            return self.session.payment_wait.pause(error, self.call.source, self.call.call_id)
        if status == 400 and self.session.capabilities.retries_bad_polls:
            if not error.body:
                return self._retry(error, True)  # From a proxy on the way, which does not know the future.
            self.bad_polls += 1
            if self.bad_polls <= MOST_BAD_POLLS:
                return 0.0
        if status == 500 and isinstance(error.body, dict) and "detail" in error.body:
            if self.said_why >= len(_SAID_WHY_WAITS):
                raise RequestFailedError(
                    f"Request failed: {error.body['detail']} (request {self.promise.request_id})",
                    request_id=self.promise.request_id,
                    category=RequestErrorCategory.Server,
                    body=error.body,
                ) from error
            self.said_why += 1
            return _SAID_WHY_WAITS[self.said_why - 1]
        return self._retry(error)

    def _not_found(self, error: APIStatusError) -> float:
        if self.abandoned or self.call.reconnects:
            raise ResultLostError(
                f"the result of request {self.promise.request_id} was handed out to a poll that broke off,"
                " and the server no longer has it",
                request_id=self.promise.request_id,
            ) from error
        now = self.session.clock.time()
        if self.unknown_since is None:
            self.unknown_since, self.failing = now, self.session.attempts("poll")
        if self.known or now - self.unknown_since >= _UNKNOWN_FOR:
            assert isinstance(error, NotFoundError)
            raise error
        return min(self._retry(error, True), max(0.01, _UNKNOWN_FOR - (now - self.unknown_since)))

    def _retry(self, error: APIError, is_transient: bool = False) -> float:
        """Return the seconds to wait if the policy retries the error; otherwise raise it.

        Args:
            error: The error of the poll. A poll that is answered ends the series of failed polls.
            is_transient: Whether the error is retried although the policy does not know it.
        """
        attempts = self.failing = self.failing or self.session.attempts("poll")
        attempts.number += 1
        try:
            delay = self.policy.next_delay(attempts, error, is_transient)
        except APIError:
            attempts.describe(error, f"polling request {self.promise.request_id}: ")
            raise
        request = Request("retrieve_future", call=self.call)
        self.session.report_retry(request, attempts, delay, error)
        log_long_retry(attempts, delay, error, f"polling of request {self.promise.request_id}")
        return delay

    def _decoded(self, reply: Any) -> Any:
        try:
            return self.session.capabilities.wire.decode_result(
                reply.content, reply.headers.get("content-type", ""), reply.status, self.kind.reply
            )
        except APIResponseValidationError as error:
            error.__dict__["request_id"] = self.promise.request_id
            raise

    def _result(self, answer: Any) -> Any:
        if isinstance(answer, self.kind.reply):
            return answer
        if isinstance(answer, dict) and "error" in answer:
            raise RequestFailedError(
                f"Request failed: {answer['error']} (request {self.promise.request_id},"
                f" expected {self.kind.reply.__name__})",
                request_id=self.promise.request_id,
                category=RequestErrorCategory(answer.get("category")),
                body=answer,
            )
        try:
            return self.kind.reply.from_wire(answer)
        except APIResponseValidationError as error:
            error.__dict__["request_id"] = self.promise.request_id
            raise


def poll(
    session: Session,
    promise: Promise,
    call: CallState,
    *,
    states: Optional[QueueStates] = None,
    deadline: Optional[float] = None,
    extend: Optional[Callable[[], float]] = None,
    announced: Optional[int] = None,
) -> Any:
    """Poll a promise until it is kept, in the calling thread.

    Args:
        states: Where queue states and reasons are reported.
        deadline: Time of the clock at which the wait ends.
        extend: Asked at the deadline for a later one; the wait goes on if there is one.
        announced: The result is known to be there, and to have so many bytes.

    Returns:
        The decoded result, of the promise's type.

    Raises:
        RequestFailedError: the operation failed.
        PromiseExpiredError, ResultLostError: the server has lost the result.
        APIError: polling failed for good, or for 15 minutes.
        DeadlineExceeded, ClosedError: the wait ended.
    """
    running = _Poll(session, promise, call, states, deadline, extend)
    error: Optional[BaseException] = None
    call.promised = session.clock.time()
    try:
        if announced is not None:
            running.reserve(announced)
        return running.run()
    except BaseException as failure:
        error = failure
        if isinstance(error, TinkexError) and error.polled is None:
            error.polled = running.polled()
        raise
    finally:
        running.release()
        if states is not None:
            states.finish(call, succeeded=error is None)
        hook = session.observers.future_resolved
        if hook is not None:
            hook(
                source=call.source,
                call_id=call.call_id,
                operation=call.operation,
                request_id=promise.request_id,
                outcome=_outcome(error),
                elapsed=session.clock.time() - call.started,
                polls=running.number,
                error=error,
            )


def _outcome(error: Optional[BaseException]) -> str:
    if error is None:
        return "ok"
    if isinstance(error, DeadlineExceeded):
        return "timeout"
    return "error"
