"""The state of calls that have not ended, for errors, ``ServiceClient.status()`` and closing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

from ..errors import DeadlineExceeded
from ..plugins.events import Source

__all__ = ["CallState", "Unfinished"]

_CONSEQUENCES = {
    "no": "nothing was sent",
    "unknown": "it may have reached the server",
    "yes": "the server has accepted it",
}


class CallState:
    """The state of one call that has not ended. One thread at a time writes it; any thread may read it."""

    __slots__ = (
        "__weakref__",
        "accepted_at",
        "call_id",
        "future",
        "items",
        "more_to_send",
        "operation",
        "phase",
        "polls",
        "queue_reason",
        "queue_state",
        "reconnects",
        "request_id",
        "sent",
        "source",
        "started",
    )

    def __init__(self, source: Source, call_id: str, operation: str, items: int, started: float) -> None:
        self.source = source
        self.call_id = call_id
        self.operation = operation
        self.items = items
        self.started = started
        #: "queued", "throttled", "sending", "retrying" or "polling".
        self.phase = "queued"
        #: Whether it was sent: "no", "unknown" or "yes" (the server has accepted it).
        self.sent = "no"
        #: Whether chunks of it have not been sent yet.
        self.more_to_send = False
        self.request_id: Optional[str] = None
        #: Time of the clock at which the server accepted it.
        self.accepted_at: Optional[float] = None
        self.queue_state: Optional[str] = None
        self.queue_reason: Optional[str] = None
        self.polls = 0
        #: A weak reference to the caller's future; None for a blocking call.
        self.future: Optional[Callable[[], Any]] = None
        #: Requests sent again immediately because the server had closed a kept-alive connection.
        self.reconnects = 0

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
    def is_unsent(self) -> bool:
        """Whether the server has not accepted the call, or a chunk of it, yet."""
        return self.sent != "yes" or self.more_to_send

    def deadline_exceeded(self, is_started: bool = False) -> DeadlineExceeded:
        """Return the error for a timeout at this point.

        Args:
            is_started: Its dispatch has started, so it is sent although its caller no longer waits.
        """
        sent = "unknown" if is_started and self.sent == "no" else self.sent
        state = f", queue state {self.queue_state}" if self.queue_state else ""
        request = f", request {self.request_id}" if self.request_id else ""
        return DeadlineExceeded(
            f"{self.operation}: the timeout ran out while {self.phase} ({_CONSEQUENCES[sent]}{request}{state})",
            phase=self.phase,
            sent=sent,
            request_id=self.request_id,
            queue_state=self.queue_state,
        )


@dataclass(frozen=True)
class Unfinished:
    """A call that had no result when its client was closed."""

    operation: str
    #: Whether it was sent: "no", "unknown" or "yes" (the server has accepted it).
    sent: str
    #: Fetch the result later with ``ServiceClient.resume_future``; None if the server did not accept it yet.
    request_id: Optional[str]
