"""Sequence numbers of one model's training operations, and the outcomes of those operations.

These rules follow from the behaviour observed in SkyRL, TuFT and Hatchery:

- Numbers are consecutive. A request gets its number when it is dispatched and keeps it through all retries of the same
  body.
- If the server rejects a request and no earlier attempt is in doubt, the next request uses the same number.
- An attempt is in doubt if it may have reached the server although its response was lost. If a request with such an
  attempt fails, the next request uses the following number. If the server then returns a conflict (409), the next
  request is sent once more under the doubtful number.
- Some servers compare numbers when they execute an operation, not when they accept it. They report the conflict in the
  result, and a failed operation does not use up its number. See :class:`OperationOutcomes`.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import Callable, Iterator, List, Optional, Set

from .. import errors
from ..concurrency.primitives import Event, Lock
from ..http.call_state import CallState
from ..http.request import Request, new_idempotency_key
from ..polling.poller import ServerFuture
from ..protocol.wire import Body
from ..session import Session

_NUMBERS = re.compile(r"\bexpected\D{0,20}(\d+)\D{1,20}(\d+)")
#: After these errors it is unknown whether an accepted operation has failed.
_UNKNOWN_OUTCOMES = (errors.OutcomeUnknownError, errors.ClosedError, errors.PromiseExpiredError, errors.ResultLostError)


class NumberedRequest:
    """One request of a training operation. Its number and its idempotency key are the same in every attempt.

    Used by one thread at a time.

    Args:
        endpoint: Row of the endpoint table that names the result; the body may be sent to another endpoint.
        encode: Returns the body for a number, in the encoding that the server currently accepts.
        call: The call that the request belongs to.
    """

    def __init__(self, session: Session, endpoint: str, encode: Callable[[int], Body], call: CallState) -> None:
        self._session = session
        self._encode = encode
        self.endpoint = endpoint
        self.call = call
        #: The place of the request among all requests of its model, from 1; see :class:`OperationOutcomes`.
        self.position = 0
        self.assign(0)
        #: Size of the last body that was sent.
        self.body_bytes = 0
        self._started = session.clock.time()
        #: The server future, once the request was accepted.
        self.server_future = ServerFuture("", endpoint)

    def assign(self, number: int) -> None:
        """Set the number. The request was not sent, or the server has not counted it under its former number."""
        #: The ``seq_id`` that is sent.
        self.number = number
        self._key = new_idempotency_key()
        #: Whether an attempt may have reached the server although its response was lost.
        self.in_doubt = False

    def send(self) -> None:
        """Send the request, retries included, and keep the server future.

        Raises:
            APIStatusError, APIConnectionError, ClosedError: It failed; see :meth:`assigned`.
        """
        session = self._session
        while True:
            body = self._encode(self.number)
            self.body_bytes = len(body.content)
            request = Request(
                body.endpoint, body.content, headers=body.headers, call=self.call, idempotency_key=self._key
            )
            attempts = session.attempts("submit")
            try:
                response = session.call(request, attempts)
                break
            except errors.APIStatusError as error:
                if not session.negotiation.switch(error, body):
                    raise
            finally:
                self.in_doubt = self.in_doubt or attempts.in_doubt
            # The server rejected the encoding without reading the body, so the number is unused. The key identifies
            # the body, so the other encoding needs another key.
            self.assign(self.number)
        self.server_future = ServerFuture(response.request_id, self.endpoint, session.clock.time() - self._started)

    @contextmanager
    def assigned(self, position: int, number: int) -> Iterator[None]:
        """Assign a position and a number. The ``with`` block sends the request for the first time under this number.

        Raises:
            OutcomeUnknownError: The request failed, and an attempt is in doubt.
            APIStatusError, APIConnectionError, ClosedError: It failed; for the first two, it was not accepted.
        """
        self.position = position
        self.assign(number)
        try:
            yield
        except (errors.APIError, errors.ClosedError) as error:
            # A response with status 2xx and without a request id is a validation error: it may have been accepted.
            self.in_doubt = self.in_doubt or (
                isinstance(error, errors.APIResponseValidationError)
                or (isinstance(error, errors.APIConnectionError) and not error.unsent)
            )
            if not self.in_doubt or isinstance(error, errors.ClosedError):
                raise
            raise self.unknown_outcome(error) from error

    def unknown_outcome(self, error: Exception) -> errors.OutcomeUnknownError:
        """Return the error for a request whose response was lost and that then failed with ``error``."""
        return errors.OutcomeUnknownError(
            f"{self.endpoint} (number {self.number}) may or may not have been applied: a response was lost, and then:"
            f" {error}. Check the model before repeating it.",
            seq_id=self.number,
        )


class SequenceNumbers:
    """Assigns the numbers of one model's requests. Used by the thread of the model's lane only.

    Invariant: every position below ``_next`` was accepted or may have been accepted. The latter are in ``_doubtful``,
    in ascending order, and the last of them is ``_next - 1``.

    Args:
        first: The first number.
    """

    def __init__(self, session: Session, first: int = 1) -> None:
        self._next = first
        self._doubtful: List[int] = []
        self.outcomes = OperationOutcomes(session)

    def dispatch(self, request: NumberedRequest) -> None:
        """Send the next request, retries included, and wait until the server has accepted it.

        Raises:
            OutcomeUnknownError: A response was lost, and it is unknown whether the operation was applied.
            APIStatusError, APIConnectionError, ClosedError: The operation was not applied.
        """
        # If a doubtful request did not arrive, the server still expects its number.
        positions = [self._next, *self._doubtful]
        for position in positions:
            try:
                with request.assigned(position, self.outcomes.number_at(position)):
                    request.send()
            except errors.ConflictError:
                if position == positions[-1]:
                    raise
            except (errors.APIError, errors.ClosedError, errors.OutcomeUnknownError):
                if request.in_doubt and position not in self._doubtful:
                    self._next = position + 1
                    self._doubtful.append(position)
                raise
            else:
                self._next, self._doubtful = position + 1, []
                self.outcomes.record_accepted(position)
                return

    @property
    def are_certain(self) -> bool:
        """Whether no position is doubtful. A doubtful number can only be resolved by one request at a time."""
        return not self._doubtful

    def reserve(self, count: int) -> int:
        """Reserve positions for requests that are sent in parallel, and return the first. Requires ``are_certain``."""
        first = self._next
        self._next += count
        return first

    def release_last(self, position: int) -> None:
        """Make the last reserved position available again, because the server rejected its request."""
        self._next = position

    def send_reserved(self, position: int, request: NumberedRequest) -> None:
        """Send a request at a reserved position. Any thread may call this.

        Raises:
            Exception: As :meth:`dispatch`. After an OutcomeUnknownError the position counts as used.
        """
        with request.assigned(position, self.outcomes.number_at(position)):
            request.send()


class OperationOutcomes:
    """The outcomes of a model's operations, by position, and the numbers that follow from them.

    Positions are dense: they count the requests of the model in the order of dispatch. A number is what is sent to the
    server. Both are equal until a server has shown that an operation that failed uses up no number. From then on, a
    number is its position minus the number of failures before it.

    Invariants: ``_open`` contains the positions that were accepted and have no outcome; ``_failed`` contains those of
    operations that failed. Thread-safe.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = Lock()
        self._open: Set[int] = set()  # guarded by _lock
        self._failed: Set[int] = set()  # guarded by _lock
        #: Whether the server has shown that a failed operation uses up no number. Never reset; read without the lock.
        self.skips_failed = False
        # Set and replaced when an outcome becomes known.
        self._change = Event()  # guarded by _lock

    def number_at(self, position: int) -> int:
        """Return the number to send for a position, as far as is known now."""
        return self.number_without_failed(position) if self.skips_failed else position

    def number_without_failed(self, position: int) -> int:
        """Return the number for a position on a server where failed operations use up no number."""
        with self._lock:
            return position - sum(failed < position for failed in self._failed)

    def record_accepted(self, position: int) -> None:
        """Record that the server has accepted the request at a position."""
        with self._lock:
            self._open.add(position)

    def record_outcome(self, position: int, *, failed: bool = False) -> None:
        """Record that the outcome of an operation is known, or that it stays unknown."""
        with self._lock:
            self._open.discard(position)
            if failed:
                self._failed.add(position)
            change, self._change = self._change, Event()
        change.set()

    @contextmanager
    def recording(self, position: int) -> Iterator[None]:
        """Record the outcome of an accepted operation, whose result the ``with`` block fetches."""
        has_failed = False
        try:
            yield
        except BaseException as error:
            has_failed = not isinstance(error, _UNKNOWN_OUTCOMES)
            raise
        finally:
            self.record_outcome(position, failed=has_failed)

    def wait_for_earlier(self, position: int) -> bool:
        """Wait until the outcome of every operation before a position is known.

        Returns:
            Whether an outcome was unknown when this was called.

        Raises:
            ClosedError: The client was closed.
        """
        has_waited = False
        while True:
            with self._lock:
                if not any(earlier < position for earlier in self._open):
                    return has_waited
                change = self._change
            has_waited = True
            self._session.wait(change)


def expects_lower_number(error: Exception, number: int) -> Optional[bool]:
    """Return whether the error of an operation shows that the server expects a lower number than ``number``.

    Returns:
        None: The error is no conflict of numbers. True: The server expects a lower number, so it has not counted the
        operation. False: It is a conflict, and the server expects a higher number or names none, so it has counted
        the operation before.
    """
    found = _NUMBERS.search(str(error))
    if found is not None and int(found.group(2)) == number:
        return int(found.group(1)) < number
    return False if isinstance(error, errors.ConflictError) else None
