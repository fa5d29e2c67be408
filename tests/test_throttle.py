"""The layered throttle and its pace: limits, penalty window, order, paced re-entry, close."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Callable, List, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tinkex_sync.clock import Clock, ScaledClock
from tinkex_sync.errors import ClosedError, DeadlineExceeded
from tinkex_sync.pace import Pace
from tinkex_sync.throttle import Permit, Throttle, ThrottleLimits

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
    return Throttle(ThrottleLimits(**limits), clock or Clock(), threading.Event())


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


# -- layers


def test_facts_tell_what_the_permit_took() -> None:
    throttle = make()
    with throttle.permit(1000) as permit:
        facts = permit.facts
    assert (facts.estimated_bytes, facts.charged_bytes, facts.throttled) == (1000, 1000, False)
    assert (facts.in_flight, facts.bytes_left) == (1, MIB5 - 1000)
    assert 0 <= facts.waited < 1
    assert throttle.status() == {
        "in_flight": 0,
        "waiting": 0,
        "bytes_left": MIB5,
        "backoff_until": float("-inf"),
        "recently": False,
        "pace": None,
    }


def most_at_once(throttle: Throttle, size: int, calls: int) -> Tuple[int, List[Permit]]:
    """Take permits until one more has to wait; then give all back and let the rest through."""
    permits: List[Permit] = []
    while len(permits) < calls:
        try:
            permits.append(throttle.permit(size, deadline=0.0))
        except DeadlineExceeded:
            break
    most = len(permits)
    for permit in permits:
        permit.release()
    return most, permits


@pytest.mark.parametrize(
    ("recent", "size", "most"),
    [(False, 10, 400), (False, 2_000_000, 3), (True, 10, 10), (True, 200_000, 2), (True, 2_000_000, 1)],
)
def test_so_many_are_in_flight_at_once(recent: bool, size: int, most: int) -> None:
    throttle = make(JumpingClock())
    if recent:
        refused(throttle).release()
    assert most_at_once(throttle, size, 500)[0] == most
    assert throttle.status()["in_flight"] == 0
    assert throttle.status()["bytes_left"] == MIB5


def test_the_charge_is_decided_once_at_entry() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    early = throttle.permit(1000)
    late = refused(throttle, 1000)
    with throttle.permit(1000) as after:
        assert (after.facts.throttled, after.facts.charged_bytes) == (True, 20_000)
    assert (early.facts.charged_bytes, late.facts.charged_bytes) == (1000, 1000)
    early.release()
    late.release()
    assert throttle.status()["bytes_left"] == MIB5


def test_the_penalty_ends_ten_seconds_after_the_backoff() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    refused(throttle).release()
    clock.now += 1.0 + 9.99
    with throttle.permit(1) as permit:
        assert permit.facts.throttled
    clock.now += 0.02
    with throttle.permit(1) as permit:
        assert not permit.facts.throttled


def test_a_second_release_does_nothing() -> None:
    throttle = make()
    permit = throttle.permit(10)
    permit.release()
    permit.release()
    with permit:
        pass
    assert throttle.status()["bytes_left"] == MIB5


def test_a_deadline_in_any_layer_gives_the_other_layers_back() -> None:
    throttle = make(JumpingClock(), throttled_dispatches=1, dispatch_bytes=100)
    big = throttle.permit(200)
    with pytest.raises(DeadlineExceeded) as caught:
        throttle.permit(1, deadline=1005.0)
    assert (caught.value.phase, caught.value.sent) == ("throttled", "no")
    big.await_turn()
    big.refused()
    big.release()
    few = throttle.permit(0)
    with pytest.raises(DeadlineExceeded):
        throttle.permit(0, deadline=1010.0)
    few.release()
    assert most_at_once(throttle, 0, 5)[0] == 1
    assert (throttle.status()["in_flight"], throttle.status()["bytes_left"]) == (0, 100)


def test_wrong_use_is_refused() -> None:
    throttle = make()
    with pytest.raises(ValueError, match="-5"):
        throttle.permit(-5)
    permit = throttle.permit(1)
    with pytest.raises(RuntimeError, match="await_turn"):
        permit.accepted()
    permit.await_turn()
    permit.accepted()
    with pytest.raises(RuntimeError, match="await_turn"):
        permit.refused()
    permit.release()


# -- backoff


@pytest.mark.parametrize(
    ("size", "retry_after", "duration"),
    [(131_072, None, 1.0), (131_073, None, 5.0), (10, 7.5, 7.5), (10**6, 0.5, 0.5), (10, 0.0, 0.0)],
)
def test_the_first_refusal_stops_everyone(size: int, retry_after: Optional[float], duration: float) -> None:
    clock = JumpingClock()
    throttle = make(clock)
    other = throttle.permit(1)
    permit = throttle.permit(size)
    permit.await_turn()
    backoff = permit.refused(retry_after)
    assert (backoff.duration, backoff.until, backoff.everyone) == (duration, 1000.0 + duration, True)
    assert permit.not_before == 1000.0 + duration
    other.await_turn()
    assert clock.now >= 1000.0 + duration
    other.release()
    permit.release()


def test_a_later_refusal_delays_its_own_sample_alone() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    refused(throttle).release()
    unlucky = throttle.permit(10)
    unlucky.await_turn()
    assert not unlucky.refused(3.0).everyone
    at = clock.now
    accepted(throttle)
    assert clock.now - at < 0.2  # the pace, not the backoff
    unlucky.await_turn()
    assert clock.now >= at + 3.0
    unlucky.release()


def test_refusals_of_one_burst_stop_everyone_once() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    burst = [throttle.permit(10) for _ in range(5)]
    for permit in burst:
        permit.await_turn()
    assert [permit.refused().everyone for permit in burst] == [True, False, False, False, False]
    assert throttle.status()["pace"] == ThrottleLimits().pace_start
    for permit in burst:
        permit.release()


def test_without_a_refusal_there_is_no_pace() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    for _ in range(1000):
        accepted(throttle)
    assert clock.now == 1000.0


def test_the_pace_goes_away_when_it_held_nobody_back_for_ten_seconds() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    refused(throttle).release()
    for _ in range(5):
        accepted(throttle)
    assert throttle.status()["pace"] is not None
    clock.now += 10.0
    assert throttle.status()["pace"] is None
    at = clock.now
    for _ in range(100):
        accepted(throttle)
    assert clock.now == at
    permit = throttle.permit(1)
    permit.await_turn()
    assert permit.refused().everyone  # a new episode
    permit.release()


def test_a_permit_can_be_parked_and_continued_in_another_thread() -> None:
    clock = ScaledClock(50)
    throttle = make(clock)
    permit = refused(throttle)
    assert clock.time() < permit.not_before
    done: List[float] = []

    def later() -> None:
        permit.await_turn()
        permit.accepted()
        permit.release()
        done.append(clock.time())

    join(in_threads([later]))
    assert done[0] >= permit.not_before
    assert throttle.status()["in_flight"] == 0


def test_samples_leave_in_order_of_arrival_but_not_behind_one_that_is_delayed() -> None:
    clock = ScaledClock(10)
    throttle = make(clock, small_backoff=3.0)
    order: List[int] = []
    first = refused(throttle)
    unlucky = refused(throttle, retry_after=15.0)  # arrived before the others
    permits = [throttle.permit(1) for _ in range(7)]

    def go(number: int, permit: Permit) -> None:
        permit.await_turn()
        order.append(number)
        permit.accepted()
        permit.release()

    # They come to the gate in reverse, during the stop of everyone that another refusal begins.
    clock_now = clock.time()
    throttle._pace.stopped_until = clock_now + 5.0
    threads: List[threading.Thread] = []
    for number in reversed(range(7)):
        before = throttle.status()["waiting"]
        threads += in_threads([lambda number=number: go(number, permits[number])])
        until(lambda before=before: throttle.status()["waiting"] == before + 1)
    threads += in_threads([lambda: go(99, unlucky)])
    join(threads)
    assert order == [0, 1, 2, 3, 4, 5, 6, 99]
    first.release()


def test_a_deadline_ends_the_wait_for_a_turn_and_wakes_the_next() -> None:
    clock = ScaledClock(20)
    throttle = make(clock)
    refused(throttle, retry_after=4.0).release()
    until_stop = clock.time() + 4.0
    impatient, patient = throttle.permit(1), throttle.permit(1)
    outcome: List[Any] = []

    def give_up() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            impatient.await_turn(deadline=until_stop - 2.0)
        outcome.append((caught.value.phase, caught.value.sent))

    first = in_threads([give_up])
    until(lambda: throttle.status()["waiting"] == 1)
    second = in_threads([patient.await_turn])
    join(first + second)
    assert outcome == [("throttled", "no")]
    assert throttle.status()["waiting"] == 0


class InterruptingClock(JumpingClock):
    def wait(self, event: threading.Event, timeout: Optional[float] = None) -> bool:
        raise KeyboardInterrupt


def test_an_interrupt_while_waiting_for_a_turn_leaves_the_queue() -> None:
    clock = InterruptingClock()
    throttle = make(clock)
    refused(throttle).release()
    with pytest.raises(KeyboardInterrupt), throttle.permit(1) as permit:
        permit.await_turn()
    status = throttle.status()
    assert (status["waiting"], status["in_flight"], status["bytes_left"]) == (0, 0, MIB5)


@pytest.mark.parametrize("politely", [True, False])
def test_closing_ends_four_hundred_waits_within_a_second(politely: bool) -> None:
    throttle = make(max_dispatches=150, throttled_dispatches=5)
    unthrottled = [throttle.permit(1) for _ in range(100)]
    blocker = refused(throttle, retry_after=1000.0)
    ended: List[str] = []

    def turn(permit: Permit) -> None:
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
    if politely:
        throttle.close()
    else:
        throttle._closing.set()
    join(threads)
    assert time.monotonic() - begun < 1.0
    assert (ended.count("turn"), ended.count("enter")) == (100, 300)
    blocker.release()
    status = throttle.status()
    assert (status["waiting"], status["in_flight"], status["bytes_left"]) == (0, 0, MIB5)


# -- pace


def drive(pace: Pace, seconds: float, rate: float, size: float, answer: float = 0.0) -> Tuple[int, int]:
    """Send as fast as the pace allows at a token bucket, from an empty one; (accepted, refused)."""
    now = end = pace.stopped_until
    end += seconds
    tokens, filled = min(size, rate), now
    outcomes = [0, 0]
    pending: List[Tuple[float, bool, Any]] = []
    while now < end:
        opens = max(now, pace.opens_at(now))
        if pending and pending[0][0] <= opens:
            now, ok, ticket = pending.pop(0)
            if ok:
                pace.accepted(now, ticket)
            else:
                pace.refused(now, ticket, 1.0)
            outcomes[not ok] += 1
            continue
        now = opens
        tokens, filled = min(size, tokens + (now - filled) * rate), now
        pending.append((now + answer, tokens >= 1, pace.leave(now)))
        tokens -= tokens >= 1
    return outcomes[0], outcomes[1]


@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([5, 20, 50, 200, 500]),
    size=st.sampled_from([5, 50, 500]),
    answer=st.sampled_from([0.0, 0.001, 0.05]),
)
def test_the_pace_finds_the_rate_of_the_server(rate: int, size: int, answer: float) -> None:
    pace = Pace(ThrottleLimits())
    pace.refused(100.0, pace.leave(100.0), 1.0)
    good, bad = drive(pace, 20.0, rate, size, answer)
    assert good >= 0.7 * 20 * rate
    assert bad <= 0.25 * good + 5


def test_slow_answers_do_not_let_the_pace_run_away() -> None:
    limits = ThrottleLimits()
    pace = Pace(limits)
    pace.refused(0.0, pace.leave(0.0), 1.0)
    ticket = pace.leave(1.0)
    for step in range(100):
        pace.accepted(2.0 + step * 0.1, ticket)
    assert pace.rate == 2 * limits.pace_start


def test_the_pace_recovers_when_the_server_admits_more() -> None:
    pace = Pace(ThrottleLimits())
    pace.refused(0.0, pace.leave(0.0), 1.0)
    drive(pace, 10.0, 5, 5)
    slow = pace.rate
    assert slow is not None and slow < 10
    pace.stopped_until = 11.0
    drive(pace, 8.0, 1000, 1000)
    assert pace.rate is None or pace.rate > 100


def test_the_pace_never_falls_below_its_floor() -> None:
    limits = ThrottleLimits()
    pace = Pace(limits)
    pace.refused(0.0, pace.leave(0.0), 1.0)
    now = 1.0
    for _ in range(200):
        now = max(now, pace.opens_at(now))
        pace.refused(now, pace.leave(now), 1.0)
    assert pace.rate == limits.pace_floor


# -- all of it


class ThrottleMachine(RuleBasedStateMachine):
    """Any order of calls on one thread: what is held is always what the permits say."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = JumpingClock()
        self.throttle = make(self.clock, max_dispatches=6, throttled_dispatches=3, dispatch_bytes=1000)
        self.permits: List[Permit] = []

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
            permit.accepted()
        else:
            stopped = permit.refused(retry_after)
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
    def what_is_held_is_what_the_permits_say(self) -> None:
        status = self.throttle.status()
        assert status["in_flight"] == len(self.permits) <= 6
        assert status["bytes_left"] == 1000 - self.charged()
        assert status["waiting"] == 0


TestThrottleAgainstModel = ThrottleMachine.TestCase
TestThrottleAgainstModel.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("seed", [1, 2])
def test_four_hundred_threads_all_get_through_and_leak_nothing(seed: int) -> None:
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
                            permit.accepted()
                            with lock:
                                done += 1
                            return
                        permit.refused()
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
