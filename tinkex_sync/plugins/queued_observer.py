"""For plugins that do I/O: events are queued where they happen and handled on a thread of the plugin."""

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

#: Seconds that ``close()`` waits where nobody gave a deadline.
CLOSE_TIMEOUT = 5.0

_BATCH = 256

# Every live observer, so that a forked child can empty the queues it inherited.
_live: weakref.WeakSet[QueuedObserver] = weakref.WeakSet()


class QueuedObserver(abc.ABC):
    """A bounded queue and one daemon thread that takes from it.

    A subclass calls ``put()`` in its hooks, which never blocks, and overrides ``handle()``, which may. The
    thread starts with the first event and ends with ``close()``; an event after that starts it again, because
    one plugin may serve several clients and the first to close must not silence it for the others. In a
    forked child the queue starts empty: what was in it is the parent's to write.

    Deadlines are seconds on ``time.monotonic()``.

    Invariant, whenever ``_lock`` is free: every event ever put is queued, in the worker's hands, or settled
    (handled, dropped or failed), and those of ``_waiting`` wait for a count of settled events not yet
    reached.

    Args:
        capacity: Events held at most; the oldest make room for new ones and are counted in ``dropped``.
        batch: Most events that ``handle()`` is given at once.
        interval: Seconds for which events are collected before they are handled, unless somebody flushes,
            closes, or calls ``hurry()``.
    """

    def __init__(self, *, capacity: int = 10_000, batch: int = _BATCH, interval: float = 0.0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity!r}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch!r}")
        if not interval >= 0:
            raise ValueError(f"interval must be seconds of at least 0, not {interval!r}")
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
        self._settled_before_batch: Optional[int] = None  # guarded by _lock; None while no batch is in hand
        self._put = 0  # guarded by _lock
        self._dropped = 0  # guarded by _lock
        self._failed = 0  # guarded by _lock
        self._waiting: List[Tuple[int, Event]] = []  # guarded by _lock
        self._thread: Optional[threading.Thread] = None  # guarded by _lock
        self._ending: Optional[Event] = None  # guarded by _lock

    @property
    def dropped(self) -> int:
        """Events lost because the queue was full, or because ``close()`` ran out of time."""
        with self._lock:
            return self._dropped

    @property
    def failed(self) -> int:
        """Events lost because ``handle()`` raised."""
        with self._lock:
            return self._failed

    @abc.abstractmethod
    def handle(self, events: Sequence[Any]) -> None:
        """Deal with some events, oldest first. Override; only the observer's own thread calls it.

        What it raises is logged once with a traceback; those events are counted in ``failed``.
        """

    def finish(self) -> None:  # noqa: B027  (most have nothing to let go of)
        """Let go of files and sockets, if there are any; called by the observer's thread as it ends."""

    def put(self, event: Any) -> None:
        """Queue one event; never blocks, and from any thread."""
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
            # A worker on its way out looks at the queue once more before it goes.
            if self._thread is None:
                started = self._thread = make_daemon_thread(self._work, f"tinkex-{type(self).__name__}")
        if started is not None:
            self._start(started)
        self._wake.set()
        if first_drop:
            logger.warning("%s cannot keep up: its oldest events are dropped", type(self).__name__)

    def hurry(self) -> None:
        """Have what is queued handled at once, without waiting for it."""
        self._hurry.set()

    def flush(self, deadline: Optional[float] = None) -> bool:
        """Wait until what is queued now is handled; False if ``deadline`` (default: in 5 s) came first."""
        return self._await(self._flushed(), self._limit(deadline))

    def close(self, deadline: Optional[float] = None) -> bool:
        """Handle what is queued, then end the thread; False if ``deadline`` (default: in 5 s) came first.

        What could not be handled in time is dropped, counted, and named in one WARNING.
        """
        limit = self._limit(deadline)
        with self._lock:
            if threading.current_thread() is self._thread:
                return False  # handle() closed its own client: it cannot wait for itself
        in_time = self._await(self._flushed(), limit)
        with self._lock:
            lost = 0 if in_time else len(self._items)
            if lost:
                self._items.clear()
                self._dropped += lost
                self._settle()
            ended = self._ending
            if self._thread is None:
                ended = None
            elif ended is None:
                ended = self._ending = Event()
        self._hurry.set()
        self._wake.set()
        if lost:
            logger.warning("%s was closed before it had handled %d events", type(self).__name__, lost)
        return (ended is None or self._await(ended, limit)) and in_time

    def _limit(self, deadline: Optional[float]) -> float:
        return self._clock.time() + CLOSE_TIMEOUT if deadline is None else deadline

    def _await(self, event: Event, limit: float) -> bool:
        return self._clock.wait(event, remaining(self._clock, limit))

    def _flushed(self) -> Event:
        event = Event()
        with self._lock:
            self._waiting.append((self._put, event))
            self._settle()
        self._hurry.set()
        return event

    def _settle(self) -> None:
        """Tell those whose events are done. Call with ``_lock`` held."""
        settled = self._settled_before_batch
        if settled is None:
            settled = self._put - len(self._items)
        for count, event in self._waiting:
            if count <= settled:
                event.set()
        self._waiting = [entry for entry in self._waiting if entry[0] > settled]

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except BaseException:
            # No threads left, or the interpreter is going: the next event tries again.
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
            if self._may_end():
                return

    def _handle_some(self) -> bool:
        with self._lock:
            if not self._items:
                return False
            self._settled_before_batch = self._put - len(self._items)
            events = [self._items.popleft() for _ in range(min(self._batch, len(self._items)))]
        try:
            self.handle(events)
        except (Exception, SystemExit):
            with self._lock:
                first_failure = not self._failed
                self._failed += len(events)
            if first_failure:
                logger.warning(
                    "%s failed; its later failures are only counted", type(self).__name__, exc_info=True
                )
        finally:
            with self._lock:
                self._settled_before_batch = None
                self._settle()
        return True

    def _may_end(self) -> bool:
        with self._lock:
            if self._ending is None or self._items:
                return False
        try:
            self.finish()
        except Exception:
            logger.warning("%s failed to finish", type(self).__name__, exc_info=True)
        with self._lock:
            ended, self._ending = self._ending, None
            going = not self._items  # else put() relied on this thread while it finished
            if going:
                self._thread = None
            else:
                self._wake.set()
        if ended is not None:
            ended.set()
        return going


def _reset_all() -> None:
    for observer in list(_live):
        observer._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)


def observe_all(plugin: object, receive: Callable[[str, Dict[str, Any]], None]) -> None:
    """Make ``plugin`` (an instance) implement every event hook: each calls ``receive(hook, facts)``.

    ``hook`` is the name without ``tinkex_``, ``facts`` all arguments by name, ``source`` and ``call_id``
    among them. Hooks of later versions are included; call it in ``__init__``.
    """
    for name in SPECS:
        names = argument_names(name)
        if names[0] == "source":
            setattr(plugin, name, _forward(name, names, receive))


def _forward(
    name: str, names: Tuple[str, ...], receive: Callable[[str, Dict[str, Any]], None]
) -> Callable[..., None]:
    hook = name[len("tinkex_") :]

    # pluggy reads the arguments from what is wrapped, in every version.
    @functools.wraps(SPECS[name])
    def forward(*values: Any) -> None:
        receive(hook, dict(zip(names, values)))

    marked: Callable[..., None] = hookimpl(forward)
    return marked
