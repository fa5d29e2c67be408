"""Calls that have not ended: what is known of each, for errors, for status and for closing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

from ..errors import DeadlineExceeded
from ..plugins.hookspecs import Source

__all__ = ["OpenCall", "Unfinished"]


class OpenCall:
    """What is known of one call that has not ended; one thread at a time writes it."""

    __slots__ = (
        "__weakref__",
        "call_id",
        "future",
        "heard",
        "items",
        "more_to_send",
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
        "withdrawn",
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
        #: Of its chunks, some are still to be sent.
        self.more_to_send = False
        #: It was cancelled before anything of it was sent.
        self.withdrawn = False
        self.request_id: Optional[str] = None
        #: When the server gave its promise.
        self.promised: Optional[float] = None
        self.queue_state: Optional[str] = None
        self.queue_reason: Optional[str] = None
        self.polls = 0
        #: What its caller holds, weakly; None for a blocking call.
        self.future: Optional[Callable[[], Any]] = None
        #: Told the body of each 408 and 429, before observers hear that the request ended.
        self.heard: Optional[Callable[[OpenCall, Any], None]] = None
        #: Sends repeated at once because a kept-alive connection had been dropped.
        self.reconnects = 0

    def status(self, now: float) -> Dict[str, Any]:
        """A row of ``ServiceClient.status()``; ``now`` is the time of the client's clock."""
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
    def waits_to_be_sent(self) -> bool:
        """Whether sending it is not over: it was not accepted yet, or not all of it."""
        return not self.withdrawn and (self.sent != "yes" or self.more_to_send)

    def deadline_exceeded(self, goes_on: bool = False) -> DeadlineExceeded:
        """The error for a timeout at this point; ``goes_on``: it was begun, and is sent although nobody waits."""
        sent = "unknown" if goes_on and self.sent == "no" else self.sent
        state = f", queue state {self.queue_state}" if self.queue_state else ""
        request = f", request {self.request_id}" if self.request_id else ""
        consequence = {
            "no": "nothing was sent",
            "unknown": "it may have reached the server",
            "yes": "the server has accepted it",
        }[sent]
        return DeadlineExceeded(
            f"{self.operation}: the timeout ran out while {self.phase} ({consequence}{request}{state})",
            phase=self.phase,
            sent=sent,
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
