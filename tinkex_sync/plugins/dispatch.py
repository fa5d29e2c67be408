"""Call the plugins of one hook for one event. The failure of one plugin does not affect the others."""

from __future__ import annotations

import inspect
import operator
import threading
import time
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence, Set, Tuple

import pluggy

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..errors import PluginError
from . import watchdog
from .hookspecs import PREFIX, SPECS, argument_names
from .loading import UnloadedPlugin, logger

#: A function that calls all implementations of a hook; it takes the hook's arguments by name.
Hook = Callable[..., None]

#: A call of a hook that takes longer than this is logged once, in seconds.
SLOW_CALL = 1.0


@dataclass(frozen=True)
class PluginStatus:
    """The state of one plugin, as listed by ``tinkex-sync plugins``."""

    name: str
    #: Distribution that contains the plugin's entry point, and its version; None for other origins.
    distribution: Optional[str]
    version: Optional[str]
    #: "entry point", "module", "argument" or "builtin".
    origin: str
    #: "active"; "blocked" by name; "failed" to load; "invalid" (loaded but unusable); "loading" (in progress);
    #: "stuck" (a hook did not return within ``Config.hook_timeout``, so it is not called again).
    status: str
    #: Names of the hooks that it implements.
    hooks: Tuple[str, ...] = ()
    #: Names of hooks that it implements and this version lacks; they are ignored.
    unknown_hooks: Tuple[str, ...] = ()
    #: Number of errors raised, by hook.
    errors: Mapping[str, int] = field(default_factory=dict)
    #: Reason why it is not active, or the first error of one of its hooks; "" without either.
    error: str = ""


class Plugin:
    """One plugin of one ``Observers``, loaded or not; its name is unique there. The methods are thread-safe.

    Invariant: ``status`` is replaced with ``_lock`` held and never modified, so it is read without the lock.
    """

    def __init__(self, name: str, found: UnloadedPlugin) -> None:
        self.name = name
        self.found = found
        #: The loaded module or instance; before loading the value that was found.
        self.object: Any = found.value
        self.status = PluginStatus(name, found.distribution, found.version, found.origin, "loading")
        self._lock = Lock()
        self._slow_hooks: Set[str] = set()  # guarded by _lock
        #: Whether a hook did not return in time. Set once.
        self.is_stuck = False

    def update(self, **changes: Any) -> None:
        """Replace fields of the status."""
        with self._lock:
            self.status = replace(self.status, **changes)

    def record_error(self, hook: str, error: Exception) -> None:
        """Count an error of a hook and log the first one. Call inside the ``except`` clause."""
        with self._lock:
            errors = {**self.status.errors, hook: self.status.errors.get(hook, 0) + 1}
            first = self.status.error or f"{hook}: {type(error).__name__}: {error}"
            status = "stuck" if self.is_stuck else self.status.status
            self.status = replace(self.status, errors=errors, error=first, status=status)
        if errors[hook] == 1:
            text = "plugin %s failed in %s; further failures of this hook are counted and not logged"
            logger.warning(text, self.name, hook, exc_info=True)

    def record_slow_call(self, hook: str, elapsed: float) -> None:
        """Log the first slow call of a hook; ``elapsed`` is in seconds."""
        with self._lock:
            is_first = hook not in self._slow_hooks
            self._slow_hooks.add(hook)
        if is_first:
            text = "plugin %s took %.1f s in %s and delayed the calling thread; this is logged once per hook"
            logger.warning(text, self.name, elapsed, hook)


def _selector(names: Tuple[str, ...]) -> Callable[[Dict[str, Any]], Iterable[Any]]:
    """Return a function that returns the values of ``names`` in a dict."""
    if len(names) > 1:
        return operator.itemgetter(*names)  # Half the cost of a Python loop.
    return lambda facts: [facts[name] for name in names]


