"""Closing of objects at interpreter exit, before concurrent.futures waits for its workers."""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import thread as _import_before_registering  # noqa: F401
from typing import Any, Protocol

from ..logs import get_logger
from .primitives import ModuleLock

_log = get_logger(__name__)


class _Closable(Protocol):
    def close(self) -> Any: ...


_objects: weakref.WeakSet[_Closable] = weakref.WeakSet()  # guarded by _lock
_lock = ModuleLock()


def close_at_exit(closable: _Closable) -> None:
    """Call ``closable.close()`` when the interpreter exits, if the object still exists then. Held weakly."""
    with _lock:
        _objects.add(closable)


def _forget_objects() -> None:
    # In a forked child the objects are the parent's.
    _objects.clear()


def _close_all() -> None:
    with _lock:
        objects = list(_objects)
    for closable in objects:
        closable.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_objects)
# Callbacks of atexit run after concurrent.futures has joined its workers, which may wait for results of this package.
# Callbacks that are registered here, after that module was imported, run before it joins them.
try:
    threading._register_atexit(_close_all)  # type: ignore[attr-defined]
except RuntimeError:
    _log.debug("Imported while the interpreter exits: sessions are not closed")
