"""Daemon threads that run jobs: pools that grow on demand, and lanes that keep order."""

from __future__ import annotations

import collections
import itertools
from contextlib import contextmanager, suppress
from typing import Callable, Deque, Iterator, List, Set

from ..errors import ThreadStartError
from ..logs import get_logger
from .clock import Clock
from .primitives import Event, Lock, start_thread
from .timer import Timer

_log = get_logger(__name__)

Job = Callable[[], None]

#: Seconds for which an idle thread stays, so that the next burst of jobs starts no threads.
_LINGER = 5.0


def _run_safely(job: Job) -> None:
    try:
        job()
    except Exception:
        # Jobs resolve their own futures. An exception here is a defect of the client, and the thread must survive it.
        _log.exception("Background job failed")


class _Pool:
    """Runs jobs on daemon threads, which take them from one queue in order of arrival. Thread-safe.

    Invariants: A thread is idle, runs a job, or has ended. For each queued job, an idle thread has been woken, or no
    thread was idle when the job arrived. Every thread takes queued jobs before it becomes idle or ends. A thread that
    is not in ``_threads`` runs nothing: it was started when its start seemed to have failed.

    Args:
        active: Number of threads that start as jobs arrive.
        names: Names of the threads.
    """

    def __init__(self, active: int, names: Iterator[str]) -> None:
        self._active = active
        self._names = names  # guarded by _lock
        self._lock = Lock()
        self._jobs: Deque[Job] = collections.deque()  # guarded by _lock
        self._idle: List[Event] = []  # guarded by _lock; the event that wakes each idle thread
        self._threads: Set[Event] = set()  # guarded by _lock; the event that wakes each thread
        self._taken = 0  # guarded by _lock; number of jobs taken from the queue
        self._closed = False  # guarded by _lock

    def submit(self, *jobs: Job) -> bool:
        """Queue jobs directly after one another. Never blocks.

        Returns:
            False if the pool is closed; then none of them runs.

        Raises:
            ThreadStartError: The pool has no thread and cannot start one. None of the jobs runs.
        """
        with self._lock:
            if self._closed:
                return False
            has_thread = bool(self._threads)
            if not has_thread:
                self._start()
            self._jobs.extend(jobs)
            for _ in jobs if has_thread else jobs[1:]:
                if self._idle:
                    # Last in, first out: the thread that ran last is still in the caches, and the others may end.
                    self._idle.pop().set()
                elif len(self._threads) < self._active:
                    with suppress(ThreadStartError):  # The other threads run the job.
                        self._start()
                else:
                    self._watch()
        return True

    def _start(self) -> None:
        """Start one thread. Call with ``_lock`` held."""
        wake = Event()
        start_thread(self._work, next(self._names), wake)  # It begins when the lock is free.
        self._threads.add(wake)

    def _watch(self) -> None:
        """Note that a job must wait for a thread. Call with ``_lock`` held."""

    def _work(self, wake: Event) -> None:
        is_woken = True
        while True:
            job = None
            with self._lock:
                if wake not in self._threads:
                    return
                if not is_woken and wake in self._idle:
                    self._idle.remove(wake)
                if self._jobs:
                    job = self._jobs.popleft()
                    self._taken += 1
                elif self._closed or not is_woken:
                    self._threads.discard(wake)
                    return
                else:
                    wake.clear()
                    self._idle.append(wake)
            if job is None:
                is_woken = wake.wait(_LINGER)
            else:
                _run_safely(job)
                # The frame of an idle thread must not keep a finished job's closure alive.
                del job

    def close(self) -> List[Job]:
        """Accept no more jobs. Running jobs continue, and their threads end afterwards. Idempotent.

        Returns:
            The queued jobs, which do not run.
        """
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
            self._jobs.clear()
            while self._idle:
                self._idle.pop().set()
        return jobs


class Lane(_Pool):
    """Runs jobs one after another in order of submission, on one daemon thread that ends when idle. Thread-safe."""

    def __init__(self, name: str) -> None:
        super().__init__(1, itertools.repeat(f"tinkex-{name}"))


class Workers(_Pool):
    """Runs jobs on daemon threads in order of arrival, at most ``limit`` at the same time. Thread-safe.

    Up to ``active`` threads start as jobs arrive. More threads start only while all of them are in :meth:`waiting`
    sections and no job has been taken for a moment, because additional computing threads compete for the
    interpreter's lock.
    """

    #: Seconds between two checks whether more threads are needed while jobs are queued.
    _tick = 0.01

    def __init__(self, name: str, clock: Clock, timer: Timer, *, active: int, limit: int) -> None:
        super().__init__(min(active, limit), (f"tinkex-{name}-{number}" for number in itertools.count(1)))
        self._clock = clock
        self._timer = timer
        self._limit = limit
        self._waiting = 0  # guarded by _lock; number of threads in waiting() sections
        self._is_watching = False  # guarded by _lock; whether a check is scheduled

    def _watch(self) -> None:
        """Check soon whether more threads are needed. Call with ``_lock`` held."""
        if self._is_watching or len(self._threads) >= self._limit:
            return
        taken = self._taken
        with suppress(ThreadStartError):  # The next job tries again.
            self._timer.at(self._clock.time() + self._tick, lambda: self._grow(taken))
            self._is_watching = True

    def _grow(self, taken: int) -> None:
        with self._lock:
            self._is_watching = False
            if self._closed or not self._jobs:
                return
            threads = len(self._threads)
            if taken == self._taken and self._waiting >= threads:
                with suppress(ThreadStartError):  # The next check tries again.
                    for _ in range(min(len(self._jobs), threads, self._limit - threads)):
                        self._start()
            self._watch()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the part of a job in which its thread only waits for the network."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
