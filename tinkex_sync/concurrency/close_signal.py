"""The signal that a client is closed: it wakes every thread of the client that waits."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Dict, Iterator

from .primitives import Event


class CloseSignal(Event):
    """An event that is set once, when its client is closed. Thread-safe and signal-safe.

    Threads that only wait for time to pass wait on the signal itself. A thread that waits for another event
    registers this event with :meth:`waking`, so that nothing has to check for the signal periodically.

    Invariant: once the signal is set, every event registered before or after that is set too.
    """

    __slots__ = ("_events",)

    def __init__(self) -> None:
        super().__init__()
        self._events: Dict[object, Event] = {}  # changed only by atomic methods of dict

    def set(self) -> None:
        """Set the signal, wake its waiters and set every registered event. Idempotent."""
        super().set()
        while self._events:
            try:
                _, event = self._events.popitem()
            except KeyError:  # another thread was faster
                return
            event.set()

    def clear(self) -> None:
        """Raise RuntimeError: a closed client stays closed."""
        raise RuntimeError("a close signal cannot be cleared")

    @contextmanager
    def waking(self, event: Event) -> Iterator[None]:
        """Set ``event`` too when the signal is set, during a ``with`` block.

        If the signal is set already, the event is set immediately.
        """
        key = object()
        self._events[key] = event
        try:
            if self._flag:  # it was set before the event was registered
                event.set()
            yield
        finally:
            self._events.pop(key, None)
