"""Locks, events and threads of the client. They are made here only, so that tests can replace all of them.

Everything is built from two functions, ``make_lock`` and ``make_thread``. A test that explores interleavings replaces
both with :func:`replace_primitives`; clocks are passed as arguments everywhere.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Protocol, Tuple

from ..errors import ThreadStartError

if TYPE_CHECKING:
    # The type of what `Lock()` returns. Before Python 3.13 `threading.Lock` is a function.
    from threading import Lock as Lock
    from threading import Thread


def _standard_lock() -> Lock:
    return threading.Lock()


_make_lock: Callable[[], Any] = _standard_lock
_make_thread: Callable[..., Any] = threading.Thread


def replace_primitives(
    make_lock: Optional[Callable[[], Any]] = None, make_thread: Optional[Callable[..., Any]] = None
) -> Tuple[Callable[[], Any], Callable[..., Any]]:
    """Make all later locks, events and threads with other functions; for tests.

    Args:
        make_lock: Returns an object like ``threading.Lock()``; None: the standard one.
        make_thread: Takes ``target``, ``args``, ``name`` and ``daemon`` and returns an object like
            ``threading.Thread``; None: the standard one.

    Returns:
        The two functions that were in use before.
    """
    global _make_lock, _make_thread
    before = _make_lock, _make_thread
    _make_lock, _make_thread = make_lock or _standard_lock, make_thread or threading.Thread
    return before


if not TYPE_CHECKING:

    def Lock() -> Lock:  # noqa: N802 - named as its type
        """Return a new lock that is not reentrant."""
        return _make_lock()


class ModuleLock:
    """A lock of a module, not reentrant. It is free in a forked child, even if a thread of the parent held it."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


class Waitable(Protocol):
    """The part of an event that a waiting thread uses; ``threading.Event`` has it too."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: Optional[float] = None) -> bool: ...


class Event:
    """A flag that threads wait for. Thread-safe, and signal-safe, which ``threading.Event`` is not.

    ``threading.Event.set`` takes a lock. A signal handler that interrupts a thread which holds this lock would wait
    for it without end. Here each waiting thread blocks on a lock of its own, and ``set`` only releases such locks.

    Invariant: a waiter's lock is in ``_waiters`` until the waiter is woken or stops waiting.
    """

    __slots__ = ("__weakref__", "_flag", "_waiters")

    def __init__(self) -> None:
        self._flag = False
        self._waiters: List[Lock] = []  # changed only by atomic methods of list

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._flag

    def set(self) -> None:
        """Set the flag and wake every waiter. Idempotent; callable from a signal handler."""
        self._flag = True
        while self._waiters:
            try:
                waiter = self._waiters.pop()
            except IndexError:  # another thread was faster
                return
            waiter.release()

    def clear(self) -> None:
        """Reset the flag."""
        self._flag = False

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Block until the flag is set, for at most ``timeout`` seconds (None: without limit).

        Returns:
            Whether the flag is set.
        """
        if self._flag:
            return True
        if timeout is not None and timeout <= 0:
            return False
        waiter = _make_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        try:
            if self.is_set():  # it was set before the waiter was listed
                return True
            limit = -1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)
            return bool(waiter.acquire(timeout=limit)) or self._flag
        finally:
            with contextlib.suppress(ValueError):  # it was woken
                self._waiters.remove(waiter)


def start_thread(target: Callable[..., object], name: str, *args: Any) -> Thread:
    """Start a daemon thread that calls ``target(*args)``, and return it.

    Raises:
        ThreadStartError: The system starts no more threads, or the interpreter is shutting down.
    """
    thread: Thread = _make_thread(target=target, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        text = f"thread {name} cannot be started ({error}): end other threads and retry"
        raise ThreadStartError(text) from error
    return thread
