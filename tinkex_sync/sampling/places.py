"""How many samples of one client are in progress at once, from dispatch to result."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import Callable, Deque, Iterator, Optional

from ..concurrency.clock import remaining
from ..concurrency.primitives import Event, Lock
from ..http.call_state import CallState
from ..session import Session

__all__ = ["Places"]

#: Begins what has got a place; False if it does not want it any more.
Start = Callable[[], bool]


class Places:
    """At most ``limit`` holders, first come, first served. A submitted sample that waits takes no thread.

    Invariants: nobody waits while a place is free; a place that is given up goes to the first who waits.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._held = 0  # guarded by _lock
        self._waiting: Deque[Start] = deque()  # guarded by _lock

    def enter(self, start: Start) -> None:
        """Call ``start`` as soon as there is a place: now, or from the thread that gives one up."""
        with self._lock:
            free = self._held < self._limit
            if free:
                self._held += 1
            else:
                self._waiting.append(start)
        if free and not start():
            self.leave()

    def leave(self) -> None:
        """Give a place up."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._held -= 1
                    return
                start = self._waiting.popleft()
            if start():
                return

    def _withdraw(self, start: Start) -> bool:
        with self._lock:
            if start not in self._waiting:
                return False
            self._waiting.remove(start)
            return True

    @contextmanager
    def place(self, session: Session, call: CallState, deadline: Optional[float]) -> Iterator[None]:
        """Wait for a place in this thread, and have it.

        Raises:
            DeadlineExceeded, ClosedError: the wait ended; nothing was sent.
        """
        granted = Event()

        def start() -> bool:
            granted.set()
            return True

        call.phase = "throttled"
        self.enter(start)
        try:
            while not granted.is_set():
                left = remaining(session.clock, deadline)
                if left == 0:
                    raise call.deadline_exceeded()
                session.wait(granted, deadline)
            yield
        finally:
            if not self._withdraw(start):
                self.leave()
