"""A tinkex_sync plugin that shows a run live in the terminal or in a notebook. The README describes it.

It writes to standard error, and only if that is a terminal or the process is a notebook. ``TINKEX_SYNC_PROGRESS=off``
turns it off.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from importlib.util import find_spec
from typing import Any, Dict, Mapping, Optional, Set

from rich.console import Console
from rich.live import Live

from tinkex_sync import hookimpl

from .state import State
from .view import frame

__all__ = ["Progress"]

#: Frames per second.
_RATE = 4


class _Display:
    """The view on one console. All clients of a process share it. Thread-safe.

    It is shown from the first event until every plugin that had an event is closed. A forked child shows nothing.
    """

    def __init__(self, console: Console) -> None:
        self.state = State(time.monotonic)
        self._console = console
        is_off = os.environ.get("TINKEX_SYNC_PROGRESS", "").lower() in ("off", "0", "false", "no")
        self._is_shown = not is_off and (_has_widgets() if console.is_jupyter else _is_live_terminal(console))
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._users: Set[int] = set()  # guarded by _lock
        self._live: Optional[Live] = None  # guarded by _lock

    def enter(self, user: int) -> None:
        """Show the view. ``user`` identifies a plugin object."""
        with self._lock:
            self._users.add(user)
            if self._live is not None or not self._is_shown or os.getpid() != self._pid:
                return
            live = self._live = Live(
                console=self._console, get_renderable=lambda: frame(self.state.snapshot()), refresh_per_second=_RATE
            )
        live.start()
        with self._lock:
            is_current = self._live is live
        if not is_current:  # the last client was closed meanwhile
            live.stop()

    def leave(self, user: int) -> None:
        """Leave the last frame on the screen if no other plugin uses the view."""
        with self._lock:
            self._users.discard(user)
            if self._users or self._live is None or os.getpid() != self._pid:
                return
            live, self._live = self._live, None
        live.stop()


def _is_live_terminal(console: Console) -> bool:
    is_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return console.is_terminal and not console.is_dumb_terminal and not is_ci


def _has_widgets() -> bool:
    """Return whether rich can show a view in this notebook."""
    if find_spec("ipywidgets") is not None:
        return True
    text = "no progress is shown, because a notebook needs ipywidgets: pip install ipywidgets"
    warnings.warn(text, RuntimeWarning, stacklevel=2)
    return False


_displays: Dict[Console, _Display] = {}  # guarded by _displays_lock
_displays_lock = threading.Lock()
_default_console: Optional[Console] = None  # guarded by _displays_lock


def _display_on(console: Optional[Console]) -> _Display:
    global _default_console
    with _displays_lock:
        if console is None:
            if _default_console is None:
                _default_console = Console(stderr=True)
            console = _default_console
        if console not in _displays:
            _displays[console] = _Display(console)
        return _displays[console]


class Progress:
    """Shows calls, queue states, rates, backoffs and loss. All methods are thread-safe.

    Args:
        console: Where it is shown. Default: one console of this process on standard error.
    """

    def __init__(self, console: Optional[Console] = None) -> None:
        self._display = _display_on(console)
        self._state = self._display.state

    @hookimpl
    def tinkex_call_started(self, operation: str) -> None:
        self._state.start_call(operation)
        self._display.enter(id(self))

    @hookimpl
    def tinkex_call_finished(self, operation: str, outcome: str, facts: Mapping[str, Any]) -> None:
        self._state.end_call(operation, outcome, facts)

    @hookimpl
    def tinkex_queue_state_changed(self, source: Any, state: str, reason: Optional[str], waited: float) -> None:
        self._state.pause(source, state, reason, waited)

    @hookimpl
    def tinkex_session_closed(self, source: Any) -> None:
        self._state.end_session(source.session_id)

    @hookimpl
    def tinkex_dispatch_acquired(self, in_flight: int, waiting: int) -> None:
        self._state.use(in_flight, waiting)

    @hookimpl
    def tinkex_dispatch_released(self, in_flight: int, waiting: int) -> None:
        self._state.use(in_flight, waiting)

    @hookimpl
    def tinkex_backoff_started(self, duration: float) -> None:
        self._state.back_off(duration)

    @hookimpl
    def tinkex_adam_params_serialized(self, params: Any) -> None:
        self._state.set_learning_rate(params.learning_rate)

    def close(self) -> None:
        """End the view after the last client. Called when a client is closed."""
        self._display.leave(id(self))
