"""Waiting while the server requires payment (402), for at most ``Config.billing_pause`` seconds."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..errors import BillingError
from ..logs import get_logger
from ..plugins.events import Source
from ..plugins.registry import Observers

_log = get_logger(__name__)

#: Seconds until a refused call is sent again.
PAUSE = 5.0
_LOG_EVERY = 60.0
#: An incident ends when no call was refused for this many seconds.
_QUIET = 300.0


class PaymentWait:
    """The incident during which a server refuses calls with 402; shared by the calls of one session. Thread-safe.

    Invariant: ``_since`` is the time of the incident's first refusal; None if there was none.

    Args:
        limit: Returns the seconds after which calls fail instead of waiting.
    """

    def __init__(self, limit: Callable[[], float], clock: Clock, observers: Observers) -> None:
        self._limit = limit
        self._clock = clock
        self._observers = observers
        self._lock = Lock()
        self._since: Optional[float] = None  # guarded by _lock
        self._last_refusal = 0.0  # guarded by _lock
        self._last_report: Optional[float] = None  # guarded by _lock
        self._reason = ""  # guarded by _lock

    def pause(self, error: BillingError, source: Source, call_id: str) -> float:
        """Return the seconds after which a refused call is sent again.

        Args:
            error: The refusal.
            source, call_id: The call, for observers.

        Raises:
            BillingError: ``error``, if the incident is older than the limit.
        """
        now, limit = self._clock.time(), self._limit()
        with self._lock:
            if self._since is None or now - self._last_refusal > _QUIET:
                self._since, self._last_report = now, None
            self._last_refusal, self._reason = now, str(error)
            waited = now - self._since
            is_due = self._last_report is None or now - self._last_report >= _LOG_EVERY
            if is_due:
                self._last_report = now
        if waited >= limit:
            note = f" (waited {waited:.0f} s for payment; Config.billing_pause is the limit)"
            if error.args and "Config.billing_pause" not in str(error.args[0]):
                error.args = (f"{error.args[0]}{note}", *error.args[1:])
            raise error
        if is_due:
            _log.warning("The server requires payment, and calls wait: error=%s remaining=%.0fs", error, limit - waited)
            if hook := self._observers.billing_paused:
                hook(source=source, call_id=call_id, waited=waited, limit=limit, error=error)
        return min(PAUSE, limit - waited)

    def status(self) -> Optional[Dict[str, Any]]:
        """Return the wait's age in seconds, its limit and its reason; None while no call waits."""
        now = self._clock.time()
        with self._lock:
            # A waiting call sends its request again, and is refused again, at each pause.
            if self._since is None or now - self._last_refusal > 2 * PAUSE:
                return None
            return {"paused_for": now - self._since, "limit": self._limit(), "reason": self._reason}
