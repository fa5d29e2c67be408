"""Events and threads of the client: signal-safe, replaceable, and made in one module only."""

import ast
import signal
import threading
import time
from pathlib import Path

import pytest
from throttle_examples import until

import tinkex_sync
from tinkex_sync.concurrency.primitives import Event, Lock, replace_primitives, start_thread

PACKAGE = Path(tinkex_sync.__file__).parent
#: The embedded server and the command line are separate programs.
EXCEPTED = {"cli", "local"}
MADE_HERE = {"Lock", "RLock", "Event", "Condition", "Semaphore", "BoundedSemaphore", "Thread", "Timer", "Barrier"}


def direct_calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.startswith(("threading.", "_thread.", "queue.")) and name.split(".")[1] in MADE_HERE | {
                "Queue",
                "SimpleQueue",
                "allocate_lock",
                "start_new_thread",
            }:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno} calls {name}"


def test_locks_events_and_threads_are_made_in_primitives_only():
    found = [
        call
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in EXCEPTED and path.name != "primitives.py"
        for call in direct_calls(path)
    ]
    assert found == []


def test_an_event_that_is_set_ends_every_wait():
    event, woken = Event(), []
    threads = [start_thread(lambda: woken.append(event.wait(10)), "test-waiter") for _ in range(50)]
    until(lambda: len(event._waiters) == 50)
    event.set()
    for thread in threads:
        thread.join(10)
    assert woken == [True] * 50
    assert event.is_set() and event.wait(0) and event.wait()
    assert event._waiters == []


def test_a_wait_ends_after_its_timeout_and_leaves_no_waiter():
    event = Event()
    began = time.monotonic()
    assert not event.wait(0.02)
    assert time.monotonic() - began >= 0.02
    assert not event.wait(0) and not event.wait(-1)
    assert event._waiters == []


def test_a_timeout_longer_than_the_system_supports_is_shortened():
    event = Event()
    thread = start_thread(event.wait, "test-waiter", threading.TIMEOUT_MAX * 10)
    event.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_cleared_event_waits_again():
    event = Event()
    event.set()
    event.clear()
    assert not event.is_set() and not event.wait(0.001)


def test_no_wake_is_lost_between_one_setter_and_one_waiter_that_clears():
    ask, answer, rounds = Event(), Event(), 2000

    def response():
        for _ in range(rounds):
            assert ask.wait(10)
            ask.clear()
            answer.set()

    thread = start_thread(response, "test-response")
    for _ in range(rounds):
        ask.set()
        assert answer.wait(10)
        answer.clear()
    thread.join(10)
    assert not thread.is_alive()


def test_a_signal_handler_may_set_the_event_that_its_thread_sets_or_waits_for():
    """A handler runs between any two bytecodes of the main thread, inside `set` and `wait` too."""
    event = Event()
    before = signal.signal(signal.SIGALRM, lambda *_: event.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        ends = time.monotonic() + 0.3
        while time.monotonic() < ends:
            event.clear()
            event.set()
            event.clear()
            assert event.wait(10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_started_threads_are_daemons_with_name_and_arguments():
    seen, done = [], Event()
    thread = start_thread(lambda *given: (seen.append(given), done.set()), "test-thread", 1, 2)
    assert done.wait(10)
    assert (thread.name, thread.daemon, seen) == ("test-thread", True, [(1, 2)])


@pytest.fixture
def counting_locks():
    made = []

    def make_lock():
        made.append(threading.Lock())
        return made[-1]

    before = replace_primitives(make_lock)
    yield made
    replace_primitives(*before)


def test_tests_can_replace_what_locks_and_events_are_made_of(counting_locks):
    assert Lock() is counting_locks[0]
    assert not Event().wait(0.001)
    assert len(counting_locks) == 2
