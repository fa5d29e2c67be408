"""Polling of one server future until it has a result. POST /api/v1/retrieve_future.

The table in :mod:`~tinkex_sync.polling.failed_polls` contains the action after each kind of failed poll.

Most polls without a result are not failures, and each kind of failure has its own limit. The policy "poll" limits
consecutive transport failures: tenacity decides after each one whether and when to poll again
(``RetryPolicy.next_delay``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from .. import errors
from ..http.call_state import CallState
from ..http.endpoints import OPERATIONS
from ..http.request import Request
from ..http.retry import MOST_BAD_POLLS, Attempts
from ..session import Session
from ..types import FutureRetrieveRequest, RequestErrorCategory
from .failed_polls import LONG_POLL, Action, action_after
from .queue_states import QueueStates

#: Statuses of gateways that got no response from the server, or lost it.
_GATEWAY_FAILURES = (502, 504, 524)
#: Seconds between the starts of two polls at least.
_SHORTEST_INTERVAL = 0.1
#: Seconds for which a server may return 404 for a future that it has just created.
_UNKNOWN_FOR = 60.0
#: Seconds before each further poll after the server has reported that the operation failed (500 with a ``detail``).
_CONFIRMATION_DELAYS = (3.0, 7.0)


@dataclass(frozen=True)
class ServerFuture:
    """The server's future of an accepted operation."""

    request_id: str
    #: Row of ``endpoints.OPERATIONS``.
    kind: str
    #: Seconds from the start of the request until the server returned the future.
    roundtrip: float = 0.0


def poll(
    session: Session,
    server_future: ServerFuture,
    call: CallState,
    *,
    states: Optional[QueueStates] = None,
    deadline: Optional[float] = None,
    extend: Optional[Callable[[], float]] = None,
    result_size: Optional[int] = None,
) -> Any:
    """Poll a server future until it has a result, in the calling thread.

    Args:
        states: Updated with the queue states in the responses.
        deadline: Time of the session's clock at which the wait ends; None: no deadline.
        extend: Called at the deadline; returns a later deadline if the wait is to continue.
        result_size: Size of the result in bytes, if it is known that the server has it.

    Returns:
        The decoded result, of the type of the future's kind.

    Raises:
        RequestFailedError: The operation failed.
        PromiseExpiredError, ResultLostError: The server has lost the result.
        APIError: A poll failed with an error that is not retried, or polls failed for ``Config.poll_retry_for`` s.
        DeadlineExceeded, ClosedError: The wait ended.
    """
    polling = _Polling(session, server_future, call, states)
    outcome, error = "ok", None
    call.accepted_at = session.clock.time()
    try:
        if result_size is not None:
            polling.reserve(result_size, deadline)
        return polling.run(deadline, extend)
    except BaseException as failure:
        outcome, error = "timeout" if isinstance(failure, errors.DeadlineExceeded) else "error", failure
        if isinstance(failure, errors.TinkexError) and failure.polled is None:
            failure.polled = polling.polled()
        if isinstance(failure, errors.APIResponseValidationError):
            failure.__dict__["request_id"] = server_future.request_id
        raise
    finally:
        polling.release()
        if states is not None:
            states.finish(call, succeeded=error is None)
        if hook := session.observers.future_resolved:
            hook(
                **call.origin,
                operation=call.operation,
                request_id=server_future.request_id,
                outcome=outcome,
                elapsed=session.clock.time() - call.started,
                polls=polling.number,
                error=error,
            )


