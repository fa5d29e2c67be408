"""What the tests of the throttle share: clocks, permits, threads."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, List, Optional

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.close_signal import CloseSignal
from tinkex_sync.throttle.dispatch import Permit, Throttle, ThrottleLimits

MIB5 = 5 * 1024 * 1024


class JumpingClock(Clock):
    """For one thread: a wait that nothing ends jumps to its end at once."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def wait(self, event: threading.Event, timeout: Optional[float] = None) -> bool:
        if not event.is_set():
            assert timeout is not None, "nothing would ever end this wait"
            self.now += timeout
        return event.is_set()


def make(clock: Optional[Clock] = None, **limits: Any) -> Throttle:
    return Throttle(ThrottleLimits(**limits), clock or Clock(), CloseSignal())


def accepted(throttle: Throttle, size: int = 10) -> Permit:
    with throttle.permit(size) as permit:
        permit.await_turn()
        permit.accepted()
    return permit


def refused(throttle: Throttle, size: int = 10, retry_after: Optional[float] = None) -> Permit:
    permit = throttle.permit(size)
    permit.await_turn()
    permit.refused(retry_after)
    return permit


def until(claim: Callable[[], bool]) -> None:
    pause = threading.Event()
    end = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < end, "it did not become true"
        pause.wait(0.0005)


def in_threads(calls: List[Callable[[], Any]]) -> List[threading.Thread]:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def join(threads: List[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
