"""Futures that callers hold, operations that produce them, and waiting for a result."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import threading
import time
import weakref
from concurrent.futures._base import CANCELLED, RUNNING
from typing import Any, Callable, Generic, Optional, Protocol, TypeVar

from .concurrency.clock import SLICE, remaining
from .errors import ClosedError, DeadlineExceeded
from .http.call_state import CallState
from .session import Session

__all__ = ["Future", "Operation", "fail_at_deadline", "resolve", "resolve_in_worker", "wait_until"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_log = logging.getLogger(__name__)


class Operation(Protocol[T_co]):
    """One operation of a client whose arguments were validated and of which nothing was sent.

    An operation is started once, by :meth:`run` or by :meth:`submit`.
    """

    def run(self, timeout: Optional[float] = None) -> T_co:
        """Execute the operation and return its result.

        Args:
            timeout: Seconds to wait for the result; None: ``Config.timeout``.

        Raises:
            ValueError: ``timeout`` is not a positive number. Nothing was sent.
            DeadlineExceeded: The result did not arrive within ``timeout`` seconds.
            TinkexError: The operation failed.
        """
        ...

    def submit(self, timeout: Optional[float] = None) -> Future[Any]:
        """Start the operation and return its future immediately, without waiting for the network.

        Args:
            timeout: Seconds until the future fails with DeadlineExceeded, for operations that support it.
        """
        ...


class Future(concurrent.futures.Future, Generic[T]):  # type: ignore[type-arg]
    """The future that every ``submit_*`` method returns; it also knows its request.

    Thread-safe. The first outcome is final. An error that is never read is logged once, when the future is
    garbage-collected.

    Args:
        call: The state of the call that this future belongs to.
    """

    def __init__(self, call: CallState) -> None:
        super().__init__()
        self.call = call
        self._is_read = False
        #: Cancels a request that was already sent, if the server supports it; returns whether it will be cancelled.
        self.cancel_remote: Optional[Callable[[], bool]] = None
        # Closing the session fails this future. The reference is weak, so that a dropped future logs its error.
        call.future = weakref.ref(self)

    @property
    def request_id(self) -> Optional[str]:
        """The server's id of the request, or None before the server accepted it; of several chunks, the last one's."""
        return self.call.request_id

    def result(self, timeout: Optional[float] = None) -> T:
        """Wait for the result and return it. A timeout ends only the wait, not the operation.

        Args:
            timeout: Seconds to wait at most; None: no limit.

        Raises:
            DeadlineExceeded: There was no result within ``timeout`` seconds; the operation continues.
            concurrent.futures.CancelledError: The operation was withdrawn.
            TinkexError: The operation failed.
        """
        return self._wait(super().result, timeout)  # type: ignore[no-any-return]

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        """Wait as :meth:`result` does, and return the error instead of raising it; None if there is none."""
        return self._wait(super().exception, timeout)  # type: ignore[no-any-return]

    def _wait(self, wait: Callable[[Optional[float]], Any], timeout: Optional[float]) -> Any:
        if self.done():
            # Checked before the wait, because a result may itself be a TimeoutError.
            self._is_read = True
            return wait(None)
        ends = None if timeout is None else time.monotonic() + timeout
        # The main thread waits in slices, so that Ctrl-C arrives: see clock.wait_interruptibly.
        longest = SLICE if threading.current_thread() is threading.main_thread() else None
        while True:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            try:
                value = wait(left if longest is None else longest if left is None else min(left, longest))
            except concurrent.futures.TimeoutError:
                if self.done():
                    self._is_read = True
                    return wait(None)
                if ends is not None and time.monotonic() >= ends:
                    raise self.call.deadline_exceeded() from None
            except BaseException:
                self._is_read = self._is_read or self.done()
                raise
            else:
                self._is_read = True
                return value

    def cancel(self) -> bool:
        """Withdraw the operation if nothing of it was sent.

        If the server supports cancellation of samples (``client/dynamic_config``), a sample that was already sent
        is cancelled too.

        Returns:
            Whether the operation was cancelled; False if it was sent or has ended.
        """
        is_cancelled = super().cancel()
        if is_cancelled:
            self.call.is_withdrawn = True
        elif not self.done() and self.cancel_remote is not None and self.cancel_remote():
            with self._condition:
                if self._state != RUNNING:
                    return False
                self._state = CANCELLED
                self._condition.notify_all()
            self._invoke_callbacks()  # type: ignore[attr-defined]
            is_cancelled = True
        if is_cancelled:
            with self._condition:
                if self._state == CANCELLED:
                    # Without this notification, ``wait`` and ``as_completed`` would block until the lane or a worker
                    # reaches the cancelled job.
                    super().set_running_or_notify_cancel()
        return is_cancelled

    def begin(self) -> bool:
        """Mark the operation as running, after which it cannot be withdrawn.

        Returns:
            False if it was withdrawn, is running or has ended; then it must not be executed.
        """
        with self._condition:
            return not (self.done() or self.running()) and self.set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        """Resolve the future. Does nothing if it has ended, because the client may have been closed before."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_result(result)

    def set_exception(self, exception: Optional[BaseException]) -> None:
        """Fail the future. Does nothing if it has ended."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_exception(exception)

    def abandon(self) -> None:
        """Withdraw the operation if it was not sent, and do not log its error: its result will not be read."""
        self._is_read = True
        self.cancel()

    def __del__(self) -> None:
        error = getattr(self, "_exception", None)
        # Closing logs one warning for all unfinished calls, so a ClosedError is not logged again.
        if error is not None and not self._is_read and not isinstance(error, ClosedError):
            _log.error(
                "Unread error: operation=%s error=%s: %s", self.call.operation, type(error).__name__, error
            )


def wait_until(session: Session, future: Future[T], deadline: Optional[float]) -> T:
    """Wait for the result of a future and return it; at the deadline, withdraw the operation if it was not sent.

    Args:
        deadline: Time of the session's clock; None: no limit.

    Raises:
        DeadlineExceeded: The deadline passed. ``sent`` of the error is "no" if the operation was withdrawn.
        TinkexError: The operation failed.
    """
    while True:
        left = remaining(session.clock, deadline)
        try:
            return future.result(None if left is None else session.clock.real(left))
        except DeadlineExceeded:
            if future.done() or deadline is None or session.clock.time() < deadline:
                if future.done():
                    return future.result()
                continue
            is_withdrawn = future.cancel()
            if is_withdrawn:
                session.end(future.call)
            error = future.call.deadline_exceeded(is_started=not is_withdrawn)
            future.abandon()
            raise error from None
        except BaseException:
            if not future.done():
                # The wait was interrupted, and no other code has a reference to the future.
                future.abandon()
            raise


def fail_at_deadline(session: Session, future: Future[Any], deadline: Optional[float]) -> None:
    """Fail a future with DeadlineExceeded at a deadline; withdraw the operation if it was not sent.

    Args:
        deadline: Time of the session's clock; None: no deadline.
    """
    if deadline is None:
        return
    # Weak, so that a dropped future logs its error before the deadline.
    reference = weakref.ref(future)

    def expire() -> None:
        alive = reference()
        if alive is None or alive.done():
            return
        # If this marks the operation as running, its lane or worker does not execute it.
        is_withdrawn = alive.begin()
        alive.call.is_withdrawn = is_withdrawn
        error = alive.call.deadline_exceeded(is_started=not is_withdrawn)
        resolve_in_worker(session, alive, error=error)

    handle = session.timer.at(deadline, expire)
    future.add_done_callback(lambda _: handle.cancel())


def resolve(
    session: Session, future: Future[Any], result: Any = None, error: Optional[BaseException] = None
) -> None:
    """End a call and resolve its future, in a thread that the user's callbacks may block."""
    session.end(future.call)
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def resolve_in_worker(
    session: Session, future: Future[Any], result: Any = None, error: Optional[BaseException] = None
) -> None:
    """End a call and resolve its future in a worker thread.

    The user's callbacks run in the thread that resolves the future. They may block, so lanes, timers and pollers
    do not resolve futures themselves.
    """
    # A closed session has no workers.
    if not session.helpers.submit(lambda: resolve(session, future, result, error)):
        resolve(session, future, result, error)
