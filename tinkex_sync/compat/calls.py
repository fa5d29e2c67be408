"""The five kinds of methods of the official clients, each derived from a ``submit_*`` method of tinkex_sync.

Each function takes a ``submit_*`` method and returns a method of a compat client, which calls it on the client's
``native``.
"""

from __future__ import annotations

import concurrent.futures
import functools
import sys
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Optional, TypeVar

from ..futures import Future
from ..logs import get_logger
from .futures import APIFuture, map_future, result_in_loop

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")

__all__ = [
    "api_future_method", "async_api_future_method", "async_result_method", "future_method", "result_method",
    "warn_in_loop",
]  # fmt: skip

T = TypeVar("T")
#: Makes the method's result of the compat client and the native result.
Convert = Callable[[Any, Any], Any]

_log = get_logger(__name__)


def warn_in_loop(name: str) -> None:
    """Log a WARNING if this thread runs an event loop, because the blocking method ``name`` would block the loop."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None or "ipykernel" in sys.modules:
        return
    _log.warning("%s() was called in a running event loop and blocks it: await %s_async() instead", name, name)


def api_future_method(submit: Callable[Concatenate[Any, P], Future[T]]) -> Callable[Concatenate[Any, P], APIFuture[T]]:
    """Return a method that submits and returns an APIFuture."""

    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> APIFuture[T]:
        return APIFuture(submit(self.native, *args, **kwargs))

    described: Callable[Concatenate[Any, P], APIFuture[T]] = _describe(method, submit)
    return described


def async_api_future_method(
    submit: Callable[Concatenate[Any, P], Future[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, APIFuture[T]]]:
    """Return a coroutine function whose result is an APIFuture, so that a result needs two awaits."""

    async def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> APIFuture[T]:
        return APIFuture(submit(self.native, *args, **kwargs))

    described: Callable[Concatenate[Any, P], Coroutine[Any, Any, APIFuture[T]]] = _describe(method, submit, "_async")
    return described


def future_method(
    submit: Callable[Concatenate[Any, P], Future[T]], warn: bool = False
) -> Callable[Concatenate[Any, P], Future[T]]:
    """Return a method that submits and returns a concurrent.futures.Future; ``warn`` in a running event loop."""

    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if warn:
            warn_in_loop(method.__name__)
        return submit(self.native, *args, **kwargs)

    described: Callable[Concatenate[Any, P], Future[T]] = _describe(method, submit)
    return described


def async_result_method(
    submit: Callable[Concatenate[Any, P], Future[Any]], convert: Optional[Convert] = None
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, Any]]:
    """Return a coroutine function whose result is the operation's result, or ``convert(client, result)``."""

    async def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await result_in_loop(_converted(self, submit(self.native, *args, **kwargs), convert))

    described: Callable[Concatenate[Any, P], Coroutine[Any, Any, Any]] = _describe(method, submit, "_async")
    return described


def result_method(
    submit: Callable[Concatenate[Any, P], Future[Any]], convert: Optional[Convert] = None
) -> Callable[Concatenate[Any, P], Any]:
    """Return a method that waits for the operation's result and returns it, or ``convert(client, result)``."""

    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        warn_in_loop(method.__name__)
        return _converted(self, submit(self.native, *args, **kwargs), convert).result()

    described: Callable[Concatenate[Any, P], Any] = _describe(method, submit)
    return described


def _converted(client: Any, future: Future[Any], convert: Optional[Convert]) -> concurrent.futures.Future[Any]:
    return future if convert is None else map_future(future, lambda result: convert(client, result))


def _describe(method: Any, submit: Callable[..., Any], suffix: str = "") -> Any:
    """Give a method the signature of ``submit``, its name without ``submit_``, and a docstring."""
    functools.update_wrapper(method, submit)
    method.__name__ = submit.__name__.replace("submit_", "", 1) + suffix
    method.__qualname__ = method.__name__
    method.__doc__ = f"Call ``{submit.__qualname__}`` of tinkex_sync, with the same arguments and errors."
    return method
