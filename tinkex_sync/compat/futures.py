"""Futures with the interface of the official SDK.

A thread can wait for them, and a coroutine can await them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from typing import Any, Callable, Generator, Generic, Optional, TypeVar

from ..errors import DeadlineExceeded

__all__ = ["APIFuture", "AwaitableConcurrentFuture", "WaitEnded", "completed", "map_future", "result_in_loop"]

T = TypeVar("T")
U = TypeVar("U")


class WaitEnded(DeadlineExceeded, asyncio.TimeoutError):
    """The ``timeout`` of a wait expired, and the operation continues.

    It is an instance of each TimeoutError of the standard library, on every Python version.
    """


def _wait_ended(timeout: Optional[float]) -> WaitEnded:
    return WaitEnded(f"no result within {timeout:g} s; the operation continues", phase="polling", sent="unknown")


async def _wait_in_loop(future: concurrent.futures.Future[Any]) -> None:
    """Wait for a future without blocking the running event loop. Cancelling the wait does not change the future."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def end_wait() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def on_done(_: Any) -> None:
        # The loop may have been closed before the future ended; then no coroutine waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(end_wait)

    future.add_done_callback(on_done)
    await waiter


async def result_in_loop(future: concurrent.futures.Future[T]) -> T:
    """Return the result of an operation for which only this coroutine waits.

    Cancelling the coroutine withdraws the operation if it was not sent.
    """
    try:
        await _wait_in_loop(future)
    except asyncio.CancelledError:
        getattr(future, "abandon", future.cancel)()
        raise
    return future.result()


class APIFuture(Generic[T]):
    """The future of an operation. ``await`` it in any event loop, or call :meth:`result` in any thread."""

    def __init__(self, future: concurrent.futures.Future[T]) -> None:
        self._future = future

    def result(self, timeout: Optional[float] = None) -> T:
        """Wait for the result and return it. A timeout ends only the wait, not the operation.

        Args:
            timeout: Seconds to wait at most; None: no limit.

        Raises:
            TimeoutError: There was no result within ``timeout`` seconds.
        """
        try:
            return self._future.result(timeout)
        except concurrent.futures.TimeoutError:
            if isinstance(self._future, _MappedFuture) and not self._future.done():
                raise _wait_ended(timeout) from None
            raise

    async def result_async(self, timeout: Optional[float] = None) -> T:
        """Wait as :meth:`result` does, without blocking the running event loop."""
        try:
            await asyncio.wait_for(_wait_in_loop(self._future), timeout)
        except asyncio.TimeoutError:
            if not self._future.done():
                raise _wait_ended(timeout) from None
        return self._future.result()

    def __await__(self) -> Generator[Any, None, T]:
        return self.result_async().__await__()

    def future(self) -> concurrent.futures.Future[T]:
        """Return the concurrent.futures.Future behind it, for ``as_completed`` and ``wait``."""
        return self._future

    def __repr__(self) -> str:
        return f"<APIFuture of {self._future!r}>"


#: The official package has two names for this class.
AwaitableConcurrentFuture = APIFuture


def completed(result: T) -> APIFuture[T]:
    """Return a future that has a result."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    future.set_result(result)
    return APIFuture(future)


class _MappedFuture(concurrent.futures.Future):  # type: ignore[type-arg]
    """A future whose result is made of another future's result. Cancelling it cancels the other future."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source

    def cancel(self) -> bool:
        return bool(self._source.cancel())

    def abandon(self) -> None:
        self._source.abandon()


def map_future(source: concurrent.futures.Future[T], function: Callable[[T], U]) -> concurrent.futures.Future[U]:
    """Return a future of ``function(result)``; the function must be short and must not block."""
    target = _MappedFuture(source)

    def resolve(source: concurrent.futures.Future[T]) -> None:
        if source.cancelled():
            concurrent.futures.Future.cancel(target)
            target.set_running_or_notify_cancel()
            return
        error = source.exception()
        if error is not None:
            target.set_exception(error)
            return
        try:
            target.set_result(function(source.result()))
        except BaseException as failure:
            target.set_exception(failure)

    source.add_done_callback(resolve)
    return target
