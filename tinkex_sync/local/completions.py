"""Finished samples, which clients poll once per sampling session instead of once per sample."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any, DefaultDict, Dict, List, Set, Tuple

from ..concurrency.clock import Clock
from .server_futures import OperationResult

__all__ = ["Completions", "SamplerCopy"]

#: The id of a sampling session, and the number of a copy of its sampler (0: the original).
SamplerCopy = Tuple[str, int]


class Completions:
    """The finished samples of each copy of a sampler, in the order in which they finished. Thread-safe.

    Completions before the cursor of a poll are dropped, because the client has received them.

    Invariant: a cursor is the number of completions of its sampler copy that were added before it. ``_dropped`` of them
    are not in ``_finished``. Every event in ``_waiting`` belongs to a poll that has not returned.

    Args:
        clock: The clock of polls.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._finished: DefaultDict[SamplerCopy, List[Dict[str, Any]]] = defaultdict(list)  # guarded by _lock
        self._dropped: Counter[SamplerCopy] = Counter()  # guarded by _lock
        self._waiting: DefaultDict[SamplerCopy, Set[threading.Event]] = defaultdict(set)  # guarded by _lock
        self._closed = False  # guarded by _lock

    def add(self, copy: SamplerCopy, request_id: str, result: OperationResult) -> None:
        """Add a finished sample, and wake the polls that wait for it."""
        completion: Dict[str, Any] = {"state": "failed", "request_id": request_id}
        if not result.failed:
            completion["state"] = "finished"
            completion["response_payload_uncompressed_size"] = len(result.body_for(accepts_protobuf=True))
        with self._lock:
            self._finished[copy].append(completion)
            waiting = list(self._waiting[copy])
        for event in waiting:
            event.set()

    def close(self) -> None:
        """Make every waiting poll return."""
        with self._lock:
            self._closed = True
            waiting = [event for events in self._waiting.values() for event in events]
        for event in waiting:
            event.set()

    def wait_since(self, copy: SamplerCopy, cursor: int, hold: float) -> Tuple[List[Dict[str, Any]], int]:
        """Wait until there are completions behind a cursor.

        Args:
            copy: The copy of the sampler.
            cursor: The cursor that the previous poll returned, or 0.
            hold: Seconds to wait at most.

        Returns:
            The completions, and the next cursor.
        """
        deadline = self._clock.time() + hold
        while True:
            woken = threading.Event()
            with self._lock:
                finished, dropped = self._finished[copy], self._dropped[copy]
                received = min(max(cursor - dropped, 0), len(finished))
                del finished[:received]
                self._dropped[copy] = dropped = dropped + received
                remaining = deadline - self._clock.time()
                if finished or self._closed or remaining <= 0:
                    return list(finished), max(cursor, dropped + len(finished))
                self._waiting[copy].add(woken)
            self._clock.wait(woken, remaining)
            with self._lock:
                self._waiting[copy].discard(woken)
