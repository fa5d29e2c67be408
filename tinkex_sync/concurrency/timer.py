"""One thread that calls short functions at given times."""

from __future__ import annotations

import heapq
import itertools
import logging
from typing import Callable, List, Optional, Tuple

from .clock import Clock
from .primitives import Event, Lock, start_thread

__all__ = ["Timer", "TimerHandle"]

_log = logging.getLogger(__name__)


class TimerHandle:
    """A scheduled call that can still be called off."""

    __slots__ = ("_timer", "function")

    def __init__(self, timer: Timer, function: Callable[[], None]) -> None:
        self._timer = timer
        self.function: Optional[Callable[[], None]] = function

    def cancel(self) -> None:
        """Call it off; does nothing once it has run."""
        if self.function is not None:
            self.function = None
            self._timer._forget_one()


class Timer:
    """Calls functions at their times, in a daemon thread that lives only while something is scheduled.

    The functions must be short and must not block. Invariants: while the heap is not empty the thread runs; a
    cancelled handle holds no reference, and the heap holds at most twice as many entries as are live (plus 64).
    """

    _linger = 5.0

    def __init__(self, clock: Clock, name: str = "tinkex-timer") -> None:
        self._clock = clock
        self._name = name
        self._lock = Lock()
        self._heap: List[Tuple[float, int, TimerHandle]] = []  # guarded by _lock
        self._cancelled = 0  # guarded by _lock
        self._alive = False  # guarded by _lock
        self._closed = False  # guarded by _lock
        self._wake = Event()
        self._count = itertools.count()

    def at(self, time: float, function: Callable[[], None]) -> TimerHandle:
        """Call ``function`` at ``time`` of the clock; never, once closed."""
        handle = TimerHandle(self, function)
        with self._lock:
            if self._closed:
                return handle
            earliest = not self._heap or time < self._heap[0][0]
            heapq.heappush(self._heap, (time, next(self._count), handle))
            start = not self._alive
            self._alive = True
        if start:
            start_thread(self._run, self._name)
        elif earliest:
            self._wake.set()
        return handle

    def _forget_one(self) -> None:
        with self._lock:
            self._cancelled += 1
            if self._cancelled > 64 and 2 * self._cancelled > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].function is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def _run(self) -> None:
        while True:
            self._wake.clear()
            due: List[Callable[[], None]] = []
            with self._lock:
                if self._closed:
                    self._alive = False
                    return
                now = self._clock.time()
                while self._heap and (self._heap[0][0] <= now or self._heap[0][2].function is None):
                    handle = heapq.heappop(self._heap)[2]
                    function, handle.function = handle.function, None
                    if function is None:
                        self._cancelled = max(0, self._cancelled - 1)
                    else:
                        due.append(function)
                wait = self._heap[0][0] - now if self._heap else self._linger
            while due:
                try:
                    due.pop(0)()
                except Exception:
                    # A defect of one function must not take the others' deadlines with it.
                    _log.exception("A timed function failed")
            if not self._clock.wait(self._wake, wait):
                with self._lock:
                    if not self._heap:
                        self._alive = False
                        return

    def close(self) -> None:
        """Drop what is scheduled and end the thread. Idempotent, from any thread."""
        with self._lock:
            self._closed = True
            self._heap.clear()
        self._wake.set()
