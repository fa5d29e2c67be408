"""Numbers of training operations: dense, in order, and honest about what may have been applied.

Rule 4 of SERVERS: a number is taken at dispatch and kept through all retries of the same body. An operation that is
refused for good without doubt gives its number to the next. Where an earlier attempt may have arrived, the next
operation takes the following number, and falls back once if the server says that leaves a gap.
"""

from __future__ import annotations

import uuid
from typing import Callable, List, Optional

from ..errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    ClosedError,
    ConflictError,
    OutcomeUnknownError,
)
from ..http.call_state import CallState
from ..http.request import Request
from ..polling.poller import Promise
from ..protocol.json_wire import Body
from ..session import Session
from .late_conflicts import Verdicts

__all__ = ["Sent", "Sequence", "new_key", "unknown"]

#: Writes an operation under its number, on the wire the server takes now.
Encode = Callable[[int], Body]


def new_key() -> str:
    """An idempotency key: one per body and number, the same through all retries."""
    return f"tinkex-sync-{uuid.uuid4()}"


class Sent:
    """An accepted operation: its promise, and how to send the very same once more."""

    def __init__(
        self, session: Session, endpoint: str, encode: Encode, number: int, key: str, call: CallState
    ) -> None:
        self._session = session
        self.endpoint = endpoint
        self._encode = encode
        self._key = key
        self._call = call
        self.number = number
        #: Of the operation among the model's; see :mod:`verdicts`.
        self.place = number
        #: An earlier attempt may have been taken too.
        self.in_doubt = False
        self.body_bytes = 0
        self.began = session.clock.time()
        self.promise = Promise("", endpoint)

    def send(self, attempts_made: Optional[Callable[[bool], None]] = None) -> None:
        """POST it under its number; fills in the promise. ``attempts_made`` is told whether any attempt is in doubt."""
        session = self._session
        while True:
            body = self._encode(self.number)
            self.body_bytes = len(body.content)
            attempts = session.attempts("submit")
            try:
                answer = session.call(
                    Request(
                        body.endpoint,
                        body.content,
                        headers=body.headers,
                        call=self._call,
                        idempotency_key=self._key,
                    ),
                    attempts,
                )
                break
            except APIStatusError as error:
                if body.wire is None or not session.protocol.switch(
                    error, body.wire, self.endpoint == "forward"
                ):
                    raise
                # The number is still free, since the body was not even read; the key belongs to that body.
                self._key = new_key()
            finally:
                self.in_doubt = self.in_doubt or attempts.in_doubt
                if attempts_made is not None:
                    attempts_made(attempts.in_doubt)
        self.promise = Promise(answer.request_id, self.endpoint, session.clock.time() - self.began)

    def send_as(self, number: int) -> None:
        """POST it again under another number, after the server said it had not counted this one."""
        self.number, self._key, self.in_doubt = number, new_key(), False
        self.send()


class Sequence:
    """The numbers of one model. Used by the thread of the model's lane only.

    Invariant: every number below ``_next`` was accepted, or may have been; the latter are in ``_doubtful``,
    ascending, and end at ``_next - 1``. Numbers are places here; ``verdicts`` knows what goes over the wire for them.
    """

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self._doubtful: List[int] = []
        self.verdicts = Verdicts()

    def dispatch(self, session: Session, endpoint: str, encode: Encode, call: CallState) -> Sent:
        """Send the next operation and wait for its promise, retries included.

        Raises:
            OutcomeUnknownError: a reply was lost and it cannot be found out whether the operation was applied.
            APIStatusError, APIConnectionError, ClosedError: it was not applied.
        """
        try:
            return self._dispatch(session, endpoint, encode, call, self._next)
        except ConflictError as error:
            conflict = error
        for number in list(self._doubtful):
            # If it did not arrive, this server sees a gap before ours, and wants its number first.
            try:
                return self._dispatch(session, endpoint, encode, call, number)
            except ConflictError as error:
                conflict = error
        raise conflict

    @property
    def certain(self) -> bool:
        """Whether every number below the next is known to have been accepted."""
        return not self._doubtful

    def reserve(self, count: int) -> int:
        """Take ``count`` numbers at once, for requests sent side by side; returns the first. See ``certain``."""
        first = self._next
        self._next += count
        return first

    def give_back(self, number: int) -> None:
        """The last number taken was not used."""
        assert number == self._next - 1, f"{number} is not the last number, {self._next - 1}"
        self._next = number

    @staticmethod
    def transmit(sent: Sent) -> Sent:
        """Send a request whose number was reserved. Any thread.

        Raises:
            OutcomeUnknownError: as :meth:`dispatch`; the number counts as used.
            APIStatusError, APIConnectionError, ClosedError: it was not applied.
        """
        doubt = [False]

        def note(in_doubt: bool) -> None:
            doubt[0] = in_doubt

        try:
            sent.send(note)
        except (APIError, ClosedError) as error:
            if isinstance(error, ClosedError) or not (doubt[0] or _accepted_unreadably(error)):
                raise
            raise unknown(sent, error) from error
        return sent

    def _dispatch(
        self, session: Session, endpoint: str, encode: Encode, call: CallState, number: int
    ) -> Sent:
        sent = Sent(session, endpoint, encode, self.verdicts.number(number), new_key(), call)
        sent.place = number
        doubt = [False]

        def note(in_doubt: bool) -> None:
            doubt[0] = in_doubt

        try:
            sent.send(note)
        except (APIError, ClosedError) as error:
            if not (doubt[0] or _accepted_unreadably(error)):
                raise
            if number not in self._doubtful:
                self._next = number + 1
                self._doubtful.append(number)
            if isinstance(error, ClosedError):
                raise
            raise unknown(sent, error) from error
        self._next, self._doubtful = number + 1, []
        self.verdicts.accepted(number)
        return sent


def unknown(sent: Sent, error: Exception) -> OutcomeUnknownError:
    """The error for an operation whose reply was lost, and of which ``error`` says no more."""
    return OutcomeUnknownError(
        f"{sent.endpoint} (number {sent.number}) may or may not have been applied: a reply was lost, and then:"
        f" {error}. Check the model before repeating it.",
        seq_id=sent.number,
    )


def _accepted_unreadably(error: Exception) -> bool:
    """A 2xx without a promise in it, or no answer: the server may have begun."""
    if isinstance(error, APIResponseValidationError):
        return True
    return (
        isinstance(error, APIConnectionError) and not error.unsent and not isinstance(error, APIStatusError)
    )
