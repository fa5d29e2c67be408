"""Clocks: time that never goes back, waits that end by event or timeout, and clocks that run faster."""

import signal
import threading
import time

import pytest

from tinkex_sync.concurrency.clock import Clock, ScaledClock, remaining, wait_interruptibly
from tinkex_sync.concurrency.primitives import Event


@pytest.mark.parametrize("clock", [Clock(), ScaledClock(50)], ids=lambda clock: type(clock).__name__)
def test_a_wait_ends_when_its_event_is_set(clock):
    event = Event()
    threading.Timer(0.02, event.set).start()
    assert clock.wait(event, 10_000.0)
    assert clock.wait(event, 0.0)


def test_a_wait_ends_after_its_timeout():
    clock = Clock()
    started = clock.time()
    assert not clock.wait(Event(), 0.05)
    assert 0.05 <= clock.time() - started < 5


def test_a_scaled_clock_shortens_waits_and_socket_timeouts_by_its_speed():
    clock = ScaledClock(1000)
    began, started = time.monotonic(), clock.time()
    assert not clock.wait(Event(), 60.0)
    assert clock.time() - started >= 60.0
    assert time.monotonic() - began < 10
    assert (clock.real(60.0), Clock().real(60.0)) == (0.06, 60.0)


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_speed_that_is_not_positive_is_refused(speed):
    with pytest.raises(ValueError, match=f"speed must be > 0, got {speed}"):
        ScaledClock(speed)


def test_the_remaining_time_is_never_negative_and_none_without_a_deadline():
    clock = Clock()
    assert remaining(clock, None) is None
    assert remaining(clock, clock.time() - 1.0) == 0.0
    assert 59.0 < remaining(clock, clock.time() + 60.0) <= 60.0


def test_ctrl_c_ends_a_wait_of_the_main_thread_that_another_thread_received():
    """The signal arrives while another thread runs, so it does not end the wait of the main thread by itself."""

    class Slept(Exception):
        pass

    def handler(*_):
        raise Slept

    previous = signal.signal(signal.SIGINT, handler)
    other = threading.Timer(0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
    try:
        other.start()
        started = time.monotonic()
        with pytest.raises(Slept):
            wait_interruptibly(Event(), 60.0)
        assert time.monotonic() - started < 5
    finally:
        signal.signal(signal.SIGINT, previous)
        other.join()
