"""The queue-state log: a plugin that warns when the server makes a client wait, and says why."""

from __future__ import annotations

import logging
import threading
from typing import Any, Dict, Optional, Tuple

from ..concurrency.clock import Clock
from .hookspecs import Source, hookimpl

__all__ = ["QueueLog", "default_reason", "message"]

logger = logging.getLogger(__name__)

#: Seconds between two lines about one client.
INTERVAL = 60.0

_CAPACITY = "Tinker backend is running short on capacity, please wait"

# (kind of client, or None for the others; queue state) -> why, where the server does not say
_REASONS: Dict[Tuple[Optional[str], str], str] = {
    ("sampling", "paused_rate_limit"): "concurrent sampler weights limit hit",
    (None, "paused_rate_limit"): "concurrent training clients rate limit hit",
    (None, "paused_capacity"): _CAPACITY,
}

# Models are created by the service client, on a slot of the training clients.
_SUBJECTS = {
    "training": "Training is paused for {}",
    "sampling": "Sampling is paused for sampler {}",
    "service": "Model creation is paused for session {}",
}


def default_reason(kind: str, state: str) -> str:
    """Why a client of ``kind`` is in queue state ``state``, in words, where the server does not say."""
    return _REASONS.get((kind, state)) or _REASONS.get((None, state)) or "unknown"


def message(source: Source, state: str, reason: Any) -> str:
    """The line to log. ``reason`` is the server's; where it is empty or None the default stands in."""
    subject = _SUBJECTS.get(source.kind, "Waiting is asked of {}").format(source.id)
    return f"{subject}. Reason: {reason or default_reason(source.kind, state)}"


class QueueLog:
    """Log a WARNING when a client is paused, then another at most each 60 s while it is; never about "active".

    A state or reason that changes sooner is not logged either. While a pause lasts the server's repeated words
    (408 or try_again to a poll, 429 to a sample) are the occasion to log again, so no thread or timer is needed.

    Invariant, whenever ``_lock`` is free: ``_paused`` holds the clients whose last known state is not
    "active".
    """

    def __init__(self, clock: Optional[Clock] = None, log: logging.Logger = logger) -> None:
        self._clock = clock or Clock()
        self._log_to = log
        self._lock = threading.Lock()
        self._paused: Dict[Source, Tuple[str, Any]] = {}  # guarded by _lock
        self._logged: Dict[Source, float] = {}  # guarded by _lock

    @hookimpl
    def tinkex_queue_state_changed(self, source: Source, state: str, reason: Optional[str]) -> None:
        with self._lock:
            if state == "active":
                self._paused.pop(source, None)
                return
            self._paused[source] = (state, reason)
        self._log(source, state, reason)

    @hookimpl
    def tinkex_request_finished(self, source: Source, status: Optional[int]) -> None:
        if status in (408, 429):
            self.still_paused(source)

    def still_paused(self, source: Source) -> None:
        """The server has said again that a client has to wait."""
        with self._lock:
            paused = self._paused.get(source)
        if paused is not None:
            self._log(source, *paused)

    def _log(self, source: Source, state: str, reason: Any) -> None:
        now = self._clock.time()
        with self._lock:
            last = self._logged.get(source)
            if last is not None and now - last < INTERVAL:
                return
            # What is older decides nothing any more, and clients come and go.
            self._logged = {one: then for one, then in self._logged.items() if now - then < INTERVAL}
            self._logged[source] = now
        self._log_to.warning("%s", message(source, state, reason))
