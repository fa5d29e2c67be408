"""FIFO budgets: the limit holds, the order is kept, and nothing leaks."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, List, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from throttle_examples import MIB5, until

from tinkex_sync.concurrency.clock import Clock, ScaledClock
from tinkex_sync.concurrency.close_signal import CloseSignal
from tinkex_sync.errors import ClosedError, DeadlineExceeded
from tinkex_sync.throttle.semaphores import Admission, BytesSemaphore, CountingSemaphore


class Caller(threading.Thread):
    """A thread that runs one call and keeps its outcome."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.result: Any = None
        self.error: Optional[BaseException] = None
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def outcome(self) -> Any:
        assert self.ended.wait(10), "the call did not end"
        self.join(10)
        if self.error is not None:
            raise self.error
        return self.result


def queue_up(semaphore: Any, call: Callable[[], Any]) -> Caller:
    before = semaphore.waiting
    caller = Caller(call)
    until(lambda: semaphore.waiting == before + 1)
    return caller


def test_a_balance_of_exactly_zero_admits_one_more() -> None:
    semaphore = BytesSemaphore(100)
    semaphore.acquire(100)
    assert semaphore.balance == 0
    semaphore.acquire(1, deadline=0.0)
    assert semaphore.balance == -1
    with pytest.raises(DeadlineExceeded):
        semaphore.acquire(0, deadline=0.0)


def test_a_payload_larger_than_the_budget_passes_alone() -> None:
    semaphore = BytesSemaphore(100)
    semaphore.acquire(10_000)
    other = queue_up(semaphore, lambda: semaphore.acquire(1))
    semaphore.release(10_000)
    other.outcome()
    assert semaphore.balance == 99


@pytest.mark.parametrize(("size", "at_once"), [(2_000_000, 3), (4_000_000, 2), (MIB5, 2), (MIB5 + 1, 1)])
def test_as_many_payloads_are_admitted_together_as_recorded(size: int, at_once: int) -> None:
    semaphore = BytesSemaphore(MIB5)
    lock = threading.Lock()
    here = most = 0
    full = threading.Barrier(at_once)

    def work() -> None:
        nonlocal here, most
        semaphore.acquire(size)
        with lock:
            here += 1
            most = max(most, here)
        full.wait(10)  # only passed when `at_once` of them are in
        with lock:
            here -= 1
        semaphore.release(size)

    callers = [Caller(work) for _ in range(4 * at_once)]
    for caller in callers:
        caller.outcome()
    assert most == at_once
    assert semaphore.balance == MIB5


@pytest.mark.parametrize("kind", [BytesSemaphore, CountingSemaphore])
def test_waiters_are_admitted_in_order_of_arrival(kind: Any) -> None:
    semaphore = kind(1)
    size = (2,) if kind is BytesSemaphore else ()
    semaphore.acquire(*size)
    order: List[int] = []

    def work(number: int) -> None:
        semaphore.acquire(*size)
        order.append(number)
        semaphore.release(*size)

    callers = [queue_up(semaphore, lambda number=number: work(number)) for number in range(20)]
    semaphore.release(*size)
    for caller in callers:
        caller.outcome()
    assert order == list(range(20))


def test_a_newcomer_does_not_overtake_a_waiter() -> None:
    semaphore = CountingSemaphore(1)
    semaphore.acquire()
    first = queue_up(semaphore, lambda: semaphore.acquire())
    semaphore.release()
    with pytest.raises(DeadlineExceeded):
        semaphore.acquire(deadline=0.0)  # the release has granted the place to the waiter
    first.outcome()


def test_a_large_payload_is_not_starved_by_small_ones() -> None:
    semaphore = BytesSemaphore(100)
    stop = threading.Event()

    def small() -> None:
        while not stop.is_set():
            semaphore.acquire(40)
            semaphore.release(40)

    small_ones = [Caller(small) for _ in range(6)]
    large = Caller(lambda: semaphore.acquire(1_000))
    large.outcome()
    stop.set()
    semaphore.release(1_000)
    for caller in small_ones:
        caller.outcome()
    assert semaphore.balance == 100


def test_a_timeout_raises_with_sent_no_and_leaves_no_waiter() -> None:
    clock = ScaledClock(100)
    semaphore = CountingSemaphore(1, clock)
    semaphore.acquire()
    begun = clock.time()
    with pytest.raises(DeadlineExceeded) as caught:
        semaphore.acquire(deadline=begun + 5)
    assert clock.time() >= begun + 5
    assert (caught.value.phase, caught.value.sent) == ("throttled", "no")
    assert (semaphore.waiting, semaphore.balance) == (0, 0)
    semaphore.release()
    semaphore.acquire(deadline=clock.time() + 5)


