"""For authors of plugins and scripts: a recorder of hooks, a check of plugins, and the embedded server."""

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
    """One event: the hook's name without ``tinkex_``, its arguments, and the thread it came on."""

    hook: str
    arguments: Dict[str, Any]
    thread: str


class HookRecorder:
    """A plugin that keeps every event, for tests; thread-safe.

    Pass it as ``ServiceClient(plugins=[recorder])``. Invariant: ``calls`` grows at the end only.
    """

    def __init__(self, clock: Optional[Clock] = None) -> None:
        self._clock = clock or Clock()
        self._lock = Lock()
        self._calls: List[RecordedCall] = []  # guarded by _lock
        self._news = Event()
        observe_all(self, self._receive)

    def _receive(self, hook: str, arguments: Dict[str, Any]) -> None:
        call = RecordedCall(hook.replace(PREFIX, "", 1), arguments, threading.current_thread().name)
        with self._lock:
            self._calls.append(call)
            self._news.set()

    @property
    def calls(self) -> Tuple[RecordedCall, ...]:
        """Every event so far, in order of arrival."""
        with self._lock:
            return tuple(self._calls)

    def of(self, hook: str) -> List[Dict[str, Any]]:
        """Arguments of the events of one hook (name without ``tinkex_``).

        Raises:
            ValueError: there is no such hook.
        """
        if PREFIX + hook not in SPECS:
            known = ", ".join(name[len(PREFIX) :] for name in SPECS)
            raise ValueError(f"there is no hook {hook!r}; the hooks are {known}")
        return [call.arguments for call in self.calls if call.hook == hook]

    def wait_for(
        self,
        hook: str,
        holds: Callable[[Dict[str, Any]], bool] = lambda arguments: True,
        timeout: float = 10.0,
    ) -> Dict[str, Any]:
        """The first event of ``hook`` for which ``holds``, now or within ``timeout`` seconds.

        Raises:
            TimeoutError: there was none; the text counts what there was.
        """
        deadline = self._clock.time() + timeout
        while True:
            self._news.clear()
            for arguments in self.of(hook):
                if holds(arguments):
                    return arguments
            left = deadline - self._clock.time()
            if left <= 0:
                raise TimeoutError(f"no such {hook} within {timeout} s; {len(self.of(hook))} of other kinds")
            self._clock.wait(self._news, left)


def check_plugin(plugin: object) -> None:
    """Raise PluginError if a plugin has a hook or an argument that does not exist, or a wrapper."""
    Observers([plugin], autoload=False, modules=(), disabled=(), strict=True)
