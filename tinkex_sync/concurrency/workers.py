"""Daemon threads that run jobs: pools that grow on demand, and lanes that keep order."""

from __future__ import annotations

import collections
from contextlib import contextmanager, suppress
from typing import Callable, Deque, Iterator, List, Optional

from ..errors import ThreadStartError
from ..logs import get_logger
from .clock import Clock
from .primitives import Event, Lock, start_thread
from .timer import Timer

__all__ = ["Lane", "Workers"]

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


class _IdleThread:
    """A thread that waits for a job, and the job that it is given."""

    __slots__ = ("event", "job")

    def __init__(self) -> None:
        self.event = Event()
        self.job: List[Job] = []


class Workers:
    """Runs jobs on daemon threads in order of arrival, at most ``limit`` at the same time. Thread-safe.

    Up to ``active`` threads start as jobs arrive. More threads start only while all of them are in :meth:`waiting`
    sections and no job has been taken for a moment, because additional computing threads compete for the
    interpreter's lock.

    Invariants: while a job is queued, no thread is idle. A thread is idle, runs a job, or has ended.
    """

    #: Seconds between two checks whether more threads are needed while jobs are queued.
    _tick = 0.01

    def __init__(self, name: str, clock: Clock, timer: Timer, *, active: int, limit: int) -> None:
        self._name = name
        self._clock = clock
        self._timer = timer
        self._active = min(active, limit)
        self._limit = limit
        self._lock = Lock()
        self._jobs: Deque[Job] = collections.deque()  # guarded by _lock
        self._idle: List[_IdleThread] = []  # guarded by _lock
        self._threads = 0  # guarded by _lock
        self._taken = 0  # guarded by _lock
        self._waiting = 0  # guarded by _lock
        self._watching = False  # guarded by _lock
        self._closed = False  # guarded by _lock
        self._started = 0  # guarded by _lock

    def submit(self, job: Job) -> bool:
        """Queue a job. Never blocks.

        Returns:
            False if the pool is closed; then the job does not run.

        Raises:
            ThreadStartError: The pool has no thread, and none can be started. The job does not run.
        """
        with self._lock:
            if self._closed:
                return False
            if self._idle:
                # Last in, first out: the thread that ran last is still in the caches, and the others may end.
                idle = self._idle.pop()
                idle.job.append(job)
                idle.event.set()
                return True
            self._jobs.append(job)
            if self._threads < self._active:
                try:
                    self._start()
                except ThreadStartError:
                    if not self._threads:
                        self._jobs.clear()
                        raise
            elif not self._watching and self._threads < self._limit:
                self._watch()
        return True

    def _start(self) -> None:
        """Start one thread. Call with ``_lock`` held."""
        self._started += 1
        start_thread(self._work, f"tinkex-{self._name}-{self._started}")  # It begins when the lock is free.
        self._threads += 1

    def _watch(self) -> None:
        """Check soon whether more threads are needed. Call with ``_lock`` held."""
        self._watching = True
        taken = self._taken
        try:
            self._timer.at(self._clock.time() + self._tick, lambda: self._grow(taken))
        except ThreadStartError:
            self._watching = False  # The next job tries again.

    def _grow(self, taken: int) -> None:
        with self._lock:
            self._watching = False
            if self._closed or not self._jobs or self._threads >= self._limit:
                return
            if taken == self._taken and self._waiting >= self._threads:
                with suppress(ThreadStartError):
                    for _ in range(min(len(self._jobs), self._threads, self._limit - self._threads)):
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

    def _work(self) -> None:
        idle = _IdleThread()
        while True:
            with self._lock:
                if self._jobs:
                    job = self._jobs.popleft()
                    self._taken += 1
                elif self._closed:
                    self._threads -= 1
                    return
                else:
                    self._idle.append(idle)
                    job = None
            if job is None:
                idle.event.wait(_LINGER)
                with self._lock:
                    if idle.job:
                        job = idle.job.pop()
                        idle.event.clear()
                        self._taken += 1
                    else:
                        # Its time is over, or the pool was closed.
                        if idle in self._idle:
                            self._idle.remove(idle)
                        self._threads -= 1
                        return
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
            idle, self._idle = self._idle, []
            for one in idle:
                one.event.set()
        return jobs


class Lane:
    """Runs jobs one after another in order of submission, on one daemon thread that ends when idle. Thread-safe.

    Invariant: at most one thread runs jobs of a lane, and it runs while jobs are queued.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()
        self._jobs: Deque[Job] = collections.deque()  # guarded by _lock
        self._worker: Optional[object] = None  # the key of the running thread; guarded by _lock
        self._closed = False  # guarded by _lock
        self._more = Event()

    def submit(self, *jobs: Job) -> bool:
        """Queue jobs that run directly after one another. Never blocks.

        Returns:
            False if the lane is closed; then none of them runs.

        Raises:
            ThreadStartError: No thread can be started. None of the jobs runs.
        """
        with self._lock:
            if self._closed:
                return False
            if self._worker is None:
                # If the start is interrupted, the thread may run. Without the key it ends, and the next one runs.
                key = object()
                start_thread(self._work, f"tinkex-{self._name}", key)
                self._worker = key
            self._jobs.extend(jobs)
            self._more.set()
        return True

    def _work(self, key: object) -> None:
        while True:
            with self._lock:
                if self._worker is not key:
                    return
                job = self._jobs.popleft() if self._jobs else None
                if job is None:
                    if self._closed:
                        self._worker = None
                        return
                    self._more.clear()
            if job is not None:
                _run_safely(job)
                del job
                continue
            if not self._more.wait(_LINGER):
                with self._lock:
                    if not self._jobs:
                        self._worker = None
                        return

    def close(self) -> List[Job]:
        """Accept no more jobs. The running job continues. Idempotent.

        Returns:
            The queued jobs, which do not run.
        """
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
            self._jobs.clear()
            self._more.set()
        return jobs