class _Polling:
    """The polls of one server future. Used by one thread.

    Invariant: ``_reserved`` bytes of ``session.fetch_budget`` belong to this object.
    """

    def __init__(
        self, session: Session, server_future: ServerFuture, call: CallState, states: Optional[QueueStates]
    ) -> None:
        self._session = session
        self._request_id = server_future.request_id
        self._roundtrip = server_future.roundtrip
        self._kind = OPERATIONS[server_future.kind]
        self._call = call
        self._states = states
        #: Number of polls that have ended.
        self.number = 0
        # Whether a response may contain only the size of the result. The result is then requested when the budget has
        # room for it, so that not too many results are read concurrently.
        self._allows_metadata = session.capabilities.metadata_only_polls
        self._reserved = 0
        # Whether a response has shown that the future exists on the server.
        self._is_known = False
        # Whether the server may have returned the result in a response that was lost.
        self._may_be_lost = False
        self._poll_started = 0.0
        # The failures since the last good response; None after a good response.
        self._failures: Optional[Attempts] = None
        self._unknown_since: Optional[float] = None
        # Polls that failed, for the kinds of failures with a limit or a delay of their own.
        self._confirmations = self._early_polls = self._bad_requests = 0

    def run(self, deadline: Optional[float], extend: Optional[Callable[[], float]]) -> Any:
        """Poll until there is a result or a final error; arguments as :func:`poll`."""
        session, call = self._session, self._call
        call.phase, call.sent, call.request_id = "polling", "yes", self._request_id
        while True:
            self._poll_started = session.clock.time()
            call.reconnects = 0
            try:
                response = session.send_once(self._request(deadline))
                body = session.capabilities.wire.decode_result(
                    response.content, response.headers.get("content-type", ""), response.status, self._kind.result_type
                )
            except errors.DeadlineExceeded:
                later = None if extend is None else extend()
                if later is None or later <= session.clock.time():
                    raise
                deadline = later
                delay = self._after_timeout()
            except (errors.APIStatusError, errors.APIResponseValidationError) as error:
                delay = self._after_failed_poll(error)
            except errors.APIConnectionError as error:
                delay = self._after_connection_failure(error)
            else:
                progress = self._after_response(body, deadline)
                if progress is None:
                    return self._result(body)
                delay = progress
            self.number += 1
            call.polls = self.number
            # The server may have sent the result on the connection that was reset.
            self._may_be_lost = self._may_be_lost or call.reconnects > 0
            if delay > 0:
                session.sleep(delay, deadline, call, "polling")

    # Requests

    def polled(self) -> errors.Polled:
        """Return what is being polled, for errors."""
        return errors.Polled(self._request_id, self._kind.request_type, self.number)

    def _request(self, deadline: Optional[float]) -> Request:
        capabilities = self._session.capabilities
        # Servers of protocol 0.7 may reject unknown keys.
        allows_metadata = self._allows_metadata if capabilities.metadata_only_polls else None
        body = FutureRetrieveRequest(self._request_id, allows_metadata)
        headers = {
            **capabilities.wire.accept_header(self._kind.result_type),
            "X-Tinker-Request-Iteration": str(self.number),
            "X-Tinker-Request-Type": self._kind.request_type,
        }
        if self.number == 0:
            headers["X-Tinker-Create-Promise-Roundtrip-Time"] = str(self._roundtrip)
        return Request(
            "retrieve_future",
            body,
            headers=headers,
            call=self._call,
            deadline=deadline,
            polled=self.polled(),
            attempt=1 if self._failures is None else self._failures.number + 1,
        )

    def reserve(self, size: Any, deadline: Optional[float]) -> None:
        """Wait until the budget has room for a result of ``size`` bytes; request the result from now on."""
        self._allows_metadata = False
        if isinstance(size, int) and size > 0:
            self._session.fetch_budget.acquire(size, deadline=deadline)
            self._reserved = size

    def release(self) -> None:
        """Return the reserved bytes to the budget. Called once, after the last poll."""
        self._session.fetch_budget.release(self._reserved)

    # Responses. The methods return the seconds until the next poll.

    def _after_response(self, body: Any, deadline: Optional[float]) -> Optional[float]:
        """Return None if the body is the result, or the operation's error."""
        if not isinstance(body, dict):
            return None
        if body.get("type") == "try_again":
            self._note_progress()
            if self._states is not None:
                are_open = self._session.capabilities.open_queue_states
                self._states.read(self._call, body, are_open=are_open)
            return self._rest_of_interval()
        if self._allows_metadata and body.get("status") == "complete_metadata":
            self._note_progress()
            self.reserve(body.get("response_payload_size"), deadline)
            return 0.0
        return None

    def _result(self, body: Any) -> Any:
        if isinstance(body, self._kind.result_type):
            return body
        if isinstance(body, dict) and "error" in body:
            raise errors.RequestFailedError(
                f"Request failed: {body['error']}"
                f" (request {self._request_id}, expected {self._kind.result_type.__name__})",
                request_id=self._request_id,
                category=RequestErrorCategory(body.get("category")),
                body=body,
            )
        return self._kind.result_type.from_wire(body)

    def _note_progress(self) -> None:
        self._is_known, self._failures, self._confirmations = True, None, 0

    def _lasted(self) -> float:
        """Return the seconds since the last poll was sent."""
        return self._session.clock.time() - self._poll_started

    def _rest_of_interval(self) -> float:
        return _SHORTEST_INTERVAL - self._lasted()

    # Failures. The methods return the seconds until the next poll, or raise.

    def _after_connection_failure(self, error: errors.APIConnectionError) -> float:
        if not error.unsent and (isinstance(error, errors.APITimeoutError) or self._lasted() >= LONG_POLL):
            return self._after_timeout()
        self._may_be_lost = self._may_be_lost or not error.unsent
        return self._back_off(error)

    def _after_timeout(self) -> float:
        """Return the delay after a poll without a response: the operation is most likely in progress."""
        self._may_be_lost, self._failures = True, None
        return self._rest_of_interval()

    def _after_failed_poll(self, error: Union[errors.APIStatusError, errors.APIResponseValidationError]) -> float:
        error.__dict__["request_id"] = self._request_id
        if error.status_code in (408, 429) and self._states is not None:
            self._states.read(self._call, error.body)
        retries_bad_requests = self._session.capabilities.retries_bad_polls
        action = action_after(error, lasted=self._lasted(), retries_bad_requests=retries_bad_requests)
        if action is Action.AWAIT_GATEWAY or error.status_code in _GATEWAY_FAILURES:
            self._may_be_lost = True  # The server's response may have ended there.
        if action is Action.POLL_ABANDONED:
            return self._after_timeout()
        if action is Action.POLL_AGAIN:
            self._note_progress()
            return self._rest_of_interval()
        if action in (Action.BACK_OFF, Action.AWAIT_GATEWAY):
            return self._back_off(error, is_transient=action is Action.AWAIT_GATEWAY)
        if action is Action.RETRY_BAD_REQUEST and self._bad_requests < MOST_BAD_POLLS:
            self._bad_requests += 1
            return self._rest_of_interval()
        if action is Action.AWAIT_PAYMENT and isinstance(error, errors.BillingError):
            return self._session.payment_wait.pause(error, self._call.source, self._call.call_id)
        if isinstance(error, errors.APIStatusError) and action is Action.AWAIT_FUTURE:
            return self._await_future(error)
        if action is Action.AWAIT_CHECKPOINT:
            self._is_known = True
            self._early_polls += 1
            attempts = self._session.attempts("poll")
            attempts.number = self._early_polls
            return attempts.policy.wait(attempts.failure_state(error))
        if isinstance(error, errors.APIStatusError) and action is Action.CONFIRM_FAILURE:
            return self._confirm_failure(error)
        if action is Action.RAISE_EXPIRED:
            message = f"promise expired/broken for request {self._request_id}"
            raise errors.PromiseExpiredError(message, request_id=self._request_id) from error
        raise error

    def _back_off(self, error: errors.APIError, is_transient: bool = False) -> float:
        """Return the delay of the retry policy.

        Args:
            is_transient: Whether a retry may succeed although the policy does not retry this error.
        """
        failures = self._failures = self._failures or self._session.attempts("poll")
        failures.start()
        try:
            delay = failures.policy.next_delay(failures, error, is_transient)
        except errors.APIError as final:
            failures.describe(final, f"polling request {self._request_id}: ")
            raise
        self._session.report_retry(Request("retrieve_future", call=self._call), failures, delay, error)
        return max(delay, 0.01)

    def _await_future(self, error: errors.APIStatusError) -> float:
        if self._may_be_lost or self._call.reconnects:
            raise errors.ResultLostError(
                f"the result of request {self._request_id} was sent in a response that was lost, and the"
                " server no longer has it",
                request_id=self._request_id,
            ) from error
        now = self._session.clock.time()
        if self._unknown_since is None:
            self._unknown_since, self._failures = now, self._session.attempts("poll")
        left = _UNKNOWN_FOR - (now - self._unknown_since)
        if self._is_known or left <= 0:
            raise error
        return min(self._back_off(error, is_transient=True), max(0.01, left))

    def _confirm_failure(self, error: errors.APIStatusError) -> float:
        if self._confirmations >= len(_CONFIRMATION_DELAYS):
            raise errors.RequestFailedError(
                f"Request failed: {error.body['detail']} (request {self._request_id})",
                request_id=self._request_id,
                category=RequestErrorCategory.Server,
                body=error.body,
            ) from error
        self._confirmations += 1
        return _CONFIRMATION_DELAYS[self._confirmations - 1]
