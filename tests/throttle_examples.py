"""Helpers for tests of the throttle: clocks, permits of blocking callers, threads."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Callable, List, Optional

from tinkex_sync.concurrency.clock import Clock, remaining
from tinkex_sync.concurrency.close_signal import CloseSignal
from tinkex_sync.concurrency.primitives import Event
from tinkex_sync.config import ThrottleLimits
from tinkex_sync.errors import ClosedError, DeadlineExceeded
from tinkex_sync.throttle.dispatch import Permit, Throttle

MIB5 = 5 * 1024 * 1024


class JumpingClock(Clock):
    """A clock for one thread: a wait that no event ends jumps to its end immediately."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def wait(self, event: Any, timeout: Optional[float] = None) -> bool:
        if not event.is_set():
            assert timeout is not None, "no event would end this wait"
            self.now += timeout
        return event.is_set()


class BlockingThrottle:
    """A throttle for callers that wait in their own threads, as the blocking form of a sample does."""

    def __init__(self, clock: Optional[Clock] = None, **limits: Any) -> None:
        self.clock = clock or Clock()
        self.closing = CloseSignal()
        self.throttle = Throttle(ThrottleLimits(**limits), self.clock)
        self.status = self.throttle.status

    def permit(self, size: int, deadline: Optional[float] = None) -> BlockingPermit:
        """Wait for an admitted permit."""
        woken = Event()
        permit = self.throttle.request(size, woken.set)
        try:
            self.wait(woken, lambda: None if permit.admit() else math.inf, deadline)
        except BaseException:
            permit.release()
            raise
        return BlockingPermit(self, permit, woken)

    def wait(self, woken: Event, step: Callable[[], Optional[float]], deadline: Optional[float]) -> None:
        """Call ``step`` until it returns None, and wait between the calls until it returns or wakes."""
        while True:
            woken.clear()
            at = step()
            if at is None:
                return
            if self.closing.is_set():
                raise ClosedError("closed")
            if deadline is not None and self.clock.time() >= deadline:
                raise DeadlineExceeded("late", phase="throttled", sent="no")
            until = at if deadline is None else min(at, deadline)
            with self.closing.waking(woken):
                self.clock.wait(woken, None if until == math.inf else remaining(self.clock, until))


class BlockingPermit:
    """An admitted permit whose holder waits for its turns in its own thread."""

    def __init__(self, throttle: BlockingThrottle, permit: Permit, woken: Event) -> None:
        self._throttle, self._permit, self._woken = throttle, permit, woken
        self.facts = permit.facts
        self.record_acceptance, self.record_rate_limit = permit.record_acceptance, permit.record_rate_limit
        self.release = permit.release

    @property
    def not_before(self) -> float:
        return self._permit.not_before

    def await_turn(self, deadline: Optional[float] = None) -> None:
        try:
            self._throttle.wait(self._woken, self._permit.take_turn, deadline)
        except BaseException:
            self._throttle.throttle.leave_turns(self._permit)
            raise

    def __enter__(self) -> BlockingPermit:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


def make(clock: Optional[Clock] = None, **limits: Any) -> BlockingThrottle:
    return BlockingThrottle(clock, **limits)


def accepted(throttle: BlockingThrottle, size: int = 10) -> BlockingPermit:
    with throttle.permit(size) as permit:
        permit.await_turn()
        permit.record_acceptance()
    return permit


def refused(throttle: BlockingThrottle, size: int = 10, retry_after: Optional[float] = None) -> BlockingPermit:
    permit = throttle.permit(size)
    permit.await_turn()
    permit.record_rate_limit(retry_after)
    return permit


def until(claim: Callable[[], bool]) -> None:
    pause = threading.Event()
    end = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < end, "the condition did not become true"
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
