"""Monotonic time and waiting, behind one object that tests replace or speed up.

All times are seconds. The client never uses the wall clock to decide how long it waits.
"""

from __future__ import annotations

import threading
import time
from typing import Optional

from .primitives import Waitable

#: Longest uninterrupted wait of the main thread, in seconds of the system's clock.
SLICE = 0.25


def wait_interruptibly(event: Waitable, timeout: Optional[float] = None) -> bool:
    """Wait as ``event.wait(timeout)`` does, so that Ctrl-C ends the wait within a quarter of a second.

    A signal does not end the wait of the main thread if it arrives just before the thread blocks, or if the system
    delivers it to another thread. The main thread therefore waits in slices.

    Args:
        event: What to wait for.
        timeout: Seconds of the system's clock; None: no limit.

    Returns:
        Whether the event is set.
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
    """The system's monotonic clock. Thread-safe.

    All code that waits gets a clock and waits for an event. Closing a client and replacing the clock end such waits.
    """

    #: Seconds of this clock in one second of the system's clock.
    speed = 1.0

    def time(self) -> float:
        """Return seconds of a clock that never goes back. Only differences are meaningful."""
        return time.monotonic() * self.speed

    def wait(self, event: Waitable, timeout: Optional[float] = None) -> bool:
        """Wait until ``event`` is set, for at most ``timeout`` seconds (None: no limit); return whether it is set."""
        return wait_interruptibly(event, None if timeout is None else self.real(timeout))

    def real(self, seconds: float) -> float:
        """Return how many seconds of the system's clock ``seconds`` of this clock take, for socket timeouts."""
        return seconds / self.speed


class ScaledClock(Clock):
    """A clock that runs ``speed`` times as fast as the system's clock, for tests of long waits. Thread-safe.

    Raises:
        ValueError: ``speed`` is not positive.
    """

    def __init__(self, speed: float) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be > 0, got {speed!r}")
        self.speed = speed


def remaining(clock: Clock, deadline: Optional[float]) -> Optional[float]:
    """Return the seconds until ``deadline``, at least 0; None if there is no deadline."""
    return None if deadline is None else max(0.0, deadline - clock.time())
