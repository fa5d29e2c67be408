"""Closing of clients by Ctrl-C while other threads wait for them.

A pool of threads inside a client's ``with`` block waits for all its queued work before the block can be left. Without
this module, Ctrl-C would have no effect until the whole queue was processed.
"""

from __future__ import annotations

import signal
import threading
from typing import Any, List, Protocol


class _Interruptible(Protocol):
    def interrupt(self) -> None: ...


#: The objects whose ``with`` blocks the main thread is in. Changed by the main thread only.
_entered: List[_Interruptible] = []


def enter(interruptible: _Interruptible) -> None:
    """Call ``interruptible.interrupt()`` at Ctrl-C until :func:`leave`, before KeyboardInterrupt is raised.

    It has no effect outside of the main thread, or if the program handles the signal itself.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt_all):
        _entered.append(interruptible)
        signal.signal(signal.SIGINT, _interrupt_all)


def leave(interruptible: _Interruptible) -> None:
    """End the effect of :func:`enter`; the last one restores Python's own handler. Idempotent."""
    if threading.current_thread() is threading.main_thread() and interruptible in _entered:
        _entered.remove(interruptible)
        if not _entered and signal.getsignal(signal.SIGINT) is _interrupt_all:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt_all(number: int, frame: Any) -> None:
    for one in list(_entered):
        one.interrupt()
    signal.default_int_handler(number, frame)
