"""Real client code under every order of its steps that the seeds choose, and bugs that are put in on purpose.

A hundredth of the schedules runs here; ``tox -e interleavings`` runs 100,000 of each scenario. A failure names its seed
and the command that runs the same schedule again.
"""

import logging
import os

import pytest
from interleaving_scenarios import (
    SCENARIOS,
    a_sample_ends_exactly_once,
    lanes_keep_the_order,
    semaphores_are_fair,
    semaphores_are_first_in_first_out,
    tokens_are_exchanged_once,
    workers_run_each_job_once,
)
from interleaving_scheduler import Failure, Scheduler, explore, replay

from tinkex_sync.concurrency.primitives import Event
from tinkex_sync.concurrency.timer import TimerHandle
from tinkex_sync.concurrency.workers import Lane, Workers
from tinkex_sync.http.auth import AuthTokens
from tinkex_sync.throttle import semaphores

#: Schedules of each scenario.
COUNT = int(os.environ.get("TINKEX_INTERLEAVINGS", "1000"))


@pytest.fixture(autouse=True)
def _quiet(caplog):
    logging.getLogger("tinkex_sync").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tinkex_sync").setLevel(logging.NOTSET)


@pytest.fixture
def seed(request):
    chosen = request.config.getoption("--interleaving-seed", default=None)
    return None if chosen is None else int(chosen)


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_no_schedule_breaks_an_invariant(scenario, seed):
    if seed is None:
        explore(scenario, COUNT)
    else:
        replay(scenario, seed)


# Bugs put in on purpose


class LeakingSemaphore(semaphores.CountingSemaphore):
    """A timeout that races with a grant keeps the place."""

    def leave(self, admission):
        with self._lock:
            if admission in self._waiters:
                self._waiters.remove(admission)


class BargingSemaphore(semaphores.CountingSemaphore):
    """A newcomer takes a free place before those that wait."""

    def enter(self, admission):
        with self._lock:
            if not self._has_room():
                self._waiters.append(admission)
                return False
            self._held += admission.size
            admission.is_granted = True
            return True

    def leave(self, admission):
        with self._lock:
            self._held -= admission.size
            admission.is_granted = False
        with self._lock:  # the place is free for a moment
            granted = self._grant()
        for other in granted:
            other.on_grant()


class RepeatingWorkers(Workers):
    """Closing returns the queued jobs, and the threads run them too."""

    def close(self):
        with self._lock:
            jobs = list(self._jobs)
        super().close()
        with self._lock:
            self._jobs.extend(jobs)
        return jobs


class UnguardedTokens(AuthTokens):
    """Each thread exchanges the key for itself."""

    def replaced(self, stale, deadline=None):
        with self._lock:
            if self._token is not None and self._token != stale:
                return self._token
        token = self.exchange(deadline)
        with self._lock:
            self._token = token
        return token


class UnorderedLane(Lane):
    """Jobs that are submitted together are queued one by one."""

    def submit(self, *jobs):
        for job in reversed(jobs):
            super().submit(job)
        return True


def _never_expires(session):
    """Make submitted samples ignore their deadline while they wait."""
    session.timer.at = lambda time, function: TimerHandle(function, lambda: None)


#: Each bug: the scenario that finds it, and the arguments that put it in.
BUGS = {
    "a place is leaked when a timeout races with a grant": (semaphores_are_fair, {"counting": LeakingSemaphore}),
    "a newcomer overtakes those that wait": (semaphores_are_first_in_first_out, {"counting": BargingSemaphore}),
    "a job runs although closing has returned it": (workers_run_each_job_once, {"kind": RepeatingWorkers}),
    "two exchanges run at the same time": (tokens_are_exchanged_once, {"kind": UnguardedTokens}),
    "jobs that belong together change their order": (lanes_keep_the_order, {"kind": UnorderedLane}),
    "a submitted sample ignores its timeout": (a_sample_ends_exactly_once, {"prepare": _never_expires}),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(bug):
    scenario, arguments = BUGS[bug]
    with pytest.raises(Failure, match="run it again"):
        explore(scenario, 400, **arguments)


def handlers_may_set_an_event(scheduler, kind=Event):
    """A signal handler sets an event at any step of the thread that waits for it."""
    event = kind()
    done = []

    def wait():
        thread = scheduler._current
        scheduler.interrupts[thread] = event.set
        event.wait(5.0)
        done.append(1)

    scheduler.spawn(wait, name="waiter").join()
    assert done


class LockedEvent:
    """An event whose ``set`` takes a lock that ``wait`` holds, as that of the standard library."""

    def __init__(self):
        from tinkex_sync.concurrency import primitives

        self._lock, self._event = primitives.Lock(), Event()

    def set(self):
        with self._lock:
            self._event.set()

    def wait(self, timeout=None):
        from tinkex_sync.concurrency import primitives

        with self._lock:
            primitives.Lock().acquire()  # a step during which a signal may arrive
        return self._event.wait(timeout)


def test_an_event_can_be_set_by_a_signal_handler_at_any_instruction():
    explore(handlers_may_set_an_event, min(COUNT, 500))
    with pytest.raises(Failure, match="wait for ever"):
        explore(handlers_may_set_an_event, 400, kind=LockedEvent)


def test_the_same_seed_gives_the_same_schedule():
    first, second = (replay(a_sample_ends_exactly_once, 12) for _ in range(2))
    names = [[step.partition(":")[0] for step in run.schedule] for run in (first, second)]
    assert names[0] == names[1] and len(names[0]) > 50


def test_locks_that_are_taken_in_both_orders_are_found():
    def scenario(scheduler):
        from tinkex_sync.concurrency.primitives import Lock

        one, two = Lock(), Lock()

        def work(first, second):
            with first, second:
                pass

        for thread in [scheduler.spawn(work, one, two), scheduler.spawn(work, two, one)]:
            thread.join()

    with pytest.raises(Failure, match="both orders|wait for ever"):
        explore(scenario, 50)


def test_a_schedule_ends_in_virtual_time():
    scheduler = Scheduler(1)
    scheduler.run(lambda one: one.pause(86_400.0))
    assert scheduler.now >= 1000.0 + 86_400.0
