"""Hooks that do not return: a watchdog logs them, and with a time limit they are left behind."""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
import traceback
from typing import Any, Callable, Dict, Iterable, List, Set, Tuple

from ..concurrency.primitives import Event, ModuleLock, start_thread
from ..errors import PluginError
from ..logs import get_logger

_log = get_logger("tinkex_sync.plugins")

#: Seconds after which a running hook is logged, and seconds between two checks.
WARN_AFTER, _CHECK_EVERY = 5.0, 1.0

#: A hook that runs: when it started on ``time.monotonic()``, names of plugin and hook, id of the thread.
RunningHook = Tuple[float, str, str, int]

#: Changed only by atomic methods of dict. The key is the entry's own id.
_running: Dict[int, RunningHook] = {}
_lock = ModuleLock()
_is_watching = False  # changed with _lock held


class HookTimeoutError(PluginError):
    """A hook did not return within ``Config.hook_timeout``."""


def begin(plugin: str, hook: str) -> int:
    """Watch a hook that the calling thread runs, until :func:`end` of the returned key."""
    entry = (time.monotonic(), plugin, hook, threading.get_ident())
    key = id(entry)
    _running[key] = entry
    if not _is_watching:
        _start()
    return key


def end(key: int) -> None:
    """Watch the hook no longer. Idempotent."""
    _running.pop(key, None)


def _start() -> None:
    global _is_watching
    with _lock:
        if _is_watching:
            return
        _is_watching = True
    try:
        start_thread(_watch, "tinkex-hook-watch")
    except RuntimeError:
        _is_watching = False  # The next hook tries again.


def _watch() -> None:
    """Log hooks that have been running for long, each once. Ends when no hook runs."""
    global _is_watching
    pause = Event()
    logged: Set[int] = set()
    while True:
        pause.wait(_CHECK_EVERY)
        entries = dict(_running)
        logged &= entries.keys()
        for key, entry in entries.items():
            if key not in logged and time.monotonic() - entry[0] >= WARN_AFTER:
                logged.add(key)
                _log_stuck(*entry)
        if not entries:
            _is_watching = False
            if not _running:  # otherwise a hook has begun before the assignment
                return
            _is_watching = True


def _log_stuck(started: float, plugin: str, hook: str, thread: int) -> None:
    frame = sys._current_frames().get(thread)
    stack = "" if frame is None else "".join(traceback.format_stack(frame)[-4:])
    text = "plugin %s has been in %s for %.0f s and blocks the calling thread; Config.hook_timeout limits that:\n%s"
    _log.warning(text, plugin, hook, time.monotonic() - started, stack)


def run_within(limit: float, function: Callable[..., object], arguments: Iterable[Any]) -> None:
    """Run a hook in a thread of its own, in the context of this one, and wait for its end.

    Args:
        limit: Seconds after which it is left behind.

    Raises:
        HookTimeoutError: It has not returned within the limit.
        Exception: That of the hook.
    """
    done, context = Event(), contextvars.copy_context()
    failures: List[Exception] = []

    def run() -> None:
        try:
            context.run(function, *arguments)
        except Exception as error:
            failures.append(error)
        finally:
            done.set()

    start_thread(run, "tinkex-hook")
    if not done.wait(limit):
        raise HookTimeoutError(f"it has not returned within {limit:g} s (Config.hook_timeout)")
    if failures:
        raise failures[0]


def _after_fork() -> None:
    """Forget the hooks of the parent, in whose threads they run."""
    global _is_watching
    _running.clear()
    _is_watching = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