def read_only(value: Any) -> Any:
    """Return ``value`` with every mapping in it replaced by a read-only view, and every list by a tuple."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: read_only(item) for key, item in value.items()})
    if type(value) in (list, tuple):
        return tuple(map(read_only, value))
    return value


class _CallingThread(threading.local):
    """The plugins that have a hook running in the current thread."""

    def __init__(self) -> None:
        self.keys: Set[int] = set()


_running = _CallingThread()


def _run(key: int, function: Callable[..., object], arguments: Iterable[Any], limit: Optional[float]) -> None:
    """Run a hook of the plugin with this key, in a thread of its own if there is a limit in seconds."""
    if limit is None:
        function(*arguments)
        return

    def run(*given: Any) -> None:
        _running.keys.add(key)
        function(*given)

    watchdog.run_within(limit, run, arguments)


_Call = Tuple[int, Callable[..., object], Callable[[Dict[str, Any]], Iterable[Any]], Plugin]


def _prepare_call(plugin: Plugin, hookimpl: pluggy.HookImpl, known: Tuple[str, ...]) -> _Call:
    """Return the plugin's key, its function, the selector of the function's arguments, and the plugin.

    Args:
        plugin: The plugin that implements the hook.
        hookimpl: The implementation.
        known: Names of the hook's arguments.
    """
    # A plugin class is instantiated once per client; all its instances count as the same plugin.
    is_instantiated = plugin.object is not plugin.found.value and not inspect.ismodule(plugin.object)
    key = id(type(plugin.object) if is_instantiated else plugin.object)
    # pluggy does not pass arguments that have a default value. They are passed here, because they allow a
    # plugin to support several versions.
    names = (*hookimpl.argnames, *(name for name in hookimpl.kwargnames if name in known))
    return key, hookimpl.function, _selector(names), plugin


def make_hook(
    name: str,
    implementations: Sequence[Tuple[Plugin, pluggy.HookImpl]],
    clock: Clock,
    strict: bool,
    timeout: Optional[float] = None,
) -> Hook:
    """Return the function that calls all implementations of a hook.

    A plugin that has a hook running in the current thread is skipped. In strict mode the function raises
    PluginError for an implementation that raises, and TypeError for wrong arguments.

    Args:
        name: Full name of the hook.
        implementations: The implementations in the order of the calls, each with its plugin.
        clock: Source of time for slow calls.
        strict: Whether to raise errors instead of recording them only.
        timeout: Seconds after which a plugin is left behind as stuck; None: no limit.
    """
    hook = name[len(PREFIX) :]
    expected = argument_names(name)
    mappings = tuple(key for key, hint in SPECS[name].__annotations__.items() if "Mapping" in hint)
    # Calling the method of the plain clock would be a quarter of the cost of an event.
    now = time.monotonic if type(clock) is Clock else clock.time
    calls = tuple(_prepare_call(plugin, hookimpl, expected) for plugin, hookimpl in implementations)
    limit = None if timeout is None else clock.real(timeout)

    def call(**facts: Any) -> None:
        if strict and facts.keys() != set(expected):
            raise TypeError(f"{hook} takes the arguments {sorted(expected)}, got {sorted(facts)}")
        for argument in mappings:
            facts[argument] = read_only(facts.get(argument))
        running = _running.keys
        ended = now()
        for key, function, select_arguments, plugin in calls:
            if key in running or plugin.is_stuck:
                continue
            running.add(key)
            started = ended
            watched = watchdog.begin(plugin.name, hook)
            try:
                _run(key, function, select_arguments(facts), limit)
            except Exception as error:
                plugin.is_stuck = isinstance(error, watchdog.HookTimeoutError)
                plugin.record_error(hook, error)
                if strict:
                    raise PluginError(f"plugin {plugin.name} failed in {hook}: {error}") from error
            finally:
                watchdog.end(watched)
                running.discard(key)
            ended = now()
            if ended - started > SLOW_CALL:
                plugin.record_slow_call(hook, ended - started)

    return call
