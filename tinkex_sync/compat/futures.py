"""Futures of the official shape: blocking, awaitable, and with a concurrent.futures.Future inside."""

from __future__ import annotations

import concurrent.futures
from typing import Any, Callable, Generator, Generic, Optional, TypeVar

__all__ = ["APIFuture", "AwaitableConcurrentFuture", "mapped"]

T = TypeVar("T")
U = TypeVar("U")


class APIFuture(Generic[T]):
    """A result that is on its way. ``await`` it in any event loop, or call :meth:`result`."""

    def __init__(self, future: concurrent.futures.Future[T]) -> None:
        self._future = future

    def result(self, timeout: Optional[float] = None) -> T:
        """Wait for it, for at most ``timeout`` seconds (TimeoutError); the operation itself goes on."""
        return self._future.result(timeout)

    async def result_async(self, timeout: Optional[float] = None) -> T:
        """:meth:`result`, in the caller's event loop."""
        import asyncio

        # Shielded, because the end of a wait must not withdraw an operation that others wait for.
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._future)), timeout)

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

    def __init__(self, source: concurrent.futures.Future[Any]) -> None:
        super().__init__()
        self._source = source

    def cancel(self) -> bool:
        return self._source.cancel()


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
