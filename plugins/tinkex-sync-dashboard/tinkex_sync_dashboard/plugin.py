"""The plugin: it collects events, summarises them in its own thread, and serves the page."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any, Dict, Optional, Sequence

from tinkex_sync import hookimpl
from tinkex_sync.plugins import QueuedObserver, observe_all

from .runs import HOOKS, Runs
from .server import DashboardServer

__all__ = ["Dashboard"]

PREFIX = "tinkex_"
VARIABLE = "TINKEX_SYNC_DASHBOARD"
logger = logging.getLogger("tinkex_sync.dashboard")


class Dashboard(QueuedObserver):
    """Show the runs of this process on a local web page.

    All instances of a process share one page. The first event opens it and prints its address on standard error. It
    exists until the process ends.

    Args:
        port: The port. 0: a free one. Default: TINKEX_SYNC_DASHBOARD, in which 1 means a free port. If the variable
            is not set, is empty or is 0, the plugin does nothing.

    Raises:
        ValueError: The port is not a number from 0 to 65535.
    """

    def __init__(self, port: Optional[int] = None) -> None:
        super().__init__(capacity=100_000, batch=2_000, interval=2.0)
        self._port = _read_port() if port is None else port
        if self._port is not None:
            if not 0 <= self._port <= 65535:
                raise ValueError(f"the port must be from 0 to 65535, got {self._port}; 0 means a free port")
            observe_all(self, self._receive)
            # Events that the page does not show must not cost their threads anything.
            for name in [name for name in vars(self) if name.startswith(PREFIX) and name[len(PREFIX) :] not in HOOKS]:
                delattr(self, name)

    @property
    def url(self) -> Optional[str]:
        """Address of the page, which is opened if it is not; None if the plugin does nothing."""
        return None if self._port is None else _Page.get(self._port).url

    @hookimpl
    def tinkex_session_opened(self) -> None:
        """Do nothing: this hook exists because a plugin without any is reported. A dashboard that is on replaces it."""

    def _receive(self, hook: str, facts: Dict[str, Any]) -> None:
        self.put((time.time(), hook, facts))

    def handle(self, events: Sequence[Any]) -> None:
        """Add events to the summaries."""
        assert self._port is not None
        _Page.get(self._port).runs.add("", events)


class _Page:
    """The page of this process, made by the first plugin."""

    _lock = threading.Lock()
    _current: Optional[_Page] = None  # guarded by _lock

    def __init__(self, port: int) -> None:
        self.runs = Runs()
        self.pid = os.getpid()
        try:
            self.url = DashboardServer(self.runs, port).url
        except OSError as error:
            logger.warning("the port is not available, so the dashboard uses another: port=%d error=%s", port, error)
            self.url = DashboardServer(self.runs, 0).url
        print(f"tinkex-sync-dashboard: {self.url}", file=sys.stderr, flush=True)

    @classmethod
    def get(cls, port: int) -> _Page:
        """Return the page of this process. A forked child makes its own one, because it has no threads."""
        with cls._lock:
            if cls._current is None or cls._current.pid != os.getpid():
                cls._current = cls(port)
            return cls._current


def _forget_parent() -> None:
    """Replace the lock, which another thread of the parent may have held."""
    _Page._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


def _read_port() -> Optional[int]:
    value = os.environ.get(VARIABLE, "").strip()
    if value in ("", "0"):
        return None
    if not value.isdecimal():
        raise ValueError(f"{VARIABLE} must be 0, 1 or a port, got {value!r}")
    return 0 if value == "1" else int(value)
