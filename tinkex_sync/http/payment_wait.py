"""402: the account has to be topped up. Calls wait for that instead of failing, for so long and no longer."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Optional

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..errors import BillingError
from ..plugins.events import Source
from ..plugins.registry import Observers

__all__ = ["PAUSE", "Billing"]

_log = logging.getLogger(__name__)

#: Seconds until a refused call asks again.
PAUSE = 5.0
_LOG_EVERY = 60.0
#: An incident is over when none of its calls was refused for this long.
_QUIET = 300.0


class Billing:
    """The incident in which the server refuses calls as unpaid; shared by the calls of one session.

    Invariant: ``_since`` is the time of the incident's first refusal, None outside of one.
    """

    def __init__(self, limit: Callable[[], float], clock: Clock, observers: Observers) -> None:
        self._limit = limit
        self._clock = clock
        self._observers = observers
        self._lock = Lock()
        self._since: Optional[float] = None  # guarded by _lock
        self._refused = 0.0  # guarded by _lock; when the last call was
        self._logged: Optional[float] = None  # guarded by _lock
        self._text = ""  # guarded by _lock

    def pause(self, error: BillingError, source: Source, call_id: str) -> float:
        """A call was refused: seconds after which to ask again.

        Raises:
            BillingError: ``error``, when the incident is older than the limit.
        """
        now, limit = self._clock.time(), self._limit()
        with self._lock:
            if self._since is None or now - self._refused > _QUIET:
                self._since, self._logged = now, None
            self._refused, self._text = now, str(error)
            waited = now - self._since
            over = waited >= limit
            tells = self._logged is None or now - self._logged >= _LOG_EVERY
            if tells:
                self._logged = now
        if over:
            note = (
                f" (waited {waited:.0f} s for the account to be topped up; Config.billing_pause limits that)"
            )
            if error.args and "Config.billing_pause" not in str(error.args[0]):
                error.args = (f"{error.args[0]}{note}", *error.args[1:])
            raise error
        if tells:
            _log.warning(
                "Paused: the server wants payment (%s). Calls wait for up to %.0f s more and then fail.",
                error,
                limit - waited,
            )
            hook = self._observers.billing_paused
            if hook is not None:
                hook(source=source, call_id=call_id, waited=waited, limit=limit, error=error)
        return min(PAUSE, limit - waited)

    def status(self) -> Optional[Dict[str, Any]]:
        """Since when (seconds ago) and why; None if nothing is held up."""
        now = self._clock.time()
        with self._lock:
            # Whoever still waits has asked again within the pause.
            if self._since is None or now - self._refused > 2 * PAUSE:
                return None
            return {"paused_for": now - self._since, "limit": self._limit(), "reason": self._text}
