"""The queue state of each client, computed from the responses to its calls and reported to the plugins."""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Tuple

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..http.call_state import CallState
from ..plugins.dispatch import Hook
from ..plugins.queue_reasons import default_reason
from ..plugins.registry import Observers
from ..types import QueueState

#: Least time between two calls of ``tinkex_queue_state_repeated`` for one client, in seconds.
REPEAT_INTERVAL = 60.0

_ACTIVE = QueueState.ACTIVE.value
_STATES = [state.value for state in QueueState]


class QueueStates:
    """The queue state of one client.

    A client is paused while at least one of its calls is paused, and active otherwise. Plugins receive each
    change of the client's state or reason once, through ``tinkex_queue_state_changed``. While a pause lasts they
    receive ``tinkex_queue_state_repeated`` at most every 60 s.

    Invariant: ``_paused`` contains exactly the calls whose last reported state is not "active". While it is not
    empty, ``_current`` is a paused state. All methods are thread-safe; hooks are called without the lock.
    """

    def __init__(self, observers: Observers, clock: Clock) -> None:
        self._observers = observers
        self._clock = clock
        self._lock = Lock()
        # State and reason of each paused call.
        self._paused: Dict[str, Tuple[str, Any]] = {}  # guarded by _lock
        # State and reason of the client. The state is None while it is unknown; a missing reason is None or "".
        self._current: Tuple[Any, Any] = (None, None)  # guarded by _lock
        self._waiting_since = 0.0  # guarded by _lock
        self._interval_started = -math.inf  # guarded by _lock

    def read(self, call: CallState, body: Any, *, are_open: bool = False) -> None:
        """Report the queue state in a response body, if it contains one.

        Args:
            call: The call that received the response.
            body: Decoded body of a 408, a 429 or a ``try_again`` response, of any type.
            are_open: Whether the server may return a reason without a state. An unknown state is then reported only if
                it has a reason.
        """
        if not isinstance(body, dict):
            return
        state, reason = body.get("queue_state"), body.get("queue_state_reason")
        if state in _STATES:
            self.report(call, str(state), reason)
        elif reason if are_open else state:
            self.report(call, QueueState.UNKNOWN.value, reason)

    def report(self, call: CallState, state: str, reason: Any = None) -> None:
        """Record the queue state of one call and call the hooks that follow from it.

        Args:
            call: The call that received the state.
            state: A value of ``QueueState``.
            reason: The server's reason; None if there is none.
        """
        reported = (state, reason)
        call.queue_state, call.queue_reason = reported
        with self._lock:
            change = self._record(call, reported)
            starts_interval = state != _ACTIVE and self._starts_interval()
            repeat = self._facts(call) if starts_interval and change is None else None
        _call_hook(self._observers.queue_state_changed, change)
        _call_hook(self._observers.queue_state_repeated, repeat)
        if starts_interval:
            # The interval is measured from the end of the hook. A plugin that reads the clock in its hook then
            # measures at least as much time between two calls.
            with self._lock:
                self._interval_started = self._clock.time()

    def finish(self, call: CallState, succeeded: bool = True) -> None:
        """Record the end of a call.

        The client becomes active if the call was its last paused call and succeeded. If the call failed, the
        client's state becomes unknown, and plugins receive the next reported state as a change.
        """
        change = None
        with self._lock:
            was_paused = self._paused.pop(call.call_id, None) is not None
            if was_paused and not self._paused:
                if succeeded:
                    change = self._change(call, (_ACTIVE, None))
                else:
                    self._current = (None, None)
        _call_hook(self._observers.queue_state_changed, change)

    def _record(self, call: CallState, reported: Tuple[str, Any]) -> Optional[Dict[str, Any]]:
        """Return the facts of the change that a call's report causes, if any. Call with ``_lock`` held."""
        if reported[0] == _ACTIVE:
            self._paused.pop(call.call_id, None)
            return None if self._paused else self._change(call, reported)
        # Two calls may receive different reasons. A report that repeats the call's own last one is not a change;
        # otherwise the client's reason would alternate between the two forever.
        if self._paused.get(call.call_id) == reported:
            return None
        self._paused[call.call_id] = reported
        return self._change(call, reported)

    def _change(self, call: CallState, new: Tuple[str, Any]) -> Optional[Dict[str, Any]]:
        """Set the client's state; return the facts of the change, or None. Call with ``_lock`` held."""
        if new == self._current:
            return None
        previous = self._current[0]
        if previous in (None, _ACTIVE):
            self._waiting_since = call.accepted_at if call.accepted_at is not None else call.started
        self._current = new
        return {"previous": previous, **self._facts(call)}

    def _facts(self, call: CallState) -> Dict[str, Any]:
        """Return the arguments of both hooks for the client's state. Call with ``_lock`` held."""
        state, reason = self._current
        reason_source: Optional[str] = "server"
        if not reason and state == _ACTIVE:
            reason, reason_source = None, None
        elif not reason:
            reason, reason_source = default_reason(call.source.kind, state), "default"
        return {
            "source": call.source,
            "call_id": call.call_id,
            "state": state,
            "reason": reason,
            "reason_source": reason_source,
            "waited": max(0.0, self._clock.time() - self._waiting_since),
            "request_id": call.request_id,
        }

    def _starts_interval(self) -> bool:
        """Return whether a new interval for repeated reports starts now. Call with ``_lock`` held."""
        now = self._clock.time()
        if now - self._interval_started < REPEAT_INTERVAL:
            return False
        self._interval_started = now
        return True


def _call_hook(hook: Optional[Hook], facts: Optional[Dict[str, Any]]) -> None:
    if hook is not None and facts is not None:
        hook(**facts)
