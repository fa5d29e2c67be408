"""Monotonic time and waiting, behind one object that tests replace or speed up.

All times are seconds. Nothing in the package reads the wall clock to decide how long to wait.
"""

from __future__ import annotations

import threading
import time
from typing import Optional

from .primitives import Waitable

__all__ = ["SLICE", "Clock", "ScaledClock", "remaining", "wait_interruptibly"]


#: The main thread looks up this often, in real seconds, while it waits.
SLICE = 0.25


def wait_interruptibly(event: Waitable, timeout: Optional[float] = None) -> bool:
    """``event.wait(timeout)`` in real seconds, which Ctrl-C ends at once or soon.

    A signal that comes just before the main thread blocks, or that the system hands to another thread, does not
    end its wait; so the main thread waits in slices.
    """
    if threading.current_thread() is not threading.main_thread():
        return event.wait(timeout)
    ends = None if timeout is None else time.monotonic() + timeout
    while True:
        left = SLICE if ends is None else min(SLICE, ends - time.monotonic())
        if event.wait(max(left, 0.0)):
            return True
        if left <= 0:
            return False


class Clock:
    """The system's monotonic clock.

    Everything that waits takes a clock, and waits on an event, so that closing a client or replacing the
    clock ends the wait.
    """

    def time(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        return time.monotonic()

    def wait(self, event: Waitable, timeout: Optional[float] = None) -> bool:
        """Wait until ``event`` is set or ``timeout`` seconds have passed; True if it is set."""
        return wait_interruptibly(event, timeout)

    def real(self, seconds: float) -> float:
        """How many seconds of the system's clock ``seconds`` of this one take (for socket timeouts)."""
        return seconds


class ScaledClock(Clock):
    """A clock that runs ``speed`` times as fast as the system's, for tests of long waits."""

    def __init__(self, speed: float) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be positive, not {speed!r}")
        self.speed = speed

    def time(self) -> float:
        return time.monotonic() * self.speed

    def wait(self, event: Waitable, timeout: Optional[float] = None) -> bool:
        return wait_interruptibly(event, None if timeout is None else timeout / self.speed)

    def real(self, seconds: float) -> float:
        return seconds / self.speed


def remaining(clock: Clock, deadline: Optional[float]) -> Optional[float]:
    """Seconds left until ``deadline`` (never below 0), or None where there is none."""
    return None if deadline is None else max(0.0, deadline - clock.time())
