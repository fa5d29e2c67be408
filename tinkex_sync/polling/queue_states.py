"""What the server last said about its queue, per client, and telling observers when it changes."""

from __future__ import annotations

import threading
from typing import Any, Dict, Optional, Tuple

from ..concurrency.clock import Clock
from ..http.call_state import CallState
from ..plugins.queue_log import QueueLog, default_reason
from ..plugins.registry import Observers
from ..types import QueueState

__all__ = ["QueueStates"]

_ACTIVE = QueueState.ACTIVE.value
_KNOWN = frozenset(state.value for state in QueueState)


class QueueStates:
    """The queue state of one client, made up of what each of its waiting calls was told.

    The client is paused while any of its calls is; it is active again when none is. Observers hear each change of
    the client's state or reason once, however many calls are told. Invariant: ``_paused`` holds just the calls
    whose last report was not "active".
    """

    def __init__(self, observers: Observers, clock: Clock) -> None:
        self._observers = observers
        self._clock = clock
        self._log = observers.find(QueueLog)
        self._lock = threading.Lock()
        self._paused: Dict[str, Tuple[str, Any]] = {}  # guarded by _lock
        self._shown: Optional[Tuple[str, Any]] = None  # guarded by _lock
        self._since = 0.0  # guarded by _lock

    def read(self, call: CallState, body: Any) -> None:
        """Take queue state and reason out of the body of a 408, a try_again or a 429, if they are there."""
        if isinstance(body, dict) and body.get("queue_state"):
            state = body["queue_state"]
            if not isinstance(state, str) or state not in _KNOWN:
                state = QueueState.UNKNOWN.value
            self.report(call, state, body.get("queue_state_reason"))

    def report(self, call: CallState, state: str, reason: Any = None) -> None:
        """A call was told ``state`` (a value of QueueState) and the server's ``reason``, if it gave one."""
        told = (state, reason)
        call.queue_state, call.queue_reason = told
        with self._lock:
            if state == _ACTIVE:
                self._paused.pop(call.call_id, None)
                news = None if self._paused else self._change(call, told)
            else:
                before = self._paused.get(call.call_id)
                self._paused[call.call_id] = told
                # Two calls told different reasons must not alternate for ever: only a call with news counts.
                news = None if before == told else self._change(call, told)
        self._tell(call, news)
        if news is None and state != _ACTIVE and self._log is not None:
            # Of a pause that lasts, observers hear once; the log says again now and then that it does.
            self._log.still_paused(call.source)

    def settle(self, call: CallState, kept: bool = True) -> None:
        """A call ended. With its result (``kept``), and if no other is paused, the client is active again."""
        with self._lock:
            was_paused = self._paused.pop(call.call_id, None) is not None
            news = None
            if was_paused and not self._paused:
                if kept:
                    news = self._change(call, (_ACTIVE, None))
                else:
                    # Nobody knows the state now; the next report is news whatever it says.
                    self._shown = None
        self._tell(call, news)

    def _change(self, call: CallState, told: Tuple[str, Any]) -> Optional[Dict[str, Any]]:
        """What to tell observers, or None if it is no news. Call with ``_lock`` held."""
        if told == self._shown:
            return None
        previous = self._shown[0] if self._shown is not None else None
        if previous in (None, _ACTIVE):
            self._since = call.promised if call.promised is not None else call.started
        self._shown = told
        state, reason = told
        return {
            "state": state,
            "previous": previous,
            "reason": reason,
            "waited": max(0.0, self._clock.time() - self._since),
        }

    def _tell(self, call: CallState, news: Optional[Dict[str, Any]]) -> None:
        hook = self._observers.queue_state_changed
        if news is None or hook is None:
            return
        source = "server" if news["reason"] else None
        if source is None and news["state"] != _ACTIVE:
            news["reason"], source = default_reason(call.source.kind, news["state"]), "default"
        hook(
            source=call.source, call_id=call.call_id, reason_source=source, request_id=call.request_id, **news
        )
