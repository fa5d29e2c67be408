"""The layers of the sampling throttle: permits, fewer permits after a 429, estimated bytes, and a pace.

Nothing here blocks. :meth:`Permit.admit` and :meth:`Permit.take_turn` return immediately, and ``wake`` is called when a
further call may succeed. The same rule therefore applies to samples that wait in the caller's thread and to samples
that wait without a thread.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..config import ThrottleLimits
from .pacing import Pace, Ticket
from .semaphores import Admission, BytesSemaphore, CountingSemaphore


@dataclass(frozen=True)
class PermitFacts:
    """The facts of an admitted permit, for observers."""

    #: The estimated bytes of the sample, and the bytes charged to the budget for it.
    estimated_bytes: int
    charged_bytes: int
    #: Whether it holds one of the few permits that are available after a backoff.
    throttled: bool
    #: Seconds from the request for the permit to its admission.
    waited: float


@dataclass(frozen=True)
class Backoff:
    """The consequence of a 429."""

    #: Seconds, and the time of the clock at which they end.
    duration: float
    until: float
    #: Whether all samples stop until then; otherwise only the rejected sample waits.
    everyone: bool


class Permit:
    """The right to dispatch one sample, from its request until it is released.

    The order of use is: :meth:`admit` until it returns True; :meth:`take_turn` until it returns None; one send;
    :meth:`record_acceptance` or :meth:`record_rate_limit`; after the latter, :meth:`take_turn` again; :meth:`release`.

    Used by one thread at a time, not always the same one.
    """

    def __init__(self, throttle: Throttle, arrival: int, estimated_bytes: int, wake: Callable[[], None]) -> None:
        self.estimated_bytes = estimated_bytes
        #: Position in the order of dispatch, by the time of the request.
        self.arrival = arrival
        self.wake = wake
        #: Time of the clock until which a 429 delays this sample; 0.0 if it was not refused.
        self.not_before = 0.0
        #: Whether it is in the throttle's queue of turns. Changed only under the throttle's lock.
        self.is_queued = False
        self._throttle = throttle
        self._facts: Optional[PermitFacts] = None
        self._ticket: Optional[Ticket] = None
        self._admissions: List[Tuple[Union[CountingSemaphore, BytesSemaphore], Admission]] = []
        self._layers = self._pass_layers()

    def __lt__(self, other: Permit) -> bool:
        return self.arrival < other.arrival

    @property
    def is_admitted(self) -> bool:
        """Whether it holds all layers."""
        return self._facts is not None

    @property
    def facts(self) -> PermitFacts:
        """The facts of the admission.

        Raises:
            RuntimeError: It is not admitted.
        """
        if self._facts is None:
            raise RuntimeError("the permit is not admitted: call admit() until it returns True")
        return self._facts

    def admit(self) -> bool:
        """Acquire the layers that are available, and return whether all of them are held.

        If not, ``wake`` is called when the next one is free. Calls before that change nothing.
        """
        while self._facts is None:
            if self._admissions and not self._admissions[-1][1].is_granted:
                return False
            next(self._layers)
        return True

    def _pass_layers(self) -> Iterator[None]:
        """Enter one semaphore at each step, and keep the facts at the end."""
        throttle = self._throttle
        requested = throttle.clock.time()
        self._enter(throttle.dispatches, 1)
        yield
        # Decided once, when the sample has passed the first layer; later backoffs do not change its charge.
        is_throttled = throttle.has_recent_backoff()
        charge = self.estimated_bytes
        if is_throttled:
            charge *= throttle.limits.bytes_factor_after_backoff
            self._enter(throttle.dispatches_after_backoff, 1)
            yield
        self._enter(throttle.bytes, charge)
        yield
        throttle.count_permit(1)
        self._facts = PermitFacts(self.estimated_bytes, charge, is_throttled, throttle.clock.time() - requested)
        yield

    def _enter(self, semaphore: Union[CountingSemaphore, BytesSemaphore], size: int) -> None:
        admission = Admission(size, self.wake)
        # First, so that an interrupt between the two lines leaks nothing.
        self._admissions.append((semaphore, admission))
        semaphore.enter(admission)

    def take_turn(self) -> Optional[float]:
        """Acquire the turn to send if it is due: after the sample's own delay, a stop of all samples, and the pace.

        Returns:
            None if the sample must be sent now. Otherwise the time of the clock at which to call again. Infinity means
            that ``wake`` will be called.
        """
        now = self._throttle.clock.time()
        if now < self.not_before:
            return self.not_before  # outside of the queue, so that it delays no other sample
        turn = self._throttle.take_turn(self, now)
        if isinstance(turn, Ticket):
            self._ticket = turn
            return None
        return turn

    def record_acceptance(self) -> None:
        """Record that the server accepted the send."""
        self._throttle.record_acceptance(self._sent())

    def record_rate_limit(self, retry_after: Optional[float] = None) -> Backoff:
        """Record that the server returned 429 for the send. The next send needs a turn of its own.

        Args:
            retry_after: Seconds that the response requests; they replace the delay that depends on the size.
        """
        backoff = self._throttle.record_rate_limit(self._sent(), self.estimated_bytes, retry_after)
        self.not_before = backoff.until
        return backoff

    def release(self) -> None:
        """Leave all queues and return all layers. Idempotent."""
        self._throttle.leave_turns(self)
        if self._facts is not None:
            self._facts = None
            self._throttle.count_permit(-1)
        while self._admissions:
            semaphore, admission = self._admissions.pop()
            semaphore.leave(admission)

    def _sent(self) -> Ticket:
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            raise RuntimeError("there is no pending send: call take_turn() before each send")
        return ticket


class Throttle:
    """The limits that all sampling clients and threads of one service client share. Thread-safe.

    Invariant: :meth:`take_turn` has returned a time for the first permit of ``_turns``, or its ``wake`` is being
    called. The others wait until they are first. A permit that leaves the front wakes the next one. ``_lock`` is never
    held while a semaphore is used.
    """

    def __init__(self, limits: ThrottleLimits, clock: Clock) -> None:
        self.limits = limits
        self.clock = clock
        #: The layers in the order in which a permit passes them; the second one only after a recent backoff.
        self.dispatches = CountingSemaphore(limits.max_dispatches, clock)
        self.dispatches_after_backoff = CountingSemaphore(limits.max_dispatches_after_backoff, clock)
        self.bytes = BytesSemaphore(limits.dispatch_bytes, clock)
        self._arrivals = itertools.count()
        self._lock = Lock()
        self._pace = Pace(limits)  # guarded by _lock
        self._turns: List[Permit] = []  # a heap, guarded by _lock
        self._in_flight = 0  # guarded by _lock

    def request(self, estimated_bytes: int, wake: Callable[[], None]) -> Permit:
        """Return a new permit, which holds nothing yet.

        Args:
            estimated_bytes: Estimated size of the sample's body.
            wake: Called when the permit can make progress, by the thread that makes it possible, with no lock
                held. It must be short and must not block. It may be called more often than necessary.

        Raises:
            ValueError: ``estimated_bytes`` is negative.
        """
        if estimated_bytes < 0:
            raise ValueError(f"estimated_bytes must be at least 0, got {estimated_bytes}")
        return Permit(self, next(self._arrivals), estimated_bytes, wake)

    def status(self) -> Dict[str, Any]:
        """Return :meth:`usage`, the end of the last backoff, and whether it is recent."""
        now = self.clock.time()
        with self._lock:
            self._pace.expire(now)
            recent = {"backoff_until": self._pace.backoff_until, "recently": self._pace.is_recent(now)}
        return {**self.usage(), **recent}

    def usage(self) -> Dict[str, Any]:
        """Return the number of admitted permits and of those that wait, the bytes left, and the pace.

        The bytes left are negative while a payload larger than the rest is admitted.
        """
        waiting = self.dispatches.waiting + self.dispatches_after_backoff.waiting + self.bytes.waiting
        return {
            "in_flight": self._in_flight,
            "bytes_left": self.bytes.balance,
            "waiting": waiting + len(self._turns),
            "pace": self._pace.rate,
        }

    # For permits

    def has_recent_backoff(self) -> bool:
        """Return whether a backoff is in force, or ended less than ``throttle_memory`` seconds ago."""
        with self._lock:
            return self._pace.is_recent(self.clock.time())

    def count_permit(self, change: int) -> None:
        """Add ``change`` to the number of admitted permits."""
        with self._lock:
            self._in_flight += change

    def take_turn(self, permit: Permit, now: float) -> Union[Ticket, float]:
        """Let a permit leave if it is first and the pace allows it; otherwise keep it in the queue.

        Returns:
            The ticket of its send, or the time of the clock at which to try again; infinity: when it is woken.
        """
        with self._lock:
            if not permit.is_queued:
                permit.is_queued = True
                heapq.heappush(self._turns, permit)
            if self._turns[0] is not permit:
                return math.inf
            opens = self._pace.opens_at(now)
            if opens > now:
                return opens
            heapq.heappop(self._turns)
            permit.is_queued = False
            ticket = self._pace.leave(now)
            following = self._turns[0] if self._turns else None
        if following is not None:
            following.wake()
        return ticket

    def leave_turns(self, permit: Permit) -> None:
        """Remove a permit from the queue of turns, if it is there."""
        with self._lock:
            if not permit.is_queued:
                return
            permit.is_queued = False
            was_first = self._turns[0] is permit
            self._turns.remove(permit)
            heapq.heapify(self._turns)
            following = self._turns[0] if was_first and self._turns else None
        if following is not None:
            following.wake()

    def record_acceptance(self, ticket: Ticket) -> None:
        """Record that a send was accepted."""
        with self._lock:
            self._pace.record_acceptance(self.clock.time(), ticket)

    def record_rate_limit(self, ticket: Ticket, estimated_bytes: int, retry_after: Optional[float]) -> Backoff:
        """Record that a send was rejected; see :meth:`Permit.record_rate_limit`."""
        limits = self.limits
        if retry_after is not None:
            duration = max(0.0, retry_after)
        elif estimated_bytes <= limits.small_payload_bytes:
            duration = limits.small_backoff
        else:
            duration = limits.large_backoff
        with self._lock:
            now = self.clock.time()
            everyone = self._pace.record_rate_limit(now, ticket, duration)
        return Backoff(duration, now + duration, everyone)