class LateClock(Clock):
    """A clock whose waits end with a timeout directly after ``grant`` has run."""

    def __init__(self, grant: Callable[[], None], error: Optional[BaseException] = None) -> None:
        self.grant, self.error, self.now = grant, error, 0.0

    def time(self) -> float:
        return self.now

    def wait(self, event: threading.Event, timeout: Optional[float] = None) -> bool:
        self.grant()
        self.now = 10.0
        if self.error is not None:
            raise self.error
        return False


def test_a_waiter_that_timed_out_keeps_a_grant_made_meanwhile() -> None:
    semaphore = CountingSemaphore(1, LateClock(lambda: semaphore.release()))
    semaphore.acquire()
    semaphore.acquire(deadline=5.0)
    assert (semaphore.balance, semaphore.waiting) == (0, 0)


def test_an_interrupt_after_the_grant_returns_it() -> None:
    semaphore = CountingSemaphore(1, LateClock(lambda: semaphore.release(), KeyboardInterrupt()))
    semaphore.acquire()
    with pytest.raises(KeyboardInterrupt):
        semaphore.acquire()
    assert (semaphore.balance, semaphore.waiting) == (1, 0)


def test_an_interrupt_while_waiting_leaves_the_queue() -> None:
    semaphore = CountingSemaphore(1, LateClock(lambda: None, KeyboardInterrupt()))
    semaphore.acquire()
    with pytest.raises(KeyboardInterrupt):
        semaphore.acquire()
    assert (semaphore.balance, semaphore.waiting) == (0, 0)


@pytest.mark.parametrize("kind", [CountingSemaphore, BytesSemaphore])
def test_the_close_signal_ends_every_wait_and_holders_can_still_release(kind: Any) -> None:
    closing = CloseSignal()
    semaphore = kind(1, ScaledClock(50), closing)
    size = (5,) if kind is BytesSemaphore else ()
    semaphore.acquire(*size)
    callers = [queue_up(semaphore, lambda: semaphore.acquire(*size)) for _ in range(50)]
    begun = time.monotonic()
    closing.set()
    for caller in callers:
        with pytest.raises(ClosedError):
            caller.outcome()
    assert time.monotonic() - begun < 1.0
    semaphore.release(*size)
    assert (semaphore.balance, semaphore.waiting) == (1, 0)
    with pytest.raises(ClosedError):
        semaphore.acquire(*size)


def test_waiters_with_and_without_a_thread_are_granted_in_one_order_of_arrival() -> None:
    semaphore = CountingSemaphore(1)
    semaphore.acquire()
    order: List[int] = []

    def blocking(number: int) -> None:
        semaphore.acquire()
        order.append(number)
        semaphore.release()

    def granted(number: int) -> None:
        order.append(number)
        semaphore.leave(admissions[number])

    admissions, callers = {}, []
    for number in range(20):
        if number % 2:
            callers.append(queue_up(semaphore, lambda number=number: blocking(number)))
        else:
            admissions[number] = Admission(1, lambda number=number: granted(number))
            assert not semaphore.enter(admissions[number])
    semaphore.release()
    for caller in callers:
        caller.outcome()
    until(lambda: semaphore.balance == 1)
    assert order == list(range(20))


def test_an_admission_granted_immediately_calls_nothing() -> None:
    semaphore = BytesSemaphore(10)
    admission = Admission(25, lambda: pytest.fail("it was granted already"))
    assert semaphore.enter(admission) and admission.is_granted
    assert semaphore.balance == -15
    semaphore.leave(admission)
    semaphore.leave(admission)
    assert (semaphore.balance, admission.is_granted) == (10, False)


def test_a_waiting_admission_that_leaves_grants_to_the_next_one() -> None:
    semaphore = BytesSemaphore(10)
    called: List[str] = []
    first, second, third = (Admission(20, lambda name=name: called.append(name)) for name in "abc")
    assert semaphore.enter(first)
    assert not semaphore.enter(second) and not semaphore.enter(third)
    semaphore.leave(second)
    assert (called, semaphore.waiting) == ([], 1)
    semaphore.leave(first)
    assert (called, third.is_granted, semaphore.balance) == (["c"], True, -10)


def test_releasing_more_than_is_held_is_an_error() -> None:
    count, size = CountingSemaphore(2), BytesSemaphore(10)
    with pytest.raises(ValueError, match="released 1, but only 0 is held"):
        count.release()
    size.acquire(3)
    with pytest.raises(ValueError, match="released 4, but only 3 is held"):
        size.release(4)
    assert size.balance == 7


