"""The layered throttle: limits, limits after a backoff, order, backoff and paced re-entry."""

from __future__ import annotations

import threading
from typing import Any, List, Optional, Tuple

import pytest
from throttle_examples import (
    MIB5,
    BlockingPermit,
    BlockingThrottle,
    JumpingClock,
    accepted,
    in_threads,
    join,
    make,
    refused,
    until,
)

from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.config import ThrottleLimits
from tinkex_sync.errors import DeadlineExceeded

# -- layers


def test_facts_describe_the_admission_of_a_permit() -> None:
    throttle = make()
    with throttle.permit(1000) as permit:
        facts = permit.facts
        usage = {"in_flight": 1, "bytes_left": MIB5 - 1000, "waiting": 0, "pace": None}
        assert throttle.throttle.usage() == usage
    assert (facts.estimated_bytes, facts.charged_bytes, facts.throttled) == (1000, 1000, False)
    assert 0 <= facts.waited < 1
    assert throttle.status() == {
        "in_flight": 0,
        "waiting": 0,
        "bytes_left": MIB5,
        "backoff_until": float("-inf"),
        "recently": False,
        "pace": None,
    }


def most_at_once(throttle: BlockingThrottle, size: int, calls: int) -> Tuple[int, List[BlockingPermit]]:
    """Return how many permits are admitted before one must wait; all are released at the end."""
    permits: List[BlockingPermit] = []
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
def test_the_layers_limit_the_number_of_permits(recent: bool, size: int, most: int) -> None:
    throttle = make(JumpingClock())
    if recent:
        refused(throttle).release()
    assert most_at_once(throttle, size, 500)[0] == most
    assert throttle.status()["in_flight"] == 0
    assert throttle.status()["bytes_left"] == MIB5


def test_the_charge_is_decided_once_when_the_place_is_granted() -> None:
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


def test_the_limits_after_a_backoff_apply_for_ten_seconds() -> None:
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


def test_a_deadline_in_any_layer_returns_the_other_layers() -> None:
    throttle = make(JumpingClock(), max_dispatches_after_backoff=1, dispatch_bytes=100)
    big = throttle.permit(200)
    with pytest.raises(DeadlineExceeded) as caught:
        throttle.permit(1, deadline=1005.0)
    assert (caught.value.phase, caught.value.sent) == ("throttled", "no")
    big.await_turn()
    big.record_rate_limit()
    big.release()
    few = throttle.permit(0)
    with pytest.raises(DeadlineExceeded):
        throttle.permit(0, deadline=1010.0)
    few.release()
    assert most_at_once(throttle, 0, 5)[0] == 1
    assert (throttle.status()["in_flight"], throttle.status()["bytes_left"]) == (0, 100)


def test_use_in_the_wrong_order_raises() -> None:
    throttle = make()
    with pytest.raises(ValueError, match="-5"):
        throttle.permit(-5)
    permit = throttle.permit(1)
    with pytest.raises(RuntimeError, match="take_turn"):
        permit.record_acceptance()
    permit.await_turn()
    permit.record_acceptance()
    with pytest.raises(RuntimeError, match="take_turn"):
        permit.record_rate_limit()
    permit.release()


# -- backoff


@pytest.mark.parametrize(
    ("size", "retry_after", "duration"),
    [(131_072, None, 1.0), (131_073, None, 5.0), (10, 7.5, 7.5), (10**6, 0.5, 0.5), (10, 0.0, 0.0)],
)
def test_the_first_429_stops_all_dispatch_for_a_time_by_size_or_as_requested(
    size: int, retry_after: Optional[float], duration: float
) -> None:
    clock = JumpingClock()
    throttle = make(clock)
    other = throttle.permit(1)
    permit = throttle.permit(size)
    permit.await_turn()
    backoff = permit.record_rate_limit(retry_after)
    assert (backoff.duration, backoff.until, backoff.everyone) == (duration, 1000.0 + duration, True)
    assert permit.not_before == 1000.0 + duration
    other.await_turn()
    assert clock.now >= 1000.0 + duration
    other.release()
    permit.release()


def test_a_later_429_delays_its_own_sample_only() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    refused(throttle).release()
    delayed = throttle.permit(10)
    delayed.await_turn()
    assert not delayed.record_rate_limit(3.0).everyone
    at = clock.now
    accepted(throttle)
    assert clock.now - at < 0.2  # the pace, not the backoff
    delayed.await_turn()
    assert clock.now >= at + 3.0
    delayed.release()


def test_several_429_of_one_burst_stop_all_samples_once() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    burst = [throttle.permit(10) for _ in range(5)]
    for permit in burst:
        permit.await_turn()
    assert [permit.record_rate_limit().everyone for permit in burst] == [True, False, False, False, False]
    assert throttle.status()["pace"] == ThrottleLimits().pace_start
    for permit in burst:
        permit.release()


def test_without_a_429_there_is_no_pace() -> None:
    clock = JumpingClock()
    throttle = make(clock)
    for _ in range(1000):
        accepted(throttle)
    assert clock.now == 1000.0


def test_the_pace_ends_when_it_has_delayed_no_sample_for_ten_seconds() -> None:
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
    assert permit.record_rate_limit().everyone  # a new episode
    permit.release()


def test_a_permit_can_continue_in_another_thread() -> None:
    clock = ScaledClock(50)
    throttle = make(clock)
    permit = refused(throttle)
    assert clock.time() < permit.not_before
    done: List[float] = []

    def later() -> None:
        permit.await_turn()
        permit.record_acceptance()
        permit.release()
        done.append(clock.time())

    join(in_threads([later]))
    assert done[0] >= permit.not_before
    assert throttle.status()["in_flight"] == 0


def test_samples_are_sent_in_order_of_arrival_but_do_not_wait_for_one_that_is_delayed() -> None:
    clock = ScaledClock(10)
    throttle = make(clock, small_backoff=3.0)
    order: List[int] = []
    first = refused(throttle)
    delayed = refused(throttle, retry_after=15.0)  # arrived before the others
    permits = [throttle.permit(1) for _ in range(7)]

    def go(number: int, permit: BlockingPermit) -> None:
        permit.await_turn()
        order.append(number)
        permit.record_acceptance()
        permit.release()

    # They wait for their turns in reverse order of arrival, while all samples are stopped.
    clock_now = clock.time()
    throttle.throttle._pace.stopped_until = clock_now + 5.0
    threads: List[threading.Thread] = []
    for number in reversed(range(7)):
        before = throttle.status()["waiting"]
        threads += in_threads([lambda number=number: go(number, permits[number])])
        until(lambda before=before: throttle.status()["waiting"] == before + 1)
    threads += in_threads([lambda: go(99, delayed)])
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
