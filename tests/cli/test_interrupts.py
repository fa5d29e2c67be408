"""Deferred Ctrl-C: the first one is noted, the second one raises, and the previous handler is restored."""

import signal
import threading

import pytest

from tinkex_sync.cli.interrupts import DeferredInterrupt


def test_the_first_ctrl_c_is_noted_and_the_second_one_raises():
    noted = []
    before = signal.getsignal(signal.SIGINT)
    with DeferredInterrupt(lambda: noted.append(1)) as interrupt:
        assert not interrupt.is_requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.is_requested
        assert noted == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert noted == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_it_has_no_effect():
    failures = []

    def enter():
        try:
            with DeferredInterrupt(lambda: None) as interrupt:
                assert not interrupt.is_requested
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failures