def test_invalid_limits_and_sizes_raise() -> None:
    with pytest.raises(ValueError, match="-1"):
        BytesSemaphore(10).acquire(-1)
    with pytest.raises(ValueError, match="at least 1"):
        CountingSemaphore(0)
    with pytest.raises(TypeError, match="2.5"):
        CountingSemaphore(2.5)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 1000), sizes=st.lists(st.integers(0, 3000), max_size=40))
def test_without_releases_the_admitted_sizes_are_a_prefix_of_the_requested_ones(limit: int, sizes: List[int]) -> None:
    semaphore = BytesSemaphore(limit)
    taken = 0
    for size in sizes:
        if taken <= limit:
            semaphore.acquire(size, deadline=0.0)
            taken += size
        else:
            with pytest.raises(DeadlineExceeded):
                semaphore.acquire(size, deadline=0.0)
        assert semaphore.balance == limit - taken


class ManualClock(Clock):
    """A clock whose time changes only when a test changes it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def wait(self, event: threading.Event, timeout: Optional[float] = None) -> bool:
        return event.wait(None if timeout is None else 0.005)


class FifoMachine(RuleBasedStateMachine):
    """Real threads against a model: a list of holders and a queue."""

    LIMIT = 10

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.closing = CloseSignal()
        self.semaphore = BytesSemaphore(self.LIMIT, self.clock, self.closing)
        self.holders: List[int] = []
        self.queue: Deque[List[Any]] = deque()  # [size, deadline or None, Caller]

    def balance(self) -> int:
        return self.LIMIT - sum(self.holders)

    def settle(self) -> None:
        while self.queue and self.balance() >= 0:
            size, _, caller = self.queue.popleft()
            caller.outcome()
            self.holders.append(size)

    @rule(size=st.integers(0, 25), patience=st.none() | st.integers(1, 5))
    def come(self, size: int, patience: Optional[int]) -> None:
        deadline = None if patience is None else self.clock.time() + patience
        if self.queue or self.balance() < 0:
            call = lambda: self.semaphore.acquire(size, deadline=deadline)  # noqa: E731
            self.queue.append([size, deadline, queue_up(self.semaphore, call)])
        else:
            self.semaphore.acquire(size, deadline=deadline)
            self.holders.append(size)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        size = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.semaphore.release(size)
        self.settle()

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds
        now = self.clock.time()
        for entry in [e for e in self.queue if e[1] is not None and e[1] <= now]:
            with pytest.raises(DeadlineExceeded):
                entry[2].outcome()
            self.queue.remove(entry)
        self.settle()

    @invariant()
    def the_budget_is_conserved(self) -> None:
        assert self.semaphore.balance == self.balance()
        assert self.semaphore.waiting == len(self.queue)
        assert not self.queue or self.balance() < 0

    def teardown(self) -> None:
        self.closing.set()
        for _, _, caller in self.queue:
            with pytest.raises(ClosedError):
                caller.outcome()
        for size in self.holders:
            self.semaphore.release(size)
        assert (self.semaphore.balance, self.semaphore.waiting) == (self.LIMIT, 0)


TestFifoAgainstModel = FifoMachine.TestCase
TestFifoAgainstModel.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("seed", [1, 2])
def test_four_hundred_threads_leak_nothing_and_never_exceed_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    limit = 5_000
    count, size = CountingSemaphore(40), BytesSemaphore(limit)
    lock = threading.Lock()
    held: List[int] = []
    faults: List[str] = []

    def work(jobs: List[Any]) -> None:
        for amount, patience in jobs:
            deadline = None if patience is None else time.monotonic() + patience
            try:
                count.acquire(deadline=deadline)
            except DeadlineExceeded:
                continue
            try:
                size.acquire(amount, deadline=deadline)
            except DeadlineExceeded:
                pass
            else:
                with lock:
                    # The last admitted may have overdrawn it; those before it may not.
                    if sum(held) - max(held + [0]) > limit or len(held) >= 40:
                        faults.append(f"{held} and {amount}")
                    held.append(amount)
                with lock:
                    held.remove(amount)
                size.release(amount)
            finally:
                count.release()

    plans = [
        [(rng.choice([10, 500, 2_000, 20_000]), rng.choice([None, None, 0.0, 0.001, 0.01])) for _ in range(10)]
        for _ in range(400)
    ]
    callers = [Caller(lambda plan=plan: work(plan)) for plan in plans]
    for caller in callers:
        caller.outcome()
    assert not faults
    assert (count.balance, count.waiting, size.balance, size.waiting) == (40, 0, limit, 0)
