"""The throttle in any order of calls, with 400 threads, and closed while they wait."""

from __future__ import annotations

import random
import threading
import time
from typing import List, Optional

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from throttle_examples import MIB5, BlockingPermit, JumpingClock, in_threads, join, make, refused, until

from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.errors import ClosedError, DeadlineExceeded


def test_the_close_signal_ends_four_hundred_waits_within_a_second() -> None:
    throttle = make(max_dispatches=150, max_dispatches_after_backoff=5)
    unthrottled = [throttle.permit(1) for _ in range(100)]
    blocker = refused(throttle, retry_after=1000.0)
    ended: List[str] = []

    def turn(permit: BlockingPermit) -> None:
        with permit:
            try:
                permit.await_turn()
            except ClosedError:
                ended.append("turn")

    def enter() -> None:
        try:
            with throttle.permit(1) as permit:
                permit.await_turn()
        except ClosedError:
            ended.append("enter")

    threads = in_threads([lambda permit=permit: turn(permit) for permit in unthrottled] + [enter] * 300)
    until(lambda: throttle.status()["waiting"] == 400)
    begun = time.monotonic()
    throttle.closing.set()
    join(threads)
    assert time.monotonic() - begun < 1.0
    assert (ended.count("turn"), ended.count("enter")) == (100, 300)
    blocker.release()
    status = throttle.status()
    assert (status["waiting"], status["in_flight"], status["bytes_left"]) == (0, 0, MIB5)


class ThrottleMachine(RuleBasedStateMachine):
    """Any order of calls on one thread: the throttle holds the sum of its permits."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = JumpingClock()
        self.throttle = make(self.clock, max_dispatches=6, max_dispatches_after_backoff=3, dispatch_bytes=1000)
        self.permits: List[BlockingPermit] = []

    def charged(self) -> int:
        return sum(permit.facts.charged_bytes for permit in self.permits)

    @rule(size=st.integers(0, 1500))
    def enter(self, size: int) -> None:
        recent = self.throttle.status()["recently"]
        few = sum(permit.facts.throttled for permit in self.permits)
        fits = len(self.permits) < 6 and (not recent or few < 3) and self.charged() <= 1000
        try:
            permit = self.throttle.permit(size, deadline=self.clock.now)
        except DeadlineExceeded:
            assert not fits
            return
        assert fits
        assert permit.facts.throttled == recent
        assert permit.facts.charged_bytes == size * (20 if recent else 1)
        self.permits.append(permit)

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), ok=st.booleans(), retry_after=st.none() | st.integers(0, 3))
    def send(self, data: st.DataObject, ok: bool, retry_after: Optional[int]) -> None:
        permit = data.draw(st.sampled_from(self.permits))
        permit.await_turn()
        assert self.clock.now >= permit.not_before
        if ok:
            permit.record_acceptance()
        else:
            stopped = permit.record_rate_limit(retry_after)
            assert stopped.until == self.clock.now + stopped.duration

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        permit = data.draw(st.sampled_from(self.permits))
        self.permits.remove(permit)
        permit.release()

    @rule(seconds=st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def the_throttle_holds_the_sum_of_its_permits(self) -> None:
        status = self.throttle.status()
        assert status["in_flight"] == len(self.permits) <= 6
        assert status["bytes_left"] == 1000 - self.charged()
        assert status["waiting"] == 0


TestThrottleAgainstModel = ThrottleMachine.TestCase
TestThrottleAgainstModel.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("seed", [1, 2])
def test_four_hundred_threads_are_all_admitted_and_leak_nothing(seed: int) -> None:
    rng = random.Random(seed)
    clock = ScaledClock(20)
    throttle = make(clock, max_dispatches=100)
    lock = threading.Lock()
    tokens = 300
    sent = done = late = in_flight = most = 0

    def work(size: int, patience: Optional[float]) -> None:
        nonlocal tokens, sent, done, late, in_flight, most
        deadline = None if patience is None else clock.time() + patience
        try:
            with throttle.permit(size, deadline) as permit:
                with lock:
                    in_flight += 1
                    most = max(most, in_flight)
                try:
                    while True:
                        permit.await_turn(deadline)
                        with lock:
                            sent += 1
                            tokens -= 1
                            ok = tokens >= 0 or sent % 5 != 0
                        if ok:
                            permit.record_acceptance()
                            with lock:
                                done += 1
                            return
                        permit.record_rate_limit()
                finally:
                    with lock:
                        in_flight -= 1
        except DeadlineExceeded:
            with lock:
                late += 1

    plans = [(rng.choice([10, 5_000, 400_000]), rng.choice([None, None, None, 0.5, 2.0])) for _ in range(400)]
    threads = in_threads([lambda plan=plan: work(*plan) for plan in plans])
    join(threads)
    assert done + late == 400
    assert done >= sum(patience is None for _, patience in plans)
    assert most <= 100
    status = throttle.status()
    assert (status["waiting"], status["in_flight"], status["bytes_left"]) == (0, 0, MIB5)
