"""The layered throttle in front of sampling: slots, fewer slots after a refusal, bytes, and a pace."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Dict, List, Optional, Type

from ..concurrency.clock import Clock, remaining
from ..concurrency.close_signal import CloseSignal
from ..concurrency.primitives import Event, Lock
from ..errors import ClosedError, DeadlineExceeded
from .pacing import Pace, ThrottleLimits, Ticket
from .semaphores import BytesSemaphore, CountingSemaphore

__all__ = ["Backoff", "Permit", "PermitFacts", "Throttle", "ThrottleLimits"]


@dataclass(frozen=True)
class PermitFacts:
    """What it took to get a permit, for whoever reports it."""

    #: The estimate, and what was taken from the byte budget for it.
    estimated_bytes: int
    charged_bytes: int
    #: True if it had to take one of the few slots after a backoff.
    throttled: bool
    #: Seconds from asking to having it.
    waited: float
    #: Permits out, this one included, and bytes left (below 0 behind a payload larger than the rest).
    in_flight: int
    bytes_left: int


@dataclass(frozen=True)
class Backoff:
    """What a refusal led to."""

    #: Seconds, and the time of the clock at which they end.
    duration: float
    until: float
    #: True if nobody sends until then; else only the refused sample waits.
    everyone: bool


class _Turn:
    """A thread that waits to send; the earliest permit leaves first."""

    __slots__ = ("arrival", "event")

    def __init__(self, arrival: int) -> None:
        self.arrival = arrival
        self.event = Event()

    def __lt__(self, other: _Turn) -> bool:
        return self.arrival < other.arrival


class Permit:
    """The right to dispatch one sample, held until it is accepted or given up.

    Used by one thread at a time, not always the same one. Leaving ``with``, or `release`, gives it back.
    """

    def __init__(self, throttle: Throttle, arrival: int, facts: PermitFacts) -> None:
        self.facts = facts
        self._throttle = throttle
        self._arrival = arrival
        self._not_before = 0.0
        self._ticket: Optional[Ticket] = None
        self._released = False  # guarded by _throttle._lock

    @property
    def not_before(self) -> float:
        """Time of the clock until which a refusal delays this sample; 0.0 if it was never refused.

        `await_turn` waits for it; who cannot block calls that after this time.
        """
        return self._not_before

    def await_turn(self, deadline: Optional[float] = None) -> None:
        """Block until this sample may be sent: its own delay, a stop for everybody, then the pace.

        Raises:
            DeadlineExceeded: ``deadline`` (time of the clock) passed first; phase "throttled", sent "no".
            ClosedError: The throttle was closed.
        """
        self._ticket = self._throttle._await_turn(self._arrival, self._not_before, deadline)

    def accepted(self) -> None:
        """The server accepted the send."""
        self._throttle._accepted(self._sent())

    def refused(self, retry_after: Optional[float] = None) -> Backoff:
        """The server answered 429. Call `await_turn` before sending again.

        Args:
            retry_after: Seconds the server asked for; they replace the delay chosen by size.
        """
        backoff = self._throttle._refused(self._sent(), self.facts.estimated_bytes, retry_after)
        self._not_before = backoff.until
        return backoff

    def release(self) -> None:
        """Give slots and bytes back. The second time does nothing."""
        self._throttle._release(self)

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.release()

    def _sent(self) -> Ticket:
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            raise RuntimeError("there is no unanswered send: call await_turn() once before each send")
        return ticket


class Throttle:
    """What all sampling clients and threads of one service client wait at.

    Invariant: the first of ``_turns`` either runs or waits on ``closing`` for its time; the others wait on
    events of their own. Whoever leaves the front wakes the next, so a close runs through the queue too.
    ``_lock`` is never held while a semaphore is used.

    Args:
        closing: Once set, every wait ends with ClosedError.
    """

    def __init__(self, limits: ThrottleLimits, clock: Clock, closing: CloseSignal) -> None:
        self.limits = limits
        self._clock = clock
        self._closing = closing
        self._count = CountingSemaphore(limits.max_dispatches, clock, closing)
        self._few = CountingSemaphore(limits.throttled_dispatches, clock, closing)
        self._bytes = BytesSemaphore(limits.dispatch_bytes, clock, closing)
        self._arrivals = itertools.count()
        self._lock = Lock()
        self._pace = Pace(limits)  # guarded by _lock
        self._turns: List[_Turn] = []  # a heap, guarded by _lock
        self._in_flight = 0  # guarded by _lock

    def permit(self, estimated_bytes: int, deadline: Optional[float] = None) -> Permit:
        """Wait for a slot and for bytes; whether a backoff is recent is decided once, when the slot is ours.

        Raises:
            DeadlineExceeded: ``deadline`` (time of the clock) passed first; phase "throttled", sent "no".
            ClosedError: The throttle was closed.
        """
        if estimated_bytes < 0:
            raise ValueError(f"estimated_bytes must not be negative, not {estimated_bytes}")
        asked = self._clock.time()
        arrival = next(self._arrivals)
        throttled = has_few = False
        charge = estimated_bytes
        self._count.acquire(deadline=deadline)
        try:
            with self._lock:
                throttled = self._pace.is_recent(self._clock.time())
            if throttled:
                charge *= self.limits.throttled_bytes_factor
                self._few.acquire(deadline=deadline)
                has_few = True
            self._bytes.acquire(charge, deadline=deadline)
        except BaseException:
            if has_few:
                self._few.release()
            self._count.release()
            raise
        left = self._bytes.balance
        with self._lock:
            self._in_flight += 1
            in_flight = self._in_flight
        waited = self._clock.time() - asked
        facts = PermitFacts(estimated_bytes, charge, throttled, waited, in_flight, left)
        return Permit(self, arrival, facts)

    def status(self) -> Dict[str, Any]:
        """A snapshot: permits out, waiters, bytes left, end of the last backoff, pace per second or None."""
        queued = self._count.waiting + self._few.waiting + self._bytes.waiting
        left = self._bytes.balance
        now = self._clock.time()
        with self._lock:
            self._pace.expire(now)
            return {
                "in_flight": self._in_flight,
                "waiting": queued + len(self._turns),
                "bytes_left": left,
                "backoff_until": self._pace.backoff_until,
                "recently": self._pace.is_recent(now),
                "pace": self._pace.rate,
            }

    def _await_turn(self, arrival: int, not_before: float, deadline: Optional[float]) -> Ticket:
        # Outside the queue, so that its own delay holds up nobody.
        while self._clock.time() < not_before:
            self._sleep(self._closing, not_before - self._clock.time(), deadline)
        turn = _Turn(arrival)
        try:
            with self._lock:
                heapq.heappush(self._turns, turn)
            while True:
                with self._lock:
                    turn.event.clear()
                    first = self._turns[0] is turn
                    now = self._clock.time()
                    late = deadline is not None and now >= deadline
                    opens = self._pace.opens_at(now) if first else math.inf
                    if opens <= now and not late and not self._closing.is_set():
                        return self._pace.leave(now)
                if first:
                    self._sleep(self._closing, opens - now, deadline)
                else:
                    self._sleep(turn.event, None, deadline)
        finally:
            self._leave_queue(turn)

    def _leave_queue(self, turn: _Turn) -> None:
        with self._lock:
            if self._turns and self._turns[0] is turn:
                heapq.heappop(self._turns)
            elif turn in self._turns:
                self._turns.remove(turn)
                heapq.heapify(self._turns)
            following = self._turns[0] if self._turns else None
        if following is not None:
            following.event.set()

    def _sleep(self, event: Event, seconds: Optional[float], deadline: Optional[float]) -> None:
        if self._closing.is_set():
            raise ClosedError("the client was closed while this call waited to be sent")
        left = remaining(self._clock, deadline)
        if left == 0:
            raise DeadlineExceeded(
                "the timeout ran out while the call waited to be sent; nothing was sent",
                phase="throttled",
                sent="no",
            )
        if seconds is None or (left is not None and left < seconds):
            seconds = left
        with self._closing.waking(event):
            self._clock.wait(event, seconds)

    def _accepted(self, ticket: Ticket) -> None:
        with self._lock:
            self._pace.accepted(self._clock.time(), ticket)

    def _refused(self, ticket: Ticket, estimated_bytes: int, retry_after: Optional[float]) -> Backoff:
        limits = self.limits
        if retry_after is not None:
            duration = max(0.0, retry_after)
        elif estimated_bytes <= limits.small_payload_bytes:
            duration = limits.small_backoff
        else:
            duration = limits.large_backoff
        with self._lock:
            now = self._clock.time()
            everyone = self._pace.refused(now, ticket, duration)
        return Backoff(duration, now + duration, everyone)

    def _release(self, permit: Permit) -> None:
        with self._lock:
            if permit._released:
                return
            permit._released = True
            self._in_flight -= 1
        self._bytes.release(permit.facts.charged_bytes)
        if permit.facts.throttled:
            self._few.release()
        self._count.release()
