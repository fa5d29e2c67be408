"""Handle Ctrl-C where work in progress should be finished first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Callable, Optional, Type

__all__ = ["DeferredInterrupt"]


class DeferredInterrupt:
    """A context manager in which the first Ctrl-C is only noted and the second one raises KeyboardInterrupt.

    In a thread other than the main thread it has no effect, because only the main thread may set signal handlers.

    Args:
        on_interrupt: Called by the signal handler at the first Ctrl-C. It must not wait for a lock.
    """

    def __init__(self, on_interrupt: Callable[[], None]) -> None:
        #: Whether Ctrl-C was pressed.
        self.is_requested = False
        self._on_interrupt = on_interrupt
        self._previous_handler: Any = None

    def __enter__(self) -> DeferredInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)

    def _handle(self, _number: int, _frame: Optional[FrameType]) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
        self._on_interrupt()
