"""Budgets that many callers share in order of arrival: a number of places, a number of bytes."""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, List, Optional

from ..concurrency.clock import Clock, remaining
from ..concurrency.close_signal import CloseSignal
from ..concurrency.primitives import Event, Lock
from ..errors import ClosedError, DeadlineExceeded


class Admission:
    """A request for part of one budget. It is new, waiting, granted or returned.

    Args:
        size: The part of the budget it needs.
        on_grant: Called once if it is granted after it has waited, by the thread that frees the budget and with no
            lock held. It must be short and must not block.
    """

    __slots__ = ("is_granted", "on_grant", "size")

    def __init__(self, size: int, on_grant: Callable[[], None]) -> None:
        self.size = size
        self.on_grant = on_grant
        #: Whether the budget's part is held now. Changed only under the semaphore's lock.
        self.is_granted = False


class _FifoBudget:
    """A budget that is granted strictly in order of arrival. Thread-safe.

    Waiters that block a thread and waiters that do not (:meth:`enter`) are in one queue.

    Invariants: ``_held`` is the sum of what is granted. No admission waits while the first one could be granted. The
    thread that frees the budget makes the grant, so a newcomer cannot overtake a waiter.

    Args:
        limit: The budget, at least 1.
        clock: Measures blocking waits; default: the system's monotonic clock.
        closing: Ends blocking waits with ClosedError; default: nothing ends them.
    """

    #: The least balance at which one more is admitted.
    _least = 1

    def __init__(self, limit: int, clock: Optional[Clock] = None, closing: Optional[CloseSignal] = None) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit must be an int, got {limit!r}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.limit = limit
        self._clock = clock or Clock()
        self._closing = closing or CloseSignal()
        self._lock = Lock()
        self._held = 0  # guarded by _lock
        self._waiters: Deque[Admission] = deque()  # guarded by _lock

    @property
    def balance(self) -> int:
        """What is left of the budget; below 0 while a payload larger than the rest is admitted."""
        with self._lock:
            return self.limit - self._held

    @property
    def waiting(self) -> int:
        """Number of admissions that wait."""
        with self._lock:
            return len(self._waiters)

    def enter(self, admission: Admission) -> bool:
        """Grant a new admission, or append it to the queue. Never blocks.

        Returns:
            Whether it is granted now; otherwise its ``on_grant`` is called when it is.
        """
        with self._lock:
            if self._waiters or not self._has_room():
                self._waiters.append(admission)
                return False
            self._held += admission.size
            admission.is_granted = True
            return True

    def leave(self, admission: Admission) -> None:
        """Return a granted admission's part, or take a waiting one out of the queue. Idempotent."""
        with self._lock:
            if admission.is_granted:
                admission.is_granted = False
                self._held -= admission.size
            elif admission in self._waiters:
                self._waiters.remove(admission)
            granted = self._grant()
        for other in granted:
            other.on_grant()

    def _acquire(self, size: int, deadline: Optional[float]) -> None:
        if self._closing.is_set():
            raise ClosedError("the client was closed")
        event = Event()
        admission = Admission(size, event.set)
        try:
            if not self.enter(admission):
                with self._closing.waking(event):
                    self._wait(admission, event, deadline)
        except BaseException:
            # An interrupt can arrive when the grant has been made and the wait has not ended yet.
            self.leave(admission)
            raise

    def _wait(self, admission: Admission, event: Event, deadline: Optional[float]) -> None:
        # The grant counts even if it came while the wait timed out.
        while not admission.is_granted:
            if self._closing.is_set():
                raise ClosedError("the client was closed while this call waited to be sent")
            left = remaining(self._clock, deadline)
            if left == 0:
                raise DeadlineExceeded(
                    "the timeout ran out while the call waited to be sent; nothing was sent",
                    phase="throttled",
                    sent="no",
                )
            self._clock.wait(event, left)

    def _release(self, size: int) -> None:
        with self._lock:
            if size > self._held:
                raise ValueError(f"released {size}, but only {self._held} is held")
            self._held -= size
            granted = self._grant()
        for admission in granted:
            admission.on_grant()

    def _has_room(self) -> bool:
        """Call with ``_lock`` held."""
        return self.limit - self._held >= self._least

    def _grant(self) -> List[Admission]:
        """Grant from the front of the queue and return what was granted. Call with ``_lock`` held."""
        granted = []
        while self._waiters and self._has_room():
            admission = self._waiters.popleft()
            self._held += admission.size
            admission.is_granted = True
            granted.append(admission)
        return granted


class CountingSemaphore(_FifoBudget):
    """At most ``limit`` holders at the same time, in order of arrival. Thread-safe."""

    def acquire(self, *, deadline: Optional[float] = None) -> None:
        """Block until a place is free, then take it.

        Args:
            deadline: Time of the clock at which to give up; None: no limit.

        Raises:
            DeadlineExceeded: The deadline passed first (phase "throttled", sent "no"). Nothing is held.
            ClosedError: The client was closed. Nothing is held.
        """
        self._acquire(1, deadline)

    def release(self) -> None:
        """Return a place.

        Raises:
            ValueError: None is held.
        """
        self._release(1)


class BytesSemaphore(_FifoBudget):
    """A budget of bytes that admits while its balance is not negative, and then subtracts. Thread-safe.

    A payload larger than the whole budget therefore passes alone, and a balance of exactly zero admits one more.
    """

    _least = 0

    def acquire(self, size: int, *, deadline: Optional[float] = None) -> None:
        """Block until the balance is not negative and no earlier caller waits, then take ``size`` bytes.

        Args:
            size: Bytes, at least 0.
            deadline: Time of the clock at which to give up; None: no limit.

        Raises:
            ValueError: ``size`` is negative.
            DeadlineExceeded: The deadline passed first (phase "throttled", sent "no"). Nothing is held.
            ClosedError: The client was closed. Nothing is held.
        """
        self._acquire(_checked(size), deadline)

    def release(self, size: int) -> None:
        """Return ``size`` bytes.

        Raises:
            ValueError: ``size`` is negative, or fewer bytes are held.
        """
        self._release(_checked(size))


def _checked(size: int) -> int:
    if size < 0:
        raise ValueError(f"size must be at least 0, got {size}")
    return size
