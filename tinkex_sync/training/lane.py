"""The lane of a model: one daemon thread that dispatches its operations in the order of submission.

The lane only sends. The results are polled in worker threads and arrive in any order.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from typing import Any, Generic, Optional, TypeVar

from ..concurrency.workers import Lane
from ..errors import (
    APIError,
    APIStatusError,
    ClosedError,
    OutcomeUnknownError,
    PromiseExpiredError,
    RequestFailedError,
    ResultLostError,
)
from ..futures import Future, fail_at_deadline, resolve_in_worker, wait_until
from ..http.call_state import CallState
from ..plugins.events import Source
from ..polling.poller import poll
from ..polling.queue_states import QueueStates
from ..session import Session
from .sequence_numbers import NumberedRequest, SequenceNumbers, expects_lower_number

__all__ = ["LaneOperation", "TrainingLane"]

T = TypeVar("T")

#: How often an operation is sent again under the number that its server expects.
_MOST_RESENDS = 5


class TrainingLane:
    """Dispatches the operations of one model and fetches their results. Thread-safe.

    Invariants: at most one thread dispatches, and it dispatches in the order of submission. Operations that are
    submitted together are dispatched next to each other.

    Args:
        first_seq_id: The sequence number of the first request.
    """

    def __init__(self, session: Session, model_id: str, *, first_seq_id: int = 1) -> None:
        self.session = session
        self.model_id = model_id
        self.source = Source("training", model_id, session.session_id)
        self.numbers = SequenceNumbers(session, first_seq_id)
        self._queue_states = QueueStates(session.observers, session.clock)
        self._worker = Lane(f"lane-{model_id}")
        # Weak, because the session outlives the clients of its models.
        worker = weakref.ref(self._worker)

        def close() -> None:
            alive = worker()
            if alive is not None:
                alive.close()

        session.on_close(close)

    def enqueue(self, *operations: LaneOperation[Any]) -> None:
        """Queue operations next to each other. Never blocks. Their futures fail if the lane is closed."""
        if self._worker.submit(*(operation.dispatch for operation in operations)):
            return
        for operation in operations:
            self.session.end(operation.future.call)
            operation.future.set_exception(ClosedError("the client is closed"))

    def fetch_result(self, request: NumberedRequest, call: CallState) -> Any:
        """Wait for the result of an accepted request and return it.

        If the server reports only now that it expects another number, the request is sent again under that number.

        Raises:
            OutcomeUnknownError: An attempt is in doubt, and the server has counted the number before.
            TinkexError: As :func:`~tinkex_sync.polling.poller.poll`.
        """
        outcomes = self.numbers.outcomes
        has_failed = True
        try:
            result = self._result_after_conflicts(request, call)
            has_failed = False
            if request.number != request.position:
                outcomes.skip_failed()
            return result
        except (OutcomeUnknownError, ClosedError, PromiseExpiredError, ResultLostError):
            has_failed = False
            raise
        finally:
            outcomes.record_outcome(request.position, failed=has_failed)

    def _result_after_conflicts(self, request: NumberedRequest, call: CallState) -> Any:
        outcomes = self.numbers.outcomes
        for resends in range(_MOST_RESENDS + 1):
            try:
                return self._result(request, call)
            except (APIStatusError, RequestFailedError) as error:
                is_lower = expects_lower_number(error, request.number)
                if is_lower is False and request.in_doubt:
                    raise request.unknown_outcome(error) from error
                if not is_lower:
                    raise
                call.phase = "retrying"
                has_waited = outcomes.wait_for_earlier(request.position)
                number = outcomes.number_without_failed(request.position)
                if resends == _MOST_RESENDS or (number == request.number and not has_waited):
                    raise
            request.assign(number)
            request.send()
        raise AssertionError("the last resend returns or raises")

    def _result(self, request: NumberedRequest, call: CallState) -> Any:
        """Poll an accepted request; if the server has lost the result, send the same request once more."""
        try:
            return poll(self.session, request.server_future, call, states=self._queue_states)
        except PromiseExpiredError as error:
            expired = error
        try:
            request.send()
        except APIError as error:
            raise PromiseExpiredError(
                f"{call.operation} (number {request.number}) was accepted, but the server has lost its result and"
                f" rejects the request when it is sent again ({error}); its changes to the model remain",
                request_id=expired.request_id,
            ) from error
        try:
            return poll(self.session, request.server_future, call, states=self._queue_states)
        except PromiseExpiredError as error:
            raise PromiseExpiredError(
                f"{call.operation} (number {request.number}) was accepted, but the server has lost its result twice;"
                " its changes to the model remain",
                request_id=request.server_future.request_id,
            ) from error


class LaneOperation(ABC, Generic[T]):
    """An operation that its model's lane dispatches; see :class:`~tinkex_sync.futures.Operation`.

    Args:
        name: The operation's name for observers, errors and ``ServiceClient.status()``.
        items: Number of datums, for observers.
    """

    #: Set by :meth:`begin`.
    future: Future[T]

    def __init__(self, lane: TrainingLane, name: str, items: int = 1) -> None:
        self.lane = lane
        self.session = lane.session
        self.name = name
        self._items = items

    def run(self, timeout: Optional[float] = None) -> T:
        """Submit the operation and wait for its result.

        An interrupt or a timeout ends the wait. An operation that was already sent continues.

        Args:
            timeout: Seconds to wait; None: ``Config.timeout``.
        """
        # First, so that a wrong timeout is rejected before anything is sent.
        deadline = self.session.deadline(timeout)
        return wait_until(self.session, self.submit(), deadline)

    def submit(self, timeout: Optional[float] = None) -> Future[T]:
        """Queue the operation and return its future.

        Args:
            timeout: Seconds until the future fails with DeadlineExceeded; None: no limit.
        """
        deadline = None if timeout is None else self.session.deadline(timeout)
        self.begin()
        fail_at_deadline(self.session, self.future, deadline)
        self.lane.enqueue(self)
        return self.future

    def begin(self) -> None:
        """Start the call and make its future. Called once, before the operation is queued."""
        self.future = Future(self.session.begin(self.lane.source, self.name, self._items))

    @abstractmethod
    def dispatch(self) -> None:
        """Send the operation. Called once, in the lane's thread. Raises nothing; errors fail the future."""

    def resolve(self, result: Optional[T] = None, error: Optional[BaseException] = None) -> None:
        """End the call and resolve the future, in a worker."""
        resolve_in_worker(self.session, self.future, result, error)
