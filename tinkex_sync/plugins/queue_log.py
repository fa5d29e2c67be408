"""Built-in plugin that logs a warning while the server keeps a client waiting in a queue."""

from __future__ import annotations

import logging
from typing import Any, Dict, Optional

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..logs import get_logger
from .events import Source
from .hookspecs import hookimpl
from .queue_reasons import default_reason

logger = get_logger(__name__)

#: Least time between two warnings about one client, in seconds.
INTERVAL = 60.0

# Models are created by the service client and wait in the queue of the training clients.
_SUBJECTS = {
    "training": "Training is paused for {}",
    "sampling": "Sampling is paused for sampler {}",
    "service": "Model creation is paused for session {}",
}


def warning_text(source: Source, state: str, reason: Any) -> str:
    """Return the warning about a paused client.

    Args:
        source: The paused client.
        state: Queue state, a value of ``QueueState``.
        reason: The server's reason. If it is None or empty, the text contains the default reason.
    """
    subject = _SUBJECTS.get(source.kind, "Requests are paused for {}").format(source.id)
    return f"{subject}. Reason: {reason or default_reason(source.kind, state)}"


class QueueLog:
    """Log a WARNING when a client is paused, and again at most every 60 s while the pause lasts.

    The state "active" is never logged. A change within 60 s of the last warning about the same client is not
    logged either. The repeated warnings come from ``tinkex_queue_state_repeated``, so the plugin has no thread
    and no timer. All methods are thread-safe.

    Args:
        clock: Source of time. Default: the system's monotonic clock.
        log: Logger of the warnings. Default: the logger of this module.
    """

    def __init__(self, clock: Optional[Clock] = None, log: logging.Logger = logger) -> None:
        self._clock = clock or Clock()
        self._log = log
        self._lock = Lock()
        self._warned_at: Dict[Source, float] = {}  # guarded by _lock

    @hookimpl
    def tinkex_queue_state_changed(self, source: Source, state: str, reason: Optional[str]) -> None:
        """Log a pause that begins, or a pause with a new state or reason."""
        if state == "active":
            return
        now = self._clock.time()
        with self._lock:
            # Entries older than the interval have no effect. Without this, they would accumulate.
            recent = {other: then for other, then in self._warned_at.items() if now - then < INTERVAL}
            if source in recent:
                return
            self._warned_at = {**recent, source: now}
        self._log.warning("%s", warning_text(source, state, reason))

    #: A pause that continues is logged by the same rules.
    tinkex_queue_state_repeated = tinkex_queue_state_changed
