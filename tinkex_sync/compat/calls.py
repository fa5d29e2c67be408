"""The five kinds of methods the official clients have, each made from a ``submit_*`` of ours."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Optional, TypeVar

from ..futures import Future
from .futures import APIFuture, mapped, settled

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")

__all__ = ["awaited", "awaited_promise", "blocking", "promised", "submitted", "warn_in_loop"]

T = TypeVar("T")
#: Of a client of the official shape and what ours gave it: what it gives.
Wrap = Callable[[Any, Any], Any]

_log = logging.getLogger(__name__)


def warn_in_loop(name: str) -> None:
    """Log a WARNING if this thread runs an event loop, which a blocking method would hold up."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None or "ipykernel" in sys.modules:
        return
    _log.warning("%s() was called inside a running event loop; await %s_async() instead", name, name)


def _dressed(made: Any, submit: Callable[..., Any], suffix: str = "") -> Any:
    """Name, signature and text of the method it is made from."""
    functools.update_wrapper(made, submit)
    made.__name__ = submit.__name__.replace("submit_", "", 1) + suffix
    made.__qualname__ = made.__name__
    made.__doc__ = f"As ``{submit.__qualname__}`` of tinkex_sync."
    return made


def promised(
    submit: Callable[Concatenate[Any, P], Future[T]],
) -> Callable[Concatenate[Any, P], APIFuture[T]]:
    """Returns an APIFuture at once."""

    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> APIFuture[T]:
        return APIFuture(submit(self._core, *args, **kwargs))

    made: Callable[Concatenate[Any, P], APIFuture[T]] = _dressed(method, submit)
    return made


def awaited_promise(
    submit: Callable[Concatenate[Any, P], Future[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, APIFuture[T]]]:
    """A coroutine that gives an APIFuture: two awaits to the result."""

    async def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> APIFuture[T]:
        return APIFuture(submit(self._core, *args, **kwargs))

    made: Callable[Concatenate[Any, P], Coroutine[Any, Any, APIFuture[T]]] = _dressed(
        method, submit, "_async"
    )
    return made


def submitted(
    submit: Callable[Concatenate[Any, P], Future[T]], warn: bool = False
) -> Callable[Concatenate[Any, P], Future[T]]:
    """Returns a concurrent.futures.Future at once."""

    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if warn:
            warn_in_loop(method.__name__)
        return submit(self._core, *args, **kwargs)

    made: Callable[Concatenate[Any, P], Future[T]] = _dressed(method, submit)
    return made


def awaited(
    submit: Callable[Concatenate[Any, P], Future[Any]], wrap: Optional[Wrap] = None
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, Any]]:
    """A coroutine that gives the result; ``wrap(self, result)`` of it, if that is given."""

    async def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await settled(_wrapped(self, submit(self._core, *args, **kwargs), wrap))

    made: Callable[Concatenate[Any, P], Coroutine[Any, Any, Any]] = _dressed(method, submit, "_async")
    return made


def blocking(
    submit: Callable[Concatenate[Any, P], Future[Any]], wrap: Optional[Wrap] = None
) -> Callable[Concatenate[Any, P], Any]:
    """Waits for the result; ``wrap(self, result)`` of it, if that is given."""

    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        warn_in_loop(method.__name__)
        return _wrapped(self, submit(self._core, *args, **kwargs), wrap).result()

    made: Callable[Concatenate[Any, P], Any] = _dressed(method, submit)
    return made


def _wrapped(owner: Any, future: Future[Any], wrap: Optional[Wrap]) -> concurrent.futures.Future[Any]:
    return future if wrap is None else mapped(future, lambda result: wrap(owner, result))
