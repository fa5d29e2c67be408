"""Calls that have not ended: what is known of each, for errors, for status and for closing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional

from .errors import DeadlineExceeded
from .hookspecs import Source

__all__ = ["OpenCall", "Unfinished"]


class OpenCall:
    """What is known of one call that has not ended; one thread at a time writes it."""

    __slots__ = (
        "__weakref__",
        "call_id",
        "future",
        "items",
        "operation",
        "phase",
        "polls",
        "promised",
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
        #: "no", "unknown" or "yes".
        self.sent = "no"
        self.request_id: Optional[str] = None
        #: When the server gave its promise.
        self.promised: Optional[float] = None
        self.queue_state: Optional[str] = None
        self.queue_reason: Optional[str] = None
        self.polls = 0
        #: What its caller holds, weakly; None for a blocking call.
        self.future: Optional[Callable[[], Any]] = None
        #: Sends repeated at once because a kept-alive connection had been dropped.
        self.reconnects = 0

    def deadline_exceeded(self) -> DeadlineExceeded:
        """The error for a timeout at this point."""
        state = f", queue state {self.queue_state}" if self.queue_state else ""
        request = f", request {self.request_id}" if self.request_id else ""
        consequence = {
            "no": "nothing was sent",
            "unknown": "it may have reached the server",
            "yes": "the server has accepted it",
        }[self.sent]
        return DeadlineExceeded(
            f"{self.operation}: the timeout ran out while {self.phase} ({consequence}{request}{state})",
            phase=self.phase,
            sent=self.sent,
            request_id=self.request_id,
            queue_state=self.queue_state,
        )


@dataclass(frozen=True)
class Unfinished:
    """A call that had no result when its client was closed."""

    operation: str
    #: "no", "unknown" or "yes".
    sent: str
    #: Fetch the result later with ``ServiceClient.resume_future``; None if the server gave no promise yet.
    request_id: Optional[str]
