"""Tools for tests of plugins and scripts: a recorder of hooks, checks of plugins, and the embedded server.

:mod:`tinkex_sync.testing_fixtures` has the fixtures for pytest.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .concurrency.clock import Clock, ScaledClock
from .concurrency.primitives import Event, Lock, start_thread
from .local import Faults, LocalServer
from .plugins.events import Boundary, Source
from .plugins.hookspecs import PREFIX, SPECS, argument_names
from .plugins.queued_observer import observe_all
from .plugins.registry import Observers
from .types import AdamParams

__all__ = [
    "Faults", "HookRecorder", "LocalServer", "RecordedCall", "ScaledClock", "assert_thread_safe", "check_plugin",
    "example_facts",
]  # fmt: skip


_SOURCE = Source("training", "model-1", "session-1")

#: A valid value of each argument of a hook.
_EXAMPLES: Dict[str, Any] = {
    "source": _SOURCE,
    "call_id": "c1",
    "operation": "forward_backward",
    "items": 3,
    "method": "POST",
    "path": "/api/v1/forward_backward",
    "attempt": 1,
    "status": 200,
    "elapsed": 0.25,
    "sent_bytes": 100,
    "received_bytes": 50,
    "error": None,
    "policy": "submit",
    "delay": 1.0,
    "cause": ConnectionError("gone"),
    "route": "/api/v1/forward_backward",
    "host": "localhost:8000",
    "http_version": "1.1",
    "server_request_id": None,
    "facts": {"metrics": {"loss:sum": 1.0}},
    "base_model": "m",
    "rank": 8,
    "model_path": None,
    "kind": "training",
    "ttl_seconds": None,
    "waiting": 0,
    "state": "paused_capacity",
    "previous": None,
    "reason": "busy",
    "reason_source": "server",
    "waited": 2.0,
    "request_id": "r1",
    "boundaries": (Boundary(0, 0, 2, 80), Boundary(1, 2, 3, 40)),
    "limits": {"items": 2, "bytes": 5_000_000},
    "boundary": Boundary(0, 0, 2, 80),
    "body_bytes": 90,
    "params": AdamParams(),
    "payload": AdamParams().to_wire(),
    "estimated_bytes": 80,
    "charged_bytes": 80,
    "throttled": False,
    "in_flight": 1,
    "bytes_left": 1000,
    "pace": 2.5,
    "duration": 1.0,
    "until": 12.5,
    "everyone": True,
    "outcome": "ok",
    "polls": 1,
    "misses": 2,
    "limit": 3600.0,
    "silent_for": 20.0,
    "cli": object(),
}


def example_facts(hook: str, **changed: Any) -> Dict[str, Any]:
    """Return valid arguments for a hook, by name, for tests of plugins.

    Args:
        hook: The name of the hook without ``tinkex_``.
        changed: Values that replace those of the example.

    Raises:
        ValueError: There is no hook of this name, or it has no argument of a name in ``changed``.
    """
    if PREFIX + hook not in SPECS:
        raise ValueError(f"unknown hook {hook!r}: use one of {', '.join(name[len(PREFIX) :] for name in SPECS)}")
    names = argument_names(PREFIX + hook)
    unknown = sorted(set(changed) - set(names))
    if unknown:
        raise ValueError(f"{hook} has no argument {unknown[0]!r}: it has {', '.join(names)}")
    return {name: changed.get(name, _EXAMPLES[name]) for name in names}


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


#: Seconds after which a hook counts as one that does not return.
_LONGEST = 60.0


def assert_thread_safe(plugin: object, threads: int = 8, rounds: int = 50) -> None:
    """Call every hook of a plugin from many threads at the same time.

    The hooks get valid arguments, of calls of their own in each thread. The client calls a plugin in this way, so a
    plugin must pass. ``close()`` of the plugin, if there is one, is called at the end.

    Args:
        plugin: The plugin object.
        threads: Number of threads.
        rounds: How often each thread calls each hook.

    Raises:
        PluginError: The plugin is invalid.
        AssertionError: A hook raised an error, or did not return within 60 s. The message names the hook.
    """
    observers = Observers([plugin], autoload=False, modules=(), disabled=(), strict=True)
    hooks = [name[len(PREFIX) :] for name in observers.report()[0].hooks if argument_names(name)[0] == "source"]
    failures: List[str] = []
    begin = Event()

    def storm(number: int) -> None:
        begin.wait(_LONGEST)
        for one in range(rounds):
            for hook in hooks:
                try:
                    getattr(observers, hook)(**example_facts(hook, call_id=f"{number}-{one}"))
                except Exception as error:
                    failures.append(f"{hook} in thread {number}, round {one}: {error}")
                    return

    workers = [start_thread(storm, f"tinkex-storm-{number}", number) for number in range(threads)]
    begin.set()
    for worker in workers:
        worker.join(_LONGEST)
    if any(worker.is_alive() for worker in workers):
        failures.append("a hook has not returned within 60 s")
    if not observers.close():
        failures.append("close() has not returned in time")
    if failures:
        raise AssertionError(f"{len(failures)} threads failed; {failures[0]}")
