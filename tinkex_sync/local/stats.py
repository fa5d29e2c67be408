"""Counters of requests and operations. ``GET /__stats`` returns them as one JSON object."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any, DefaultDict, Dict, List

__all__ = ["COUNTERS", "Stats"]

#: The names of all counters. Each is present in a snapshot even if it is 0.
COUNTERS = (
    "connections",  # accepted TCP connections
    "datums_received",  # datums of accepted forward and forward_backward requests
    "datums_done",  # computed datums
    "dedupe_hits",  # repetitions of an earlier request: the same number and the same body
    "idempotency_hits",  # repetitions of an earlier request: the same idempotency key
    "optim_steps",  # completed optimizer steps
    "samples_accepted",  # accepted asample requests
    "samples_refused",  # asample requests that got 429
    "samples_done",  # computed samples
    "samples_delivered",  # results of samples that a poll returned, each counted once
    "telemetry_events",
    "protobuf_requests",  # forward_backward bodies in protobuf
    "compressed_requests",  # forward_backward bodies in protobuf with zstd compression
    "protobuf_results",  # results returned in protobuf
    "samples_cancelled",  # samples cancelled before they were computed
    "samples_acknowledged",  # results discarded because retrieve_futures acknowledged them
    "sessions_finished",
    "tokens_issued",
    "metadata_answers",  # polls that returned only the size of a result
)


class Stats:
    """Counters of requests and operations. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))  # guarded by _lock
        self._requests: DefaultDict[str, Counter[str]] = defaultdict(Counter)  # guarded by _lock
        self._chunks: DefaultDict[str, List[int]] = defaultdict(list)  # guarded by _lock
        self._heartbeats: Counter[str] = Counter()  # guarded by _lock
        self._polls = 0  # guarded by _lock
        self._max_polls = 0  # guarded by _lock

    def add(self, counter: str, amount: int = 1) -> None:
        """Increase one of the counters in COUNTERS."""
        with self._lock:
            self._counters[counter] += amount

    def count_request(self, path: str, status: str) -> None:
        """Count a request. ``status`` is its status code, or the fault that was injected into its connection."""
        with self._lock:
            self._requests[path][status] += 1

    def count_chunk(self, model_id: str, datums: int) -> None:
        """Record the number of datums of an accepted forward_backward request."""
        with self._lock:
            self._chunks[model_id].append(datums)

    def count_heartbeat(self, session_id: str) -> None:
        """Count a heartbeat of a session."""
        with self._lock:
            self._heartbeats[session_id] += 1

    def poll_started(self) -> None:
        """Count a poll as held."""
        with self._lock:
            self._polls += 1
            self._max_polls = max(self._max_polls, self._polls)

    def poll_ended(self) -> None:
        """Count a held poll as ended."""
        with self._lock:
            self._polls -= 1

    def snapshot(self) -> Dict[str, Any]:
        """Return all counts.

        Returns:
            The counters in COUNTERS, and these: ``requests`` maps a path to a map from status to number. ``chunks``
            maps a model id to the numbers of datums of its forward_backward requests, in order of arrival.
            ``heartbeats`` maps a session id to a number. ``polls`` is the number of held polls, ``max_polls`` its
            maximum.
        """
        with self._lock:
            return {
                **self._counters,
                "requests": {path: dict(statuses) for path, statuses in self._requests.items()},
                "chunks": {model_id: list(sizes) for model_id, sizes in self._chunks.items()},
                "heartbeats": dict(self._heartbeats),
                "polls": self._polls,
                "max_polls": self._max_polls,
            }
