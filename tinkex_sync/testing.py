"""Tools for tests of plugins and scripts: a recorder of hooks, a check of plugins, and the embedded server."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .concurrency.clock import Clock, ScaledClock
from .concurrency.primitives import Event, Lock
from .local import Faults, LocalServer
from .plugins.hookspecs import PREFIX, SPECS
from .plugins.queued_observer import observe_all
from .plugins.registry import Observers

__all__ = ["Faults", "HookRecorder", "LocalServer", "RecordedCall", "ScaledClock", "check_plugin"]


class RecordedCall(NamedTuple):
    """One event: the name of the hook without ``tinkex_``, its arguments, and the name of the calling thread."""

    hook: str
    arguments: Dict[str, Any]
    thread: str


class HookRecorder:
    """A plugin that records every event. Pass it as ``ServiceClient(plugins=[recorder])``.

    Invariant: events are only appended to ``calls``. Thread-safe.

    Args:
        clock: The clock of :meth:`wait_for`. Default: the monotonic clock.
    """

    def __init__(self, clock: Optional[Clock] = None) -> None:
        self._clock = clock or Clock()
        self._lock = Lock()
        self._calls: List[RecordedCall] = []  # guarded by _lock
        self._recorded = Event()
        observe_all(self, self._record)

    def _record(self, hook: str, arguments: Dict[str, Any]) -> None:
        call = RecordedCall(hook.replace(PREFIX, "", 1), arguments, threading.current_thread().name)
        with self._lock:
            self._calls.append(call)
            self._recorded.set()

    @property
    def calls(self) -> Tuple[RecordedCall, ...]:
        """All recorded events, oldest first."""
        with self._lock:
            return tuple(self._calls)

    def of(self, hook: str) -> List[Dict[str, Any]]:
        """Return the arguments of all events of one hook, oldest first.

        Args:
            hook: The name of the hook without ``tinkex_``.

        Returns:
            One dict of arguments per event.

        Raises:
            ValueError: There is no hook of this name.
        """
        if PREFIX + hook not in SPECS:
            known = ", ".join(name[len(PREFIX) :] for name in SPECS)
            raise ValueError(f"unknown hook {hook!r}: use one of {known}")
        return [call.arguments for call in self.calls if call.hook == hook]

    def wait_for(
        self, hook: str, matches: Callable[[Dict[str, Any]], bool] = lambda arguments: True, timeout: float = 10.0
    ) -> Dict[str, Any]:
        """Wait for the first event of a hook that matches a condition.

        Args:
            hook: The name of the hook without ``tinkex_``.
            matches: Receives the arguments of an event. Default: every event matches.
            timeout: Seconds to wait. Events recorded before the call count.

        Returns:
            The arguments of the event.

        Raises:
            TimeoutError: No event matched within ``timeout``.
            ValueError: There is no hook of this name.
        """
        deadline = self._clock.time() + timeout
        while True:
            self._recorded.clear()
            for arguments in self.of(hook):
                if matches(arguments):
                    return arguments
            remaining = deadline - self._clock.time()
            if remaining <= 0:
                raise TimeoutError(f"no {hook} matched within {timeout} s: {len(self.of(hook))} did not match")
            self._clock.wait(self._recorded, remaining)


def check_plugin(plugin: object) -> None:
    """Check that the client can call all hooks of a plugin.

    Args:
        plugin: The plugin object.

    Raises:
        PluginError: The plugin has an unknown hook, a hook with an unknown argument, or a hook wrapper.
    """
    Observers([plugin], autoload=False, modules=(), disabled=(), strict=True)
