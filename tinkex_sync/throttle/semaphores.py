"""First-come, first-served budgets that many threads share: a number of slots, a number of bytes."""

from __future__ import annotations

import threading
from collections import deque
from typing import Deque, List, Optional

from ..concurrency.clock import Clock, remaining
from ..errors import ClosedError, DeadlineExceeded

__all__ = ["BytesSemaphore", "CountingSemaphore"]

#: Seconds of the system's clock after which a close that only set the event is noticed.
_CLOSE_CHECK = 0.2


class _Waiter:
    """One thread in the queue. ``granted`` changes only under the semaphore's lock."""

    __slots__ = ("event", "granted", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.event = threading.Event()
        self.granted = False


class _FifoBudget:
    """A budget handed out strictly in order of arrival.

    Invariant: whoever holds a grant is counted in ``_held``, and nobody waits while the first waiter could be
    admitted. A grant is made by the thread that frees the budget, so a newcomer cannot overtake, and one
    freed place wakes one thread.
    """

    #: The least balance at which one more is admitted.
    _least = 1

    def __init__(
        self, limit: int, clock: Optional[Clock] = None, closing: Optional[threading.Event] = None
    ) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit must be an int, not {limit!r}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.limit = limit
        self._clock = clock or Clock()
        self._closing = closing or threading.Event()
        self._lock = threading.Lock()
        self._held = 0  # guarded by _lock
        self._waiters: Deque[_Waiter] = deque()  # guarded by _lock

    @property
    def balance(self) -> int:
        """What is left of the budget; below 0 while a payload larger than the rest is out."""
        with self._lock:
            return self.limit - self._held

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        with self._lock:
            return len(self._waiters)

    def close(self) -> None:
        """End every wait, now and from now on, with ClosedError. What is held can still be released."""
        self._closing.set()
        with self._lock:
            waiting = list(self._waiters)
        for waiter in waiting:
            waiter.event.set()

    def _acquire(self, size: int, deadline: Optional[float]) -> None:
        if self._closing.is_set():
            raise ClosedError("the client was closed")
        waiter = _Waiter(size)
        try:
            with self._lock:
                if not self._waiters and self._admits():
                    self._held += size
                    waiter.granted = True
                    return
                self._waiters.append(waiter)
            self._wait(waiter, deadline)
        except BaseException:
            # An interrupt can arrive when the grant has been made and the wait has not ended yet.
            self._abandon(waiter)
            raise

    def _wait(self, waiter: _Waiter, deadline: Optional[float]) -> None:
        while True:
            with self._lock:
                # Under the lock, because the grant may have come while the wait timed out.
                if waiter.granted:
                    return
                last = self._waiters[-1] is waiter
                waiter.event.clear()
            if self._closing.is_set():
                raise ClosedError("the client was closed while this call waited to be sent")
            left = remaining(self._clock, deadline)
            if left == 0:
                raise DeadlineExceeded(
                    "the timeout ran out while the call waited to be sent; nothing was sent",
                    phase="throttled",
                    sent="no",
                )
            if last:
                # The closing event may be set by somebody who does not know this queue. One thread looks
                # for all: the last, as that changes hands without waking anybody.
                check = _CLOSE_CHECK / self._clock.real(1.0)
                left = check if left is None else min(left, check)
            self._clock.wait(waiter.event, left)

    def _abandon(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.granted:
                self._held -= waiter.size
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            wake = self._grant()
            if self._waiters:
                wake.append(self._waiters[-1])  # it looks for the closing event from now on
        for other in wake:
            other.event.set()

    def _release(self, size: int) -> None:
        with self._lock:
            if size > self._held:
                raise ValueError(f"released {size}, but only {self._held} is held")
            self._held -= size
            wake = self._grant()
        for waiter in wake:
            waiter.event.set()

    def _admits(self) -> bool:
        """Call with `_lock` held."""
        return self.limit - self._held >= self._least

    def _grant(self) -> List[_Waiter]:
        """Admit from the front of the queue; returns whom to wake. Call with `_lock` held."""
        granted = []
        while self._waiters and self._admits():
            waiter = self._waiters.popleft()
            self._held += waiter.size
            waiter.granted = True
            granted.append(waiter)
        return granted


class CountingSemaphore(_FifoBudget):
    """At most ``limit`` holders at once, in order of arrival.

    Args:
        limit: Holders, at least 1.
        clock: What waits are measured on; the system's monotonic clock by default.
        closing: Once set, waiters get ClosedError (within 0.2 s; ``close()`` wakes them at once).
    """

    def acquire(self, *, deadline: Optional[float] = None) -> None:
        """Wait for a place.

        Args:
            deadline: Time of the clock at which to give up; None waits without end.

        Raises:
            DeadlineExceeded: The deadline passed first (phase "throttled", sent "no"). Nothing is held.
            ClosedError: The semaphore was closed. Nothing is held.
        """
        self._acquire(1, deadline)

    def release(self) -> None:
        """Give a place back. ValueError if none is held."""
        self._release(1)


class BytesSemaphore(_FifoBudget):
    """A budget of bytes that admits while its balance is not negative, and then subtracts.

    So a payload larger than the whole budget passes, alone, instead of waiting for ever; and a balance of
    exactly zero admits one more. Arguments as CountingSemaphore, ``limit`` in bytes.
    """

    _least = 0

    def acquire(self, size: int, *, deadline: Optional[float] = None) -> None:
        """Wait until the balance is not negative and it is our turn, then take ``size`` bytes.

        Raises:
            ValueError: ``size`` is negative.
            DeadlineExceeded: The deadline passed first (phase "throttled", sent "no"). Nothing is held.
            ClosedError: The semaphore was closed. Nothing is held.
        """
        self._acquire(_checked(size), deadline)

    def release(self, size: int) -> None:
        """Give ``size`` bytes back. ValueError if fewer are held."""
        self._release(_checked(size))


def _checked(size: int) -> int:
    if size < 0:
        raise ValueError(f"size must not be negative, not {size}")
    return size
