"""How many samples of one client are in progress at once, from dispatch to result."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import Callable, Deque, Iterator, Optional

from ..concurrency.clock import remaining
from ..errors import ClosedError
from ..http.call_state import CallState
from ..session import Session

__all__ = ["Places"]

#: Begins what has got a place; False if it does not want it any more.
Start = Callable[[], bool]

#: Closing sets no event of ours; who waits looks up this often, in seconds of the clock.
_LOOK_UP = 0.5


class Places:
    """At most ``limit`` holders, first come, first served. A submitted sample that waits takes no thread.

    Invariants: nobody waits while a place is free; a place that is given up goes to the first who waits.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
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
        granted = threading.Event()

        def start() -> bool:
            granted.set()
            return True

        call.phase = "throttled"
        self.enter(start)
        try:
            while not granted.is_set():
                if session.closing.is_set():
                    raise ClosedError("the client was closed while this call waited to be sent")
                left = remaining(session.clock, deadline)
                if left == 0:
                    raise call.deadline_exceeded()
                session.clock.wait(granted, _LOOK_UP if left is None else min(left, _LOOK_UP))
            yield
        finally:
            if not self._withdraw(start):
                self.leave()
