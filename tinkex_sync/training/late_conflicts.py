"""Servers that judge numbers late: when an operation is carried out, not when it is taken.

There a POST is always accepted, and its promise tells of the conflict. An operation that failed has used up no
number, so that every later one is refused until it is sent again under the number the server waits for.
"""

from __future__ import annotations

import re
from typing import Optional, Set

from ..concurrency.primitives import Event, Lock
from ..errors import ConflictError

__all__ = ["Verdicts", "conflict"]

_NUMBERS = re.compile(r"\bexpected\D{0,20}(\d+)\D{1,20}(\d+)")


class Verdicts:
    """What became of a model's operations, by their place in the order we sent them in.

    Places are dense and ours; numbers go over the wire. They are the same until a server has shown that a failed
    operation uses up no number: from then on a number is its place less the failures before it. Invariant: ``_open``
    holds the places that were accepted and have no verdict; ``_failed`` those whose operation failed.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: Set[int] = set()  # guarded by _lock
        self._failed: Set[int] = set()  # guarded by _lock
        self._skips_failed = False  # guarded by _lock
        self._next_verdict = Event()  # guarded by _lock; replaced at each verdict

    def number(self, place: int) -> int:
        """What goes over the wire for the operation at ``place``, as far as is known now."""
        with self._lock:
            return self._without_failed(place) if self._skips_failed else place

    def number_without_failed(self, place: int) -> int:
        """The same, supposing that failed operations use up no number."""
        with self._lock:
            return self._without_failed(place)

    def _without_failed(self, place: int) -> int:
        """Call with ``_lock`` held."""
        return place - sum(failed < place for failed in self._failed)

    def accepted(self, place: int) -> None:
        """The server has taken the operation at ``place``."""
        with self._lock:
            self._open.add(place)

    def settled(self, place: int, *, failed: bool = False) -> None:
        """Its verdict is known, or nobody waits for it any more."""
        with self._lock:
            self._open.discard(place)
            if failed:
                self._failed.add(place)
            decided, self._next_verdict = self._next_verdict, Event()
        decided.set()

    def next_verdict(self) -> Event:
        """Return an event that is set when the next verdict is known."""
        with self._lock:
            return self._next_verdict

    def none_open_before(self, place: int) -> bool:
        """Whether every earlier operation has its verdict."""
        with self._lock:
            return not any(earlier < place for earlier in self._open)

    def skips_failed(self) -> None:
        """The server has shown that a failed operation uses up no number."""
        with self._lock:
            self._skips_failed = True


def conflict(error: Exception, number: int) -> Optional[bool]:
    """Whether a failure says that the server waits for another number than ``number``.

    Returns:
        None: it says something else. True: it waits for a lower one, so this one was not counted. False: it does
        not say, or waits for a higher one, so this one was counted before.
    """
    found = _NUMBERS.search(str(error))
    if found is not None and int(found.group(2)) == number:
        return int(found.group(1)) < number
    return False if isinstance(error, ConflictError) else None
