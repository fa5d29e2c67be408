"""The base class for plugins that do I/O: order, limits, failures, closing and forking."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, List, Sequence

import pytest
from hook_examples import EVENTS, facts

from tinkex_sync.plugins.hookspecs import hookimpl
from tinkex_sync.plugins.queued_observer import QueuedObserver, observe_all
from tinkex_sync.plugins.registry import Observers


class Recorder(QueuedObserver):
    """Keeps the events that it handles; a test can block it in ``handle()``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.handled: List[Any] = []
        self.finished = 0
        self.busy = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.threads: List[threading.Thread] = []

    def handle(self, events: Sequence[Any]) -> None:
        self.threads.append(threading.current_thread())
        self.busy.set()
        assert self.go.wait(30)
        self.handled.extend(events)

    def finish(self) -> None:
        self.finished += 1


def soon() -> float:
    return time.monotonic() + 30


def now() -> float:
    return time.monotonic()


def test_events_are_handled_in_order_by_one_daemon_thread() -> None:
    observer = Recorder()
    for number in range(1000):
        observer.put(number)
    assert observer.flush(soon())
    assert observer.handled == list(range(1000))
    [thread] = set(observer.threads)
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread.name == "tinkex-Recorder"
    assert observer.close(soon())


def test_close_handles_all_events_and_ends_the_thread() -> None:
    observer = Recorder()
    for number in range(700):
        observer.put(number)
    assert observer.close(soon())
    assert observer.handled == list(range(700))
    assert observer.finished == 1
    observer.threads[0].join(30)
    assert not observer.threads[0].is_alive()
    assert observer.close(soon())  # There is no thread any more.
    assert observer.finished == 1


def test_event_after_close_starts_the_thread_again() -> None:
    observer = Recorder()
    observer.put(1)
    assert observer.close(soon())
    observer.put(2)
    assert observer.close(soon())
    assert observer.handled == [1, 2]
    assert observer.finished == 2


def test_full_queue_drops_the_oldest_events_without_blocking(caplog: pytest.LogCaptureFixture) -> None:
    observer = Recorder(capacity=3)
    observer.go.clear()
    observer.put("handled")
    assert observer.busy.wait(30)
    for number in range(10):
        observer.put(number)
    assert observer.dropped == 7
    observer.go.set()
    assert observer.flush(soon())
    assert observer.handled == ["handled", 7, 8, 9]
    assert [record.getMessage() for record in caplog.records] == [
        "Recorder is too slow for its events and drops the oldest ones"
    ]
    observer.close(soon())


def test_flush_waits_for_the_current_batch_if_later_events_were_dropped() -> None:
    observer = Recorder(capacity=1)
    observer.go.clear()
    observer.put("handled")
    assert observer.busy.wait(30)
    assert not observer.flush(now())
    for number in range(5):
        observer.put(number)
    assert not observer.flush(now())
    observer.go.set()
    assert observer.flush(soon())
    assert observer.handled == ["handled", 4]
    observer.close(soon())


def test_close_drops_and_counts_events_left_at_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    observer = Recorder()
    observer.go.clear()
    observer.put("handled")
    assert observer.busy.wait(30)
    for number in range(10):
        observer.put(number)
    assert not observer.close(now())
    assert observer.dropped == 10
    assert [record.getMessage() for record in caplog.records] == [
        "Recorder was closed and dropped events that it had not handled: dropped=10"
    ]
    observer.go.set()
    assert observer.close(soon())
    assert observer.handled == ["handled"]


def test_error_in_handle_loses_only_the_events_of_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Recorder):
        def handle(self, events: Sequence[Any]) -> None:
            if "bad" in events:
                raise OSError("disk full")
            super().handle(events)

    observer = Failing()
    for event in ("bad", "good", "bad", "good"):
        observer.put(event)
        assert observer.flush(soon())
    assert observer.close(soon())
    assert observer.handled == ["good", "good"]
    assert observer.failed == 2
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is not None


def test_concurrent_put_flush_and_close_lose_no_event() -> None:
    observer = Recorder(capacity=100_000)
    start = threading.Barrier(18)

    def put(first: int) -> None:
        start.wait(30)
        for number in range(500):
            observer.put((first, number))

    def flush_and_close() -> None:
        start.wait(30)
        for _ in range(50):
            assert observer.flush(soon())
            assert observer.close(soon())

    threads = [threading.Thread(target=put, args=(first,)) for first in range(16)]
    threads += [threading.Thread(target=flush_and_close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert observer.close(soon())
    assert observer.dropped == 0
    assert len(observer.handled) == 8000
    for first in range(16):
        assert [number for thread, number in observer.handled if thread == first] == list(range(500))


def test_close_in_the_thread_of_the_observer_returns_false_immediately() -> None:
    class Closing(Recorder):
        def handle(self, events: Sequence[Any]) -> None:
            self.handled.append(self.close(soon()))

    observer = Closing()
    observer.put(1)
    assert observer.flush(soon())
    assert observer.handled == [False]
    observer.close(soon())


def test_capacity_below_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        Recorder(capacity=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_has_an_empty_queue_and_a_new_thread() -> None:
    observer = Recorder()
    observer.go.clear()
    observer.put("parent 1")
    assert observer.busy.wait(30)
    observer.put("parent 2")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            observer.go = threading.Event()
            observer.go.set()
            observer.put("child")
            observer.close(soon())
            os.write(write, repr(observer.handled).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == repr(["child"])
    os.waitpid(child, 0)
    observer.go.set()
    assert observer.close(soon())
    assert observer.handled == ["parent 1", "parent 2"]


def test_observer_receives_session_closed_before_it_is_closed() -> None:
    class Ending(Recorder):
        @hookimpl
        def tinkex_session_closed(self, source: object) -> None:
            self.put("closed")

    observer = Ending()
    observers = Observers([observer], autoload=False, strict=True)
    assert observers.session_closed is not None
    observers.session_closed(**facts("session_closed"))
    assert observers.close(30)
    assert observer.handled == ["closed"]
    assert observer.finished == 1


def test_observe_all_implements_every_event_hook() -> None:
    class All:
        def __init__(self) -> None:
            observe_all(self, lambda hook, facts: None)

    [status] = Observers([All()], autoload=False, strict=True).report()
    assert status.hooks == tuple(sorted("tinkex_" + hook for hook in EVENTS))
    assert "tinkex_register_commands" not in status.hooks
