"""Futures that callers hold, operations that produce them, and waiting for a result."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import threading
import time
import weakref
from concurrent.futures._base import CANCELLED, PENDING, RUNNING
from functools import partial
from typing import Any, Callable, Generator, Generic, Optional, Protocol, TypeVar

from .concurrency.clock import SLICE, remaining
from .errors import ClosedError, DeadlineExceeded, PluginError
from .http.call_state import CallState
from .logs import get_logger
from .session import Session

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_log = get_logger(__name__)


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
    """The future that every ``submit_*`` method returns, with the state of its call.

    Thread-safe. The first outcome is final. Resolving the future, and withdrawing its operation, ends its call. An
    error that is never read is logged once, when the future is garbage-collected.

    Args:
        session: The session that the call belongs to; held weakly.
        call: The state of the call.
    """

    def __init__(self, session: Session, call: CallState) -> None:
        super().__init__()
        self.call = call
        self._session = weakref.ref(session)
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

    def _wait(self, read: Callable[[float], Any], timeout: Optional[float]) -> Any:
        session = self._session()
        if session is not None and self._state in (PENDING, RUNNING):
            session.check_not_forked()  # No thread of a forked child would resolve it.
        ends = math.inf if timeout is None else time.monotonic() + timeout
        # The main thread waits in slices, so that Ctrl-C arrives: see clock.wait_interruptibly.
        longest = SLICE if threading.current_thread() is threading.main_thread() else threading.TIMEOUT_MAX
        with self._condition:
            while not self.done():
                left = ends - time.monotonic()
                if left <= 0:
                    raise self.call.deadline_exceeded()
                self._condition.wait(min(left, longest))
        self._is_read = True
        return read(0.0)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in the running event loop. Cancelling the wait withdraws the operation if it was not sent."""
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def cancel(self) -> bool:
        """Withdraw the operation if nothing of it was sent.

        If the server supports cancellation of samples (``client/dynamic_config``), a sample that was already sent
        is cancelled too.

        Returns:
            Whether the operation was cancelled; False if it was sent or has ended.
        """
        if super().cancel():
            self._end_call(concurrent.futures.CancelledError("the operation was withdrawn"))
        elif not self._cancel_remotely():
            return False
        with self._condition:
            if self._state == CANCELLED:
                # Without this notification, ``wait`` and ``as_completed`` would block until the lane or a worker
                # reaches the cancelled job.
                super().set_running_or_notify_cancel()
        return True

    def _cancel_remotely(self) -> bool:
        if self.done() or self.cancel_remote is None or not self.cancel_remote():
            return False
        with self._condition:
            if self._state != RUNNING:
                return False
            self._state = CANCELLED
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def begin(self) -> bool:
        """Mark the operation as running, after which it cannot be withdrawn.

        Returns:
            False if it was withdrawn, is running or has ended; then it must not be executed.
        """
        with self._condition:
            return not (self.done() or self.running()) and self.set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        """End the call and resolve the future. The future stays as it is if it has an outcome, such as ClosedError."""
        try:
            self._end_call()
        except PluginError as failure:
            self.set_exception(failure)
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_result(result)

    def set_exception(self, exception: Optional[BaseException]) -> None:
        """End the call and fail the future. The future stays as it is if it has an outcome."""
        session = self._session()
        if session is not None and session.adapt_error is not None:
            session.adapt_error(exception)
        try:
            self._end_call(exception)
        except PluginError as failure:
            exception = failure
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_exception(exception)

    def _end_call(self, error: Optional[BaseException] = None) -> None:
        session = self._session()
        if session is not None:
            session.end(self.call, error)

    def resolve_by(self, function: Callable[[], T]) -> None:
        """Call a function and resolve the future with its result or its error. The user's callbacks may block."""
        try:
            result = function()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)

    def fail_in_worker(self, error: BaseException) -> None:
        """Fail the future in a worker thread.

        The user's callbacks run in the thread that resolves the future. They may block, so lanes, timers and pollers
        do not fail futures themselves.
        """
        session, fail = self._session(), partial(self.set_exception, error)
        if session is None:
            fail()
        else:
            session.run_in_helper(fail)

    def abandon(self) -> None:
        """Withdraw the operation if it was not sent, and do not log its error: its result will not be read."""
        self._is_read = True
        self.cancel()

    def __del__(self) -> None:
        error = getattr(self, "_exception", None)
        # Closing logs one warning for all unfinished calls, so a ClosedError is not logged again.
        if error is not None and not self._is_read and not isinstance(error, ClosedError):
            _log.error("Unread error: operation=%s error=%s: %s", self.call.operation, type(error).__name__, error)


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
            if future.done():
                return future.result()
            if deadline is not None and session.clock.time() >= deadline:
                error = future.call.deadline_exceeded(is_started=not future.cancel())
                future.abandon()
                raise error from error.__cause__
        except BaseException:
            # If the wait was interrupted, no other code has a reference to the future.
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
        alive.fail_in_worker(alive.call.deadline_exceeded(is_started=not alive.begin()))

    handle = session.timer.at(deadline, expire)
    future.add_done_callback(lambda _: handle.cancel())
