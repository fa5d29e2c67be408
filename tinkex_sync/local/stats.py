"""What the server received and did, as one JSON object (``GET /__stats``)."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any, DefaultDict, Dict, List

__all__ = ["COUNTERS", "Stats"]

#: Counters that are always present, so that a reader need not ask whether one exists.
COUNTERS = (
    "connections",  # TCP connections accepted
    "datums_received",  # datums of accepted forward and forward_backward requests
    "datums_done",  # of those, computed
    "dedupe_hits",  # requests answered with the promise of an earlier one (same number, same body)
    "idempotency_hits",  # requests answered with the recorded answer of an earlier one (same key)
    "optim_steps",  # optimizer steps done
    "samples_accepted",  # asample requests given a promise
    "samples_refused",  # asample requests answered 429
    "samples_done",  # samples computed
    "samples_delivered",  # results of samples handed to a poll for the first time
    "telemetry_events",
    "protobuf_requests",  # forward_backward bodies that came as protobuf
    "compressed_requests",  # of those, by zstd
    "protobuf_results",  # results that polls got as protobuf
    "samples_cancelled",  # samples taken back before they were done
    "samples_acknowledged",  # results forgotten as retrieve_futures said they were read
    "sessions_finished",
    "tokens_issued",
    "metadata_answers",  # polls answered with the size of the result only
)


class Stats:
    """Counters behind one lock; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))  # guarded by _lock
        self._requests: DefaultDict[str, Counter[str]] = defaultdict(Counter)  # guarded by _lock
        self._chunks: DefaultDict[str, List[int]] = defaultdict(list)  # guarded by _lock
        self._heartbeats: Counter[str] = Counter()  # guarded by _lock
        self._polls = 0  # guarded by _lock
        self._max_polls = 0  # guarded by _lock

    def add(self, counter: str, amount: int = 1) -> None:
        with self._lock:
            self._counters[counter] += amount

    def request(self, path: str, status: str) -> None:
        """One request was answered; ``status`` is its HTTP status, or what was done to the connection."""
        with self._lock:
            self._requests[path][status] += 1

    def chunk(self, model_id: str, datums: int) -> None:
        """A forward_backward request with so many datums was accepted."""
        with self._lock:
            self._chunks[model_id].append(datums)

    def heartbeat(self, session_id: str) -> None:
        with self._lock:
            self._heartbeats[session_id] += 1

    def poll_started(self) -> None:
        with self._lock:
            self._polls += 1
            self._max_polls = max(self._max_polls, self._polls)

    def poll_ended(self) -> None:
        with self._lock:
            self._polls -= 1

    def snapshot(self) -> Dict[str, Any]:
        """Everything counted so far.

        ``requests`` maps path to status to number; ``chunks`` maps model id to the datum counts of its
        forward_backward requests in order of arrival; ``heartbeats`` maps session id to number.
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
