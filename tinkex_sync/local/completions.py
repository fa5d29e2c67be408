"""Samples that are done, told to one poller per sampling session."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, DefaultDict, Dict, List, Set, Tuple

from ..concurrency.clock import Clock
from .operations import Result

__all__ = ["Completions", "Group"]

#: Sampling session and number of the copy of its sampler.
Group = Tuple[str, int]


class Completions:
    """What was completed, per group and in that order.

    Invariant: a completion stays at its place in its group's list, so that a place (a cursor) means the same for
    ever; every event in ``_waiting`` belongs to a poll that has not returned.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._done: DefaultDict[Group, List[Dict[str, Any]]] = defaultdict(list)  # guarded by _lock
        self._waiting: DefaultDict[Group, Set[threading.Event]] = defaultdict(set)  # guarded by _lock
        self._closed = False  # guarded by _lock

    def add(self, group: Group, request_id: str, result: Result) -> None:
        """A sample is done."""
        if result.failed:
            told: Dict[str, Any] = {"state": "failed", "request_id": request_id}
        else:
            size = len(result.as_wanted(packed=True))
            told = {
                "state": "finished",
                "request_id": request_id,
                "response_payload_uncompressed_size": size,
            }
        with self._lock:
            self._done[group].append(told)
            waiting = list(self._waiting[group])
        for event in waiting:
            event.set()

    def close(self) -> None:
        """Answer every poll."""
        with self._lock:
            self._closed = True
            waiting = [event for events in self._waiting.values() for event in events]
        for event in waiting:
            event.set()

    def since(self, group: Group, cursor: int, hold: float) -> Tuple[List[Dict[str, Any]], int]:
        """What was completed after ``cursor``, and the cursor to ask with next.

        Args:
            hold: Seconds to wait for something to tell.
        """
        ends = self._clock.time() + hold
        while True:
            told = threading.Event()
            with self._lock:
                done = self._done[group]
                left = ends - self._clock.time()
                if len(done) > cursor or self._closed or left <= 0:
                    return done[cursor:], max(cursor, len(done))
                self._waiting[group].add(told)
            self._clock.wait(told, left)
            with self._lock:
                self._waiting[group].discard(told)
