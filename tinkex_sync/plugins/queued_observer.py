"""Base class for plugins that do I/O: hooks queue events, and a thread of the plugin handles them."""

from __future__ import annotations

import abc
import functools
import logging
import os
import threading
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Tuple

from ..concurrency.clock import Clock, remaining
from ..concurrency.primitives import Event, Lock, make_daemon_thread
from .hookspecs import SPECS, argument_names, hookimpl

__all__ = ["CLOSE_TIMEOUT", "QueuedObserver", "observe_all"]

logger = logging.getLogger(__name__)

#: Seconds that ``flush()`` and ``close()`` wait if they are called without a deadline.
CLOSE_TIMEOUT = 5.0

_BATCH = 256

# All existing observers. A forked child empties the queues that it inherited.
_live: weakref.WeakSet[QueuedObserver] = weakref.WeakSet()


class QueuedObserver(abc.ABC):
    """A bounded queue of events and one daemon thread that handles them.

    A subclass calls ``put()`` in its hooks and overrides ``handle()``. ``put()`` never blocks; ``handle()`` may.
    The first event starts the thread and ``close()`` ends it. An event after ``close()`` starts the thread
    again, because one plugin may serve several clients, and each of them closes it. In a forked child the queue
    is empty, because the parent handles the events that it had queued. Deadlines are in seconds on
    ``time.monotonic()``. All methods are thread-safe.

    Invariant, whenever ``_lock`` is not held: every event is queued, in the batch being handled, or done
    (handled, dropped or failed). Each entry of ``_waiting`` contains a number of done events not yet reached.

    Args:
        capacity: Largest number of queued events. A new event replaces the oldest one, which is counted in
            ``dropped``.
        batch: Largest number of events in one call of ``handle()``.
        interval: Seconds for which events are collected before they are handled. ``flush()``, ``close()`` and
            ``hurry()`` end the wait.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, *, capacity: int = 10_000, batch: int = _BATCH, interval: float = 0.0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity!r}")
        if batch < 1:
            raise ValueError(f"batch must be >= 1, got {batch!r}")
        if not interval >= 0:
            raise ValueError(f"interval must be >= 0 (seconds), got {interval!r}")
        self._batch = batch
        self._interval = interval
        self.capacity = capacity
        self._clock = Clock()
        self._reset()
        _live.add(self)

    def _reset(self) -> None:
        self._lock = Lock()
        self._wake = Event()
        self._hurry = Event()
        self._items: Deque[Any] = deque()  # guarded by _lock
        self._done_before_batch: Optional[int] = None  # guarded by _lock; None while no batch is handled
        self._put = 0  # guarded by _lock
        self._dropped = 0  # guarded by _lock
        self._failed = 0  # guarded by _lock
        self._waiting: List[Tuple[int, Event]] = []  # guarded by _lock
        self._thread: Optional[threading.Thread] = None  # guarded by _lock
        self._ending: Optional[Event] = None  # guarded by _lock

    @property
    def dropped(self) -> int:
        """Number of events lost because the queue was full or the time of ``close()`` was over."""
        with self._lock:
            return self._dropped

    @property
    def failed(self) -> int:
        """Number of events lost because ``handle()`` raised."""
        with self._lock:
            return self._failed

    @abc.abstractmethod
    def handle(self, events: Sequence[Any]) -> None:
        """Handle some events, oldest first. Only the thread of the observer calls this method.

        If it raises, its events are counted in ``failed``. The first error is logged with a traceback.
        """

    def finish(self) -> None:  # noqa: B027  (optional to override)
        """Close files and sockets. The thread of the observer calls this method before it ends."""

    def put(self, event: Any) -> None:
        """Queue one event without blocking."""
        started = None
        with self._lock:
            self._put += 1
            if len(self._items) >= self.capacity:
                self._items.popleft()
                self._dropped += 1
                first_drop = self._dropped == 1
            else:
                first_drop = False
            self._items.append(event)
            # A thread that is about to end checks the queue again under the lock, so it is still set here.
            if self._thread is None:
                started = self._thread = make_daemon_thread(self._work, f"tinkex-{type(self).__name__}")
        if started is not None:
            self._start(started)
        self._wake.set()
        if first_drop:
            logger.warning("%s is too slow for its events and drops the oldest ones", type(self).__name__)

    def hurry(self) -> None:
        """End the collecting interval, so that queued events are handled immediately. Does not wait."""
        self._hurry.set()

    def flush(self, deadline: Optional[float] = None) -> bool:
        """Wait until all events queued so far are handled.

        Args:
            deadline: End of the wait. Default: in 5 s.

        Returns:
            Whether the events were handled before the deadline.
        """
        return self._await(self._flush_event(), self._limit(deadline))

    def close(self, deadline: Optional[float] = None) -> bool:
        """Handle the queued events, then end the thread.

        Events not handled before the deadline are dropped, counted in ``dropped``, and reported in one WARNING.

        Args:
            deadline: End of the wait. Default: in 5 s.

        Returns:
            Whether all events were handled and the thread ended before the deadline.
        """
        limit = self._limit(deadline)
        with self._lock:
            if threading.current_thread() is self._thread:
                return False  # handle() closed its own client. The thread cannot wait for itself.
        in_time = self._await(self._flush_event(), limit)
        with self._lock:
            lost = 0 if in_time else len(self._items)
            if lost:
                self._items.clear()
                self._dropped += lost
                self._notify_waiting()
            ended = self._ending
            if self._thread is None:
                ended = None
            elif ended is None:
                ended = self._ending = Event()
        self._hurry.set()
        self._wake.set()
        if lost:
            logger.warning(
                "%s was closed and dropped events that it had not handled: dropped=%d",
                type(self).__name__,
                lost,
            )
        return (ended is None or self._await(ended, limit)) and in_time

    def _limit(self, deadline: Optional[float]) -> float:
        return self._clock.time() + CLOSE_TIMEOUT if deadline is None else deadline

    def _await(self, event: Event, limit: float) -> bool:
        return self._clock.wait(event, remaining(self._clock, limit))

    def _flush_event(self) -> Event:
        event = Event()
        with self._lock:
            self._waiting.append((self._put, event))
            self._notify_waiting()
        self._hurry.set()
        return event

    def _notify_waiting(self) -> None:
        """Wake the waiters whose events are done. Call with ``_lock`` held."""
        done = self._done_before_batch
        if done is None:
            done = self._put - len(self._items)
        for count, event in self._waiting:
            if count <= done:
                event.set()
        self._waiting = [entry for entry in self._waiting if entry[0] > done]

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except BaseException:
            # The system has no threads left, or the interpreter exits. The next event tries again.
            with self._lock:
                self._thread = None
            raise

    def _work(self) -> None:
        while True:
            self._clock.wait(self._wake)
            if self._interval:
                self._clock.wait(self._hurry, self._interval)
                self._hurry.clear()
            self._wake.clear()
            while self._handle_some():
                pass
            if self._end():
                return

    def _handle_some(self) -> bool:
        """Handle one batch; return whether there was one."""
        with self._lock:
            if not self._items:
                return False
            self._done_before_batch = self._put - len(self._items)
            events = [self._items.popleft() for _ in range(min(self._batch, len(self._items)))]
        try:
            self.handle(events)
        except (Exception, SystemExit):
            with self._lock:
                first_failure = not self._failed
                self._failed += len(events)
            if first_failure:
                logger.warning(
                    "%s failed to handle events; further failures are counted and not logged",
                    type(self).__name__,
                    exc_info=True,
                )
        finally:
            with self._lock:
                self._done_before_batch = None
                self._notify_waiting()
        return True

    def _end(self) -> bool:
        """End the thread if ``close()`` requested it and no events are left; return whether it ends."""
        with self._lock:
            if self._ending is None or self._items:
                return False
        try:
            self.finish()
        except Exception:
            logger.warning("%s failed to finish", type(self).__name__, exc_info=True)
        with self._lock:
            ended, self._ending = self._ending, None
            ends = not self._items  # put() does not start a thread while this one is set.
            if ends:
                self._thread = None
            else:
                self._wake.set()
        if ended is not None:
            ended.set()
        return ends


def _reset_all() -> None:
    """Empty all queues. Runs in a forked child, where their threads do not exist."""
    for observer in list(_live):
        observer._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)


def observe_all(plugin: object, receive: Callable[[str, Dict[str, Any]], None]) -> None:
    """Make a plugin implement every event hook. Call it in ``__init__``.

    Hooks that later versions add are included.

    Args:
        plugin: An instance.
        receive: Called as ``receive(hook, facts)`` for each event. ``hook`` is the name of the hook without
            ``tinkex_``; ``facts`` are all its arguments by name, including ``source`` and ``call_id``.
    """
    for name in SPECS:
        names = argument_names(name)
        if names[0] == "source":
            setattr(plugin, name, _make_implementation(name, names, receive))


def _make_implementation(
    name: str, names: Tuple[str, ...], receive: Callable[[str, Dict[str, Any]], None]
) -> Callable[..., None]:
    hook = name[len("tinkex_") :]

    # Every version of pluggy reads the arguments from the wrapped function.
    @functools.wraps(SPECS[name])
    def forward(*values: Any) -> None:
        receive(hook, dict(zip(names, values)))

    marked: Callable[..., None] = hookimpl(forward)
    return marked
