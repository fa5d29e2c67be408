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


class Keeping(QueuedObserver):
    """Keeps what it handles; can be stopped in the middle of it."""

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


def test_events_are_handled_in_order_on_a_daemon_thread_of_its_own() -> None:
    observer = Keeping()
    for number in range(1000):
        observer.put(number)
    assert observer.flush(soon())
    assert observer.handled == list(range(1000))
    [thread] = set(observer.threads)
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread.name == "tinkex-Keeping"
    assert observer.close(soon())


def test_closing_handles_everything_finishes_and_ends_the_thread() -> None:
    observer = Keeping()
    for number in range(700):
        observer.put(number)
    assert observer.close(soon())
    assert observer.handled == list(range(700))
    assert observer.finished == 1
    observer.threads[0].join(30)
    assert not observer.threads[0].is_alive()
    assert observer.close(soon())  # again, without a thread
    assert observer.finished == 1


def test_a_closed_observer_goes_on_with_the_next_event() -> None:
    observer = Keeping()
    observer.put(1)
    assert observer.close(soon())
    observer.put(2)
    assert observer.close(soon())
    assert observer.handled == [1, 2]
    assert observer.finished == 2


def test_putting_never_blocks_and_the_oldest_events_make_room(caplog: pytest.LogCaptureFixture) -> None:
    observer = Keeping(capacity=3)
    observer.go.clear()
    observer.put("in hand")
    assert observer.busy.wait(30)
    for number in range(10):
        observer.put(number)
    assert observer.dropped == 7
    observer.go.set()
    assert observer.flush(soon())
    assert observer.handled == ["in hand", 7, 8, 9]
    assert [record.getMessage() for record in caplog.records] == [
        "Keeping cannot keep up: its oldest events are dropped"
    ]
    observer.close(soon())


def test_flushing_waits_for_what_is_in_hand_even_if_what_came_later_was_dropped() -> None:
    observer = Keeping(capacity=1)
    observer.go.clear()
    observer.put("in hand")
    assert observer.busy.wait(30)
    assert not observer.flush(now())
    for number in range(5):
        observer.put(number)
    assert not observer.flush(now())
    observer.go.set()
    assert observer.flush(soon())
    assert observer.handled == ["in hand", 4]
    observer.close(soon())


def test_closing_out_of_time_drops_and_counts_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    observer = Keeping()
    observer.go.clear()
    observer.put("in hand")
    assert observer.busy.wait(30)
    for number in range(10):
        observer.put(number)
    assert not observer.close(now())
    assert observer.dropped == 10
    assert [record.getMessage() for record in caplog.records] == [
        "Keeping was closed before it had handled 10 events"
    ]
    observer.go.set()
    assert observer.close(soon())
    assert observer.handled == ["in hand"]


def test_a_handler_that_raises_loses_its_events_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Keeping):
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


def test_sixteen_threads_lose_nothing_while_others_flush_and_close() -> None:
    observer = Keeping(capacity=100_000)
    start = threading.Barrier(18)

    def put(first: int) -> None:
        start.wait(30)
        for number in range(500):
            observer.put((first, number))

    def disturb() -> None:
        start.wait(30)
        for _ in range(50):
            assert observer.flush(soon())
            assert observer.close(soon())

    threads = [threading.Thread(target=put, args=(first,)) for first in range(16)]
    threads += [threading.Thread(target=disturb) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert observer.close(soon())
    assert observer.dropped == 0
    assert len(observer.handled) == 8000
    for first in range(16):
        assert [number for thread, number in observer.handled if thread == first] == list(range(500))


def test_closing_from_its_own_thread_does_not_wait_for_itself() -> None:
    class Closing(Keeping):
        def handle(self, events: Sequence[Any]) -> None:
            self.handled.append(self.close(soon()))

    observer = Closing()
    observer.put(1)
    assert observer.flush(soon())
    assert observer.handled == [False]
    observer.close(soon())


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1, not 0"):
        Keeping(capacity=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_starts_with_an_empty_queue_and_a_thread_of_its_own() -> None:
    observer = Keeping()
    observer.go.clear()
    observer.put("parent's")
    assert observer.busy.wait(30)
    observer.put("parent's too")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            observer.go = threading.Event()
            observer.go.set()
            observer.put("child's")
            observer.close(soon())
            os.write(write, repr(observer.handled).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == repr(["child's"])
    os.waitpid(child, 0)
    observer.go.set()
    assert observer.close(soon())
    assert observer.handled == ["parent's", "parent's too"]


def test_it_is_closed_with_the_client_and_hears_of_the_end() -> None:
    class Ending(Keeping):
        @hookimpl
        def tinkex_session_closed(self, source: object) -> None:
            self.put("closed")

    observer = Ending()
    told = Observers([observer], autoload=False, strict=True)
    assert told.session_closed is not None
    told.session_closed(**facts("session_closed"))
    assert told.close(30)
    assert observer.handled == ["closed"]
    assert observer.finished == 1


def test_observing_all_implements_every_event_and_no_set_up_hook() -> None:
    class All:
        def __init__(self) -> None:
            observe_all(self, lambda hook, told: None)

    [status] = Observers([All()], autoload=False, strict=True).report()
    assert status.hooks == tuple(sorted("tinkex_" + hook for hook in EVENTS))
    assert "tinkex_register_commands" not in status.hooks
