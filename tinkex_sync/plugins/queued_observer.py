"""Base class for plugins that do I/O: hooks queue events, and a thread of the plugin handles them."""

from __future__ import annotations

import abc
import functools
import os
import threading
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Tuple

from ..concurrency.clock import Clock, remaining
from ..concurrency.primitives import Event, Lock, start_thread
from ..logs import get_logger
from .hookspecs import PREFIX, SPECS, argument_names, hookimpl

logger = get_logger(__name__)

#: Seconds that ``flush()`` and ``close()`` wait if they are called without a deadline.
CLOSE_TIMEOUT = 5.0

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
    (handled, dropped or failed). Each entry of ``_waiting`` is a number of events and the Event to set when as many
    are done. Entries whose number is reached are removed.

    Attributes:
        dropped: Number of events lost because the queue was full or the time of ``close()`` was over.
        failed: Number of events lost because ``handle()`` raised.

    Args:
        capacity: Largest number of queued events. A new event replaces the oldest one, which is counted in
            ``dropped``.
        batch: Largest number of events in one call of ``handle()``.
        interval: Seconds for which events are collected before they are handled. ``flush()``, ``close()`` and
            ``hurry()`` end the wait.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, *, capacity: int = 10_000, batch: int = 256, interval: float = 0.0) -> None:
        for name, value, least in (("capacity", capacity, 1), ("batch", batch, 1), ("interval", interval, 0)):
            if not value >= least:
                raise ValueError(f"{name} must be >= {least}, got {value!r}")
        self.capacity = capacity
        self._batch = batch
        self._interval = interval
        self._clock = Clock()
        self._reset()
        _live.add(self)

    def _reset(self) -> None:
        self._lock = Lock()
        self._wake = Event()
        self._hurry = Event()
        self._items: Deque[Any] = deque(maxlen=self.capacity)  # guarded by _lock
        # Number of events that were done when the current batch began; None while no batch is being handled.
        self._done_before_batch: Optional[int] = None  # guarded by _lock
        self._put = 0  # number of calls of put(); guarded by _lock
        self.dropped = 0  # changed with _lock held
        self.failed = 0  # changed with _lock held
        self._waiting: List[Tuple[int, Event]] = []  # guarded by _lock
        self._thread: Optional[threading.Thread] = None  # guarded by _lock
        # The thread sets this event when it ends; None while no close() waits for that.
        self._ending: Optional[Event] = None  # guarded by _lock

    @abc.abstractmethod
    def handle(self, events: Sequence[Any]) -> None:
        """Handle some events, oldest first. Only the thread of the observer calls this method.

        If it raises, its events are counted in ``failed``. The first error is logged with a traceback.
        """

    def finish(self) -> None:  # noqa: B027  (optional to override)
        """Close files and sockets. The thread of the observer calls this method before it ends."""

    def put(self, event: Any) -> None:
        """Queue one event without blocking."""
        with self._lock:
            is_full = len(self._items) == self.capacity
            is_first_drop = is_full and not self.dropped
            self.dropped += is_full
            self._put += 1
            self._items.append(event)  # A full deque removes its oldest element.
            # A thread that is about to end checks the queue again under the lock, so it is still set here. If
            # the system cannot start a thread, the next event tries again.
            if self._thread is None:
                self._thread = start_thread(self._work, f"tinkex-{type(self).__name__}")
        self._wake.set()
        if is_first_drop:
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
        handled = Event()
        with self._lock:
            self._waiting.append((self._put, handled))
            self._notify_waiting()
        self._hurry.set()
        return self._wait(handled, self._limit(deadline))

    def close(self, deadline: Optional[float] = None) -> bool:
        """Handle the queued events, then end the thread.

        Events not handled before the deadline are dropped, counted in ``dropped``, and reported in one WARNING.

        Args:
            deadline: End of the wait. Default: in 5 s.

        Returns:
            Whether all events were handled and the thread ended before the deadline.
        """
        limit = self._limit(deadline)
        if threading.current_thread() is self._thread:
            return False  # handle() closed its own client. The thread cannot wait for itself.
        in_time = self.flush(limit)
        with self._lock:
            lost = 0 if in_time else len(self._items)
            if lost:
                self._items.clear()
                self.dropped += lost
                self._notify_waiting()
            if self._thread is not None:
                self._ending = self._ending or Event()
            ended = self._ending
        self._hurry.set()
        self._wake.set()
        if lost:
            text = "%s was closed and dropped events that it had not handled: dropped=%d"
            logger.warning(text, type(self).__name__, lost)
        return (ended is None or self._wait(ended, limit)) and in_time

    def _limit(self, deadline: Optional[float]) -> float:
        return self._clock.time() + CLOSE_TIMEOUT if deadline is None else deadline

    def _wait(self, event: Event, limit: float) -> bool:
        return self._clock.wait(event, remaining(self._clock, limit))

    def _notify_waiting(self) -> None:
        """Wake the waiters whose events are done. Call with ``_lock`` held."""
        done = self._done_before_batch
        if done is None:
            done = self._put - len(self._items)
        for count, event in self._waiting:
            if count <= done:
                event.set()
        self._waiting = [entry for entry in self._waiting if entry[0] > done]

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
                is_first_failure = not self.failed
                self.failed += len(events)
            if is_first_failure:
                text = "%s failed to handle events; further failures are counted and not logged"
                logger.warning(text, type(self).__name__, exc_info=True)
        finally:
            with self._lock:
                self._done_before_batch = None
                self._notify_waiting()
        return True

    def _end(self) -> bool:
        """End the thread if ``close()`` requested it and no events are left; return whether it ends."""
        with self._lock:
            ended = self._ending
            if ended is None or self._items:
                return False
        try:
            self.finish()
        except Exception:
            logger.warning("%s failed to finish", type(self).__name__, exc_info=True)
        with self._lock:
            self._ending = None
            ends = not self._items  # put() does not start a thread while this one is set.
            if ends:
                self._thread = None
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
        if argument_names(name)[0] == "source":
            setattr(plugin, name, _make_implementation(name, receive))


def _make_implementation(name: str, receive: Callable[[str, Dict[str, Any]], None]) -> Callable[..., None]:
    hook, names = name[len(PREFIX) :], argument_names(name)

    # Every version of pluggy reads the arguments from the wrapped function.
    @hookimpl
    @functools.wraps(SPECS[name])
    def forward(*values: Any) -> None:
        receive(hook, dict(zip(names, values)))

    return forward
