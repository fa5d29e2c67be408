"""The state of calls that have not ended, for errors, ``ServiceClient.status()`` and closing."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, Callable, Dict, Optional

from ..errors import ClosedError, DeadlineExceeded, WithdrawnError
from ..plugins.events import Source

_CONSEQUENCES = {
    "no": "nothing was sent",
    "unknown": "it may have reached the server",
    "yes": "the server has accepted it",
}
#: Characters of an error in the text of another one.
_LONGEST_TEXT = 300
#: Outcomes of calls by the class of their error; "ok" without an error, and "error" for all others.
_OUTCOMES = (
    (ClosedError, "closed"),
    (DeadlineExceeded, "timeout"),
    ((CancelledError, WithdrawnError, KeyboardInterrupt, SystemExit), "cancelled"),
)


@dataclass(eq=False)
class CallState:
    """The state of one call that has not ended. One thread at a time writes it; any thread may read it."""

    source: Source
    call_id: str
    #: Name of the public method.
    operation: str
    #: Number of datums, or 1.
    items: int
    #: Time of the client's clock at which it started.
    started: float
    #: "queued", "throttled", "sending", "retrying" or "polling".
    phase: str = "queued"
    #: Whether it was sent: "no", "unknown" or "yes" (the server has accepted it).
    sent: str = "no"
    #: Whether chunks of it have not been sent yet.
    more_to_send: bool = False
    request_id: Optional[str] = None
    #: Time of the clock at which the server accepted it.
    accepted_at: Optional[float] = None
    queue_state: Optional[str] = None
    queue_reason: Optional[str] = None
    polls: int = 0
    #: A weak reference to the caller's future; None for a blocking call.
    future: Optional[Callable[[], Any]] = None
    #: Requests sent again immediately because the server had closed a kept-alive connection.
    reconnects: int = 0
    #: The facts of its result, for observers.
    facts: Dict[str, Any] = field(default_factory=dict)
    #: Why its last request failed; None after a request that did not.
    last_failure: Optional[BaseException] = None
    #: Id of the thread that started it.
    thread: int = field(default_factory=get_ident)
    #: Whether its end was reported. Changed only under the session's lock.
    has_ended: bool = False

    def status(self, now: float) -> Dict[str, Any]:
        """Return the row of this call in ``ServiceClient.status()``; ``now`` is the time of the client's clock."""
        return {
            "operation": self.operation,
            "client": self.source.kind,
            "id": self.source.id,
            "age": now - self.started,
            "phase": self.phase,
            "sent": self.sent,
            "request_id": self.request_id,
            "queue_state": self.queue_state,
            "queue_state_reason": self.queue_reason,
            "polls": self.polls,
        }

    @property
    def origin(self) -> Dict[str, Any]:
        """The first two arguments of every hook."""
        return {"source": self.source, "call_id": self.call_id}

    @property
    def is_unaccepted(self) -> bool:
        """Whether the server has not accepted the call, or a chunk of it, yet."""
        return self.sent != "yes" or self.more_to_send

    def deadline_exceeded(self, is_started: bool = False) -> DeadlineExceeded:
        """Return the error for a timeout at this point. Its cause is the failure of the last request, if that failed.

        Args:
            is_started: Its dispatch has started, so it is sent although its caller no longer waits.
        """
        sent = "unknown" if is_started and self.sent == "no" else self.sent
        state = f", queue state {self.queue_state}" if self.queue_state else ""
        request = f", request {self.request_id}" if self.request_id else ""
        cause = self.last_failure
        failure = f"; the last request failed: {str(cause)[:_LONGEST_TEXT]}" if cause else ""
        facts = f"({_CONSEQUENCES[sent]}{request}{state}){failure}"
        error = DeadlineExceeded(
            f"{self.operation}: the timeout ran out while {self.phase} {facts}",
            phase=self.phase,
            sent=sent,
            request_id=self.request_id,
            queue_state=self.queue_state,
        )
        error.__cause__ = cause
        return error


def outcome_of(error: Optional[BaseException]) -> str:
    """Return the outcome of a call that ended with ``error``, in the words of ``tinkex_call_finished``."""
    for kinds, outcome in _OUTCOMES:
        if isinstance(error, kinds):
            return outcome
    return "ok" if error is None else "error"


@dataclass(frozen=True)
class Unfinished:
    """A call that had no result when its client was closed."""

    operation: str
    #: Whether it was sent: "no", "unknown" or "yes" (the server has accepted it).
    sent: str
    #: Fetch the result later with ``ServiceClient.resume_future``; None if the server did not accept it yet.
    request_id: Optional[str]
