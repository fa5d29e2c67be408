"""One signal wakes every waiter of a closed client, without periodic checks."""

import signal
import threading
import time

import pytest
from throttle_examples import until

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.close_signal import CloseSignal
from tinkex_sync.concurrency.primitives import Event, start_thread


def test_the_signal_sets_every_registered_event():
    closing, events = CloseSignal(), [Event() for _ in range(3)]
    with closing.waking(events[0]), closing.waking(events[1]):
        with closing.waking(events[2]):
            pass
        closing.set()
    assert [event.is_set() for event in events] == [True, True, False]
    assert closing.is_set()


def test_an_event_registered_after_the_signal_is_set_immediately():
    closing, event = CloseSignal(), Event()
    closing.set()
    with closing.waking(event):
        assert event.is_set()


def test_one_event_may_be_registered_by_two_threads():
    closing, event = CloseSignal(), Event()
    with closing.waking(event):
        with closing.waking(event):
            pass
        closing.set()
        assert event.is_set()


def test_setting_twice_does_nothing_and_clearing_is_an_error():
    closing = CloseSignal()
    closing.set()
    closing.set()
    with pytest.raises(RuntimeError, match="cannot be cleared"):
        closing.clear()


def test_hundreds_of_waiters_wake_within_a_second():
    closing, woken, lock = CloseSignal(), [], threading.Lock()

    def wait(index):
        event = closing if index % 2 else Event()
        with closing.waking(event):
            assert Clock().wait(event, 60)
        with lock:
            woken.append(index)

    threads = [start_thread(wait, "test-waiter", index) for index in range(400)]
    until(lambda: len(closing._events) == 400)
    began = time.monotonic()
    closing.set()
    for thread in threads:
        thread.join(10)
    assert len(woken) == 400
    assert time.monotonic() - began < 1.0
    assert closing._events == {}


def test_a_signal_handler_may_set_it_at_any_point_of_its_thread():
    for _ in range(30):
        closing = CloseSignal()
        before = signal.signal(signal.SIGALRM, lambda *_, closing=closing: closing.set())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            ends = time.monotonic() + 10
            while not closing.is_set():
                event = Event()
                with closing.waking(event):
                    event.wait(0.00001)
                assert time.monotonic() < ends
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def test_registering_while_the_signal_is_set_loses_no_wake():
    for _ in range(200):
        closing, events = CloseSignal(), [Event() for _ in range(8)]
        started = threading.Barrier(9)

        def wait(event, closing=closing, started=started):
            started.wait(10)
            with closing.waking(event):
                assert event.wait(10)

        threads = [start_thread(wait, "test-waiter", event) for event in events]
        started.wait(10)
        closing.set()
        for thread in threads:
            thread.join(10)
        assert all(event.is_set() for event in events)
