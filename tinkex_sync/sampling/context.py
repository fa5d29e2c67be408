"""The objects that the samples of one sampling client share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Iterator, Optional

from ..concurrency.primitives import Lock
from ..errors import APIConnectionError
from ..http.retry import RetryConfig
from ..plugins.events import Source
from ..polling.bulk_poller import BulkPoller
from ..polling.queue_states import QueueStates
from ..session import Session
from ..throttle.semaphores import CountingSemaphore


class Progress:
    """The time of the last success of one sampling client, to detect a server that makes no progress. Thread-safe.

    Args:
        now: Returns the time of the client's clock.
        limit: Seconds without a success after which samples fail.
    """

    def __init__(self, now: Callable[[], float], limit: float) -> None:
        self._now = now
        self.limit = limit
        self._lock = Lock()
        self._running = 0  # guarded by _lock
        self._last = now()  # guarded by _lock
        #: Seconds for which a sample waited for the latest result, a hint for the next one.
        self.latest_wait = math.inf

    def begin(self) -> None:
        """Record that a sample starts. If no other one runs, the limit counts from now."""
        with self._lock:
            if self._running == 0:
                self._last = self._now()
            self._running += 1

    def end(self, *, success: bool) -> None:
        """Record that a sample has ended."""
        with self._lock:
            self._running -= 1
            if success:
                self._last = self._now()

    def gives_up_at(self) -> float:
        """Return the time at which samples fail if none succeeds before."""
        with self._lock:
            return self._last + self.limit

    def error(self) -> APIConnectionError:
        """Return the error of a sample that fails for lack of progress."""
        return APIConnectionError(f"No progress made in {self.limit}s. Requests appear to be stuck.")


@dataclass(frozen=True)
class SamplingContext:
    """The objects that the samples of one sampling client share. Immutable; the objects are thread-safe."""

    session: Session
    source: Source
    retry: RetryConfig
    #: Samples in progress, from dispatch to result.
    running: CountingSemaphore
    progress: Progress
    states: QueueStates
    #: One poll for all samples, if the server supports it.
    bulk: Optional[BulkPoller]
    #: Dense numbers of the samples.
    seq_ids: Iterator[int]
