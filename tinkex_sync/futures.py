"""The future a caller holds, and waiting for it."""

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

__all__ = ["Future", "Operation", "wait_until"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Future(concurrent.futures.Future, Generic[T]):  # type: ignore[type-arg]
    """What every ``submit_*`` returns: a concurrent.futures.Future that knows its request.

    ``cancel()`` withdraws what was not sent, and is False afterwards. An error nobody reads is logged once, when
    the future is dropped.
    """

    def __init__(self, call: CallState) -> None:
        super().__init__()
        self.call = call
        self._read = False
        #: Takes back what was sent, where the server allows that; returns whether it will.
        self.recall: Optional[Callable[[], bool]] = None
        # The session fails it when it closes; weakly, so that a future nobody holds can tell of its error.
        call.future = weakref.ref(self)

    @property
    def request_id(self) -> Optional[str]:
        """The server's id of the promise, once there is one; of several chunks, the last one's."""
        return self.call.request_id

    def result(self, timeout: Optional[float] = None) -> T:
        """Wait for the result, for at most ``timeout`` seconds; the wait ending changes nothing else.

        Raises:
            DeadlineExceeded: not in time; the operation goes on.
            concurrent.futures.CancelledError: it was withdrawn.
            TinkexError: what became of it.
        """
        return self._waited(super().result, timeout)  # type: ignore[no-any-return]

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        """Wait as :meth:`result` does, and return the error instead of raising it; None for a good result."""
        return self._waited(super().exception, timeout)  # type: ignore[no-any-return]

    def _waited(self, wait: Callable[[Optional[float]], Any], timeout: Optional[float]) -> Any:
        if self.done():
            # Before the wait, because a result that is itself a TimeoutError is not a timeout of ours.
            self._read = True
            return wait(None)
        ends = None if timeout is None else time.monotonic() + timeout
        # In slices where Ctrl-C arrives: see clock.wait_interruptibly.
        longest = SLICE if threading.current_thread() is threading.main_thread() else None
        while True:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            try:
                value = wait(left if longest is None else longest if left is None else min(left, longest))
            except concurrent.futures.TimeoutError:
                if self.done():
                    self._read = True
                    return wait(None)
                if ends is not None and time.monotonic() >= ends:
                    raise self.call.deadline_exceeded() from None
            except BaseException:
                self._read = self._read or self.done()
                raise
            else:
                self._read = True
                return value

    def cancel(self) -> bool:
        """Withdraw it if nothing of it was sent, so that it never is; False once it was sent or has ended.

        Where the server takes samples back (``client/dynamic_config``), one that was sent is withdrawn too.
        """
        cancelled = super().cancel()
        if cancelled:
            self.call.is_withdrawn = True
        elif not self.done() and self.recall is not None and self.recall():
            with self._condition:
                if self._state != RUNNING:
                    return False
                self._state = CANCELLED
                self._condition.notify_all()
            self._invoke_callbacks()  # type: ignore[attr-defined]
            cancelled = True
        if cancelled:
            with self._condition:
                if self._state == CANCELLED:
                    # Now, and not when its turn comes: ``wait`` and ``as_completed`` would sit there until then.
                    super().set_running_or_notify_cancel()
        return cancelled

    def begin(self) -> bool:
        """Take it in hand: False if it was withdrawn or has ended; afterwards it cannot be withdrawn."""
        with self._condition:
            return not self.done() and self.set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        """Resolve it; the first outcome stands, because closing may come first."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_result(result)

    def set_exception(self, exception: Optional[BaseException]) -> None:
        """Fail it; the first outcome stands."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_exception(exception)

    def abandon(self) -> None:
        """Nobody will ask for the result: withdraw it if it was not sent, and log no error."""
        self._read = True
        self.cancel()

    def __del__(self) -> None:
        error = getattr(self, "_exception", None)
        # Of those that closing ended it has told already, all in one warning.
        if error is not None and not self._read and not isinstance(error, ClosedError):
            _log.error(
                "Nobody read the error of %s: %s: %s", self.call.operation, type(error).__name__, error
            )


class Operation(Protocol[T]):
    """An operation with validated arguments that was not started. It has two forms: blocking and submitted."""

    def run(self, timeout: Optional[float] = None) -> T:
        """Start it and wait for its result, for at most ``timeout`` seconds; None: ``Config.timeout``."""

    def submit(self, timeout: Optional[float] = None) -> Future[T]:
        """Start it without waiting for the network, and return its future."""


def wait_until(session: Session, future: Future[T], deadline: Optional[float]) -> T:
    """The future's result; at ``deadline`` (time of the clock) it is withdrawn if it was not sent yet.

    Raises:
        DeadlineExceeded: its ``sent`` tells whether the operation was withdrawn.
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
            withdrawn = future.cancel()
            if withdrawn:
                session.end(future.call)
            error = future.call.deadline_exceeded(is_started=not withdrawn)
            future.abandon()
            raise error from None
        except BaseException:
            if not future.done():
                # Interrupted; nobody else can ask for it.
                future.abandon()
            raise
