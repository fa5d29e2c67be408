"""The timer calls functions at their times, cancels them, and has a thread only while it is needed."""

import threading
import time

import pytest

from tinkex_sync.concurrency.clock import Clock, ScaledClock
from tinkex_sync.concurrency.timer import Timer

pytestmark = pytest.mark.usefixtures("no_threads_left")


@pytest.fixture
def timer():
    made = Timer(Clock())
    yield made
    made.close()


def wait_gone(name):
    ends, tick = time.monotonic() + 5, threading.Event()
    while any(thread.name == name for thread in threading.enumerate()):
        assert time.monotonic() < ends
        tick.wait(0.005)


def test_functions_run_in_the_order_of_their_times(timer):
    done, all_done = [], threading.Event()
    now = Clock().time()
    timer.at(now + 0.06, lambda: (done.append("late"), all_done.set()))
    timer.at(now + 0.03, lambda: done.append("early"))
    timer.at(now - 1.0, lambda: done.append("past"))
    assert all_done.wait(5)
    assert done == ["past", "early", "late"]
    assert Clock().time() >= now + 0.06


def test_an_earlier_time_wakes_a_timer_that_waits_for_a_later_one(timer):
    early = threading.Event()
    timer.at(Clock().time() + 3600, lambda: None)
    timer.at(Clock().time() + 0.01, early.set)
    assert early.wait(5)


def test_a_cancelled_function_never_runs(timer):
    ran, after = [], threading.Event()
    now = Clock().time()
    handle = timer.at(now + 0.02, lambda: ran.append(1))
    handle.cancel()
    handle.cancel()
    timer.at(now + 0.04, after.set)
    assert after.wait(5)
    assert ran == []


def test_cancelling_after_the_call_does_nothing(timer):
    ran = threading.Event()
    handle = timer.at(Clock().time(), ran.set)
    assert ran.wait(5)
    handle.cancel()


def test_cancelled_entries_are_removed_from_the_heap(timer):
    for _ in range(10_000):
        timer.at(Clock().time() + 3600, lambda: None).cancel()
    assert len(timer._heap) <= 130


def test_an_exception_in_one_function_does_not_prevent_the_calls_of_others(timer, caplog):
    after = threading.Event()
    now = Clock().time()
    timer.at(now, lambda: 1 / 0)
    timer.at(now + 0.01, after.set)
    assert after.wait(5)
    assert "Timed function failed" in caplog.text


def test_the_thread_ends_without_scheduled_calls_and_starts_again_with_the_next(monkeypatch):
    monkeypatch.setattr(Timer, "_linger", 0.01)
    timer = Timer(Clock(), "tinkex-timer-lingers")
    for _ in range(3):
        ran = threading.Event()
        timer.at(Clock().time(), ran.set)
        assert ran.wait(5)
        wait_gone("tinkex-timer-lingers")


def test_close_ends_the_thread_and_drops_scheduled_calls():
    timer, ran = Timer(Clock(), "tinkex-timer-closed"), []
    timer.at(Clock().time() + 3600, lambda: ran.append(1))
    timer.close()
    wait_gone("tinkex-timer-closed")
    timer.at(Clock().time(), lambda: ran.append(1)).cancel()
    timer.close()
    assert not any(thread.name == "tinkex-timer-closed" for thread in threading.enumerate())
    assert ran == []


def test_times_are_times_of_the_given_clock():
    clock = ScaledClock(100)
    timer, ran = Timer(clock), threading.Event()
    asked = clock.time()
    timer.at(asked + 5, ran.set)
    assert ran.wait(5)
    assert clock.time() >= asked + 5
    timer.close()


def test_calls_scheduled_and_cancelled_by_many_threads_run_exactly_once_or_never(timer):
    count, lock, done = [0], threading.Lock(), threading.Event()

    def hit():
        with lock:
            count[0] += 1
            if count[0] == 800:
                done.set()

    def work():
        for index in range(200):
            handle = timer.at(Clock().time() + 0.001 * (index % 7), hit if index % 2 else lambda: None)
            if not index % 2:
                handle.cancel()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.wait(5)
