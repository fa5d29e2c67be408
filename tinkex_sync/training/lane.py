"""The lane of a model: one daemon thread that dispatches its operations in the order of submission.

The lane only sends. The results are polled in worker threads and arrive in any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Generic, List, Optional, TypeVar

from ..errors import APIError, APIStatusError, ClosedError, PromiseExpiredError, RequestFailedError
from ..futures import Future, fail_at_deadline, wait_until
from ..plugins.events import Source
from ..polling.poller import poll
from ..polling.queue_states import QueueStates
from ..session import Session
from .sequence_numbers import NumberedRequest, SequenceNumbers, expects_lower_number

T = TypeVar("T")

#: An operation is sent again under the number that its server expects at most this often.
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
        #: Optimizer steps dispatched. Used by the lane's thread only.
        self.optimizer_steps = 0
        self._queue_states = QueueStates(session.observers, session.clock)
        self._worker = session.make_lane(f"lane-{model_id}")

    def enqueue(self, timeout: Optional[float], *operations: LaneOperation[Any]) -> None:
        """Start the calls of operations, make their futures, and queue the operations next to each other.

        Never blocks.

        Args:
            timeout: Seconds until the futures fail with DeadlineExceeded; None: no limit.

        Raises:
            ValueError: ``timeout`` is not a positive number.
            ClosedError: The client is closed.
            ThreadStartError: No thread can be started. Nothing is queued.
        """
        deadline = None if timeout is None else self.session.deadline(timeout)
        begun: List[Future[Any]] = []
        try:
            for operation in operations:
                call = self.session.begin(self.source, operation.name, operation.items)
                operation.future = Future(self.session, call)
                begun.append(operation.future)
                fail_at_deadline(self.session, operation.future, deadline)
            is_queued = self._worker.submit(*(operation.start for operation in operations))
        except BaseException:
            for future in begun:
                future.abandon()
            raise
        if not is_queued:
            for operation in operations:
                operation.future.set_exception(ClosedError("the client is closed"))

    def fetch_result(self, request: NumberedRequest) -> Any:
        """Wait for the result of an accepted request and return it.

        If the server reports only now that it expects another number, the request is sent again under that number.

        Raises:
            OutcomeUnknownError: An attempt is in doubt, and the server has counted the number before.
            TinkexError: As :func:`~tinkex_sync.polling.poller.poll`.
        """
        outcomes = self.numbers.outcomes
        with outcomes.recording(request.position):
            resends = 0
            while True:
                try:
                    result = self._result(request)
                except (APIStatusError, RequestFailedError) as error:
                    is_lower = expects_lower_number(error, request.number)
                    if is_lower is False and request.in_doubt:
                        raise request.unknown_outcome(error) from error
                    if not is_lower or resends == _MOST_RESENDS:
                        raise
                    request.call.phase = "retrying"
                    has_waited = outcomes.wait_for_earlier(request.position)
                    number = outcomes.number_without_failed(request.position)
                    if number == request.number and not has_waited:
                        raise
                else:
                    if request.number != request.position:
                        outcomes.skips_failed = True
                    return result
                resends += 1
                request.assign(number)
                request.send()

    def _result(self, request: NumberedRequest) -> Any:
        """Poll an accepted request; if the server has lost the result, send the same request once more."""
        with suppress(PromiseExpiredError):
            return poll(self.session, request.server_future, request.call, states=self._queue_states)
        try:
            request.send()
        except APIError as error:
            loss = f"has lost its result and rejects the request when it is sent again ({error})"
            raise _expired(request, loss) from error
        try:
            return poll(self.session, request.server_future, request.call, states=self._queue_states)
        except PromiseExpiredError as error:
            raise _expired(request, "has lost its result twice") from error


def _expired(request: NumberedRequest, loss: str) -> PromiseExpiredError:
    return PromiseExpiredError(
        f"{request.call.operation} (number {request.number}) was accepted, but the server {loss};"
        " its changes to the model remain",
        request_id=request.server_future.request_id,
    )


class LaneOperation(ABC, Generic[T]):
    """An operation that its model's lane dispatches; see :class:`~tinkex_sync.futures.Operation`.

    Args:
        name: The operation's name for observers, errors and ``ServiceClient.status()``.
        items: Number of datums, for observers.
    """

    #: Made by :meth:`TrainingLane.enqueue`.
    future: Future[T]

    def __init__(self, lane: TrainingLane, name: str, items: int = 1) -> None:
        self.lane = lane
        self.session = lane.session
        self.name = name
        self.items = items

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
        self.lane.enqueue(timeout, self)
        return self.future

    def start(self) -> None:
        """Send the operation unless it was withdrawn. Called once, in the lane's thread; errors fail the future."""
        if not self.future.begin():
            return
        call = self.future.call
        call.more_to_send = True
        try:
            self.dispatch()
        except BaseException as error:
            self.future.fail_in_worker(self.as_failure(error))
        finally:
            call.more_to_send = False
            self.session.sends_changed.set()

    @abstractmethod
    def dispatch(self) -> None:
        """Send all requests of the operation, and start to fetch their results."""

    def as_failure(self, error: BaseException) -> BaseException:
        """Return the error of the operation if :meth:`dispatch` has failed with ``error``."""
        return error
