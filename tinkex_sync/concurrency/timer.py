"""One thread that calls short functions at given times."""

from __future__ import annotations

import heapq
import itertools
from typing import Callable, List, Optional, Tuple

from ..logs import get_logger
from .clock import Clock
from .primitives import Event, Lock, start_thread

_log = get_logger(__name__)


class TimerHandle:
    """A scheduled call that can be cancelled. Thread-safe."""

    __slots__ = ("_forget", "function")

    def __init__(self, function: Callable[[], None], forget: Callable[[], None]) -> None:
        #: What is called at its time; None after the call or the cancellation.
        self.function: Optional[Callable[[], None]] = function
        self._forget = forget

    def cancel(self) -> None:
        """Cancel the call; does nothing if it has started."""
        if self.function is not None:
            self.function = None
            self._forget()


class Timer:
    """Calls functions at their times, in a daemon thread that exists only while a call is scheduled. Thread-safe.

    The functions must be short and must not block.

    Invariants: while the heap is not empty, the thread runs. A cancelled handle holds no reference to its function. At
    most half of the heap's entries, plus 64, are cancelled.
    """

    #: Seconds for which a thread without a call stays.
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
        """Call ``function`` at ``time`` of the clock. A closed timer calls nothing.

        Raises:
            ThreadStartError: Nothing is scheduled.
        """
        handle = TimerHandle(function, self._forget_one)
        with self._lock:
            if self._closed:
                return handle
            if not self._alive:
                start_thread(self._run, self._name)  # It begins when the lock is free.
                self._alive = True
            is_earliest = not self._heap or time < self._heap[0][0]
            heapq.heappush(self._heap, (time, next(self._count), handle))
        if is_earliest:
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
            # Before the heap is read, so that no later call of at() is missed.
            self._wake.clear()
            with self._lock:
                if self._closed:
                    return
                due = self._take_due()
                wait = self._heap[0][0] - self._clock.time() if self._heap else self._linger
            while due:
                try:
                    due.pop(0)()
                except Exception:
                    # An error in one function must not prevent the calls of the others.
                    _log.exception("Timed function failed")
            if not self._clock.wait(self._wake, wait):
                with self._lock:
                    if not self._heap:
                        self._alive = False
                        return

    def _take_due(self) -> List[Callable[[], None]]:
        """Remove and return the functions whose time has come. Call with ``_lock`` held."""
        now = self._clock.time()
        due: List[Callable[[], None]] = []
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].function is None):
            handle = heapq.heappop(self._heap)[2]
            function, handle.function = handle.function, None
            if function is None:
                self._cancelled = max(0, self._cancelled - 1)
            else:
                due.append(function)
        return due

    def close(self) -> None:
        """Drop all scheduled calls and end the thread. Idempotent; callable from any thread."""
        with self._lock:
            self._closed = True
            self._heap.clear()
        self._wake.set()
