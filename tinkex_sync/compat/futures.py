"""Futures of the official shape: blocking, awaitable, and with a concurrent.futures.Future inside."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from typing import Any, Callable, Generator, Generic, Optional, TypeVar

from ..errors import DeadlineExceeded

__all__ = ["APIFuture", "AwaitableConcurrentFuture", "WaitEnded", "mapped", "settled"]

T = TypeVar("T")
U = TypeVar("U")


class WaitEnded(DeadlineExceeded, asyncio.TimeoutError):
    """The ``timeout`` of a wait ran out; the operation goes on. Every TimeoutError there is, on every Python."""


def _wait_ended(timeout: Optional[float]) -> WaitEnded:
    return WaitEnded(
        f"no result within {timeout:g} s; the operation goes on", phase="polling", sent="unknown"
    )


async def _done(future: concurrent.futures.Future[Any]) -> None:
    """Wait for it in the running loop, which is not held up; what becomes of the wait is nothing to the future."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def arrived() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def wake(_: Any) -> None:
        # A loop that was closed meanwhile has nobody waiting.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(arrived)

    future.add_done_callback(wake)
    await waiter


async def settled(future: concurrent.futures.Future[T]) -> T:
    """The result of an operation that only this coroutine waits for: cancelling it withdraws what was not sent."""
    try:
        await _done(future)
    except asyncio.CancelledError:
        getattr(future, "abandon", future.cancel)()
        raise
    return future.result()


class APIFuture(Generic[T]):
    """A result that is on its way. ``await`` it in any event loop, or call :meth:`result`."""

    def __init__(self, future: concurrent.futures.Future[T]) -> None:
        self._future = future

    def result(self, timeout: Optional[float] = None) -> T:
        """Wait for it, for at most ``timeout`` seconds (TimeoutError); the operation itself goes on."""
        try:
            return self._future.result(timeout)
        except concurrent.futures.TimeoutError:
            if isinstance(self._future, _Mapped) and not self._future.done():
                raise _wait_ended(timeout) from None
            raise

    async def result_async(self, timeout: Optional[float] = None) -> T:
        """:meth:`result`, in the caller's event loop."""
        try:
            await asyncio.wait_for(_done(self._future), timeout)
        except asyncio.TimeoutError:
            if not self._future.done():
                raise _wait_ended(timeout) from None
        return self._future.result()

    def __await__(self) -> Generator[Any, None, T]:
        return self.result_async().__await__()

    def future(self) -> concurrent.futures.Future[T]:
        """The same as a concurrent.futures.Future, for ``as_completed`` and ``wait``."""
        return self._future

    def __repr__(self) -> str:
        return f"<APIFuture of {self._future!r}>"


#: The official package has two names for one thing.
AwaitableConcurrentFuture = APIFuture


class _Mapped(concurrent.futures.Future):  # type: ignore[type-arg]
    """Another future's result, put into another shape; cancelling it cancels that one."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source

    def cancel(self) -> bool:
        return bool(self._source.cancel())

    def abandon(self) -> None:
        self._source.abandon()


def mapped(source: concurrent.futures.Future[T], function: Callable[[T], U]) -> concurrent.futures.Future[U]:
    """A future of ``function(result)``; the function is short and does not block."""
    target = _Mapped(source)

    def settle(done: concurrent.futures.Future[T]) -> None:
        if done.cancelled():
            concurrent.futures.Future.cancel(target)
            target.set_running_or_notify_cancel()
            return
        error = done.exception()
        if error is not None:
            target.set_exception(error)
            return
        try:
            target.set_result(function(done.result()))
        except BaseException as failure:
            target.set_exception(failure)

    source.add_done_callback(settle)
    return target
