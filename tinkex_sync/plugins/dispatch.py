"""Call the plugins of one hook for one event. The failure of one plugin does not affect the others."""

from __future__ import annotations

import logging
import operator
import threading
import time
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Set, Tuple

import pluggy

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..errors import PluginError
from .hookspecs import PREFIX, SPECS, argument_names
from .loading import UnloadedPlugin

__all__ = ["Hook", "Implementation", "Plugin", "PluginStatus", "make_hook", "read_only"]

# One logger for all messages about plugins, so that users configure one name.
logger = logging.getLogger("tinkex_sync.plugins")

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
    #: "active"; "blocked" by name; "failed" to load; "invalid" (loaded but unusable); or "loading" in another thread.
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
    """One plugin of one ``Observers``, loaded or not. The methods are thread-safe."""

    def __init__(self, name: str, found: UnloadedPlugin) -> None:
        self.name = name
        self.found = found
        #: The loaded module or instance; None before loading.
        self.object: Any = None
        self.status = "loading"
        self.hooks: Tuple[str, ...] = ()
        self.unknown_hooks: Tuple[str, ...] = ()
        self._lock = Lock()
        self._error = ""  # guarded by _lock
        self._errors: Dict[str, int] = {}  # guarded by _lock
        self._slow_hooks: Set[str] = set()  # guarded by _lock

    def reject(self, status: str, error: str) -> None:
        """Set a status other than "active", and its reason."""
        self.status = status
        with self._lock:
            self._error = error

    def record_error(self, hook: str, error: Exception) -> None:
        """Count an error of a hook and log the first one. Call inside the ``except`` clause."""
        with self._lock:
            count = self._errors[hook] = self._errors.get(hook, 0) + 1
            self._error = self._error or f"{hook}: {type(error).__name__}: {error}"
        if count == 1:
            logger.warning(
                "plugin %s failed in %s; further failures of this hook are counted and not logged",
                self.name,
                hook,
                exc_info=True,
            )

    def record_slow_call(self, hook: str, elapsed: float) -> None:
        """Log the first slow call of a hook; ``elapsed`` is in seconds."""
        with self._lock:
            is_known = hook in self._slow_hooks
            self._slow_hooks.add(hook)
        if not is_known:
            logger.warning(
                "plugin %s took %.1f s in %s and delayed the calling thread; further slow calls of this hook are"
                " not logged",
                self.name,
                elapsed,
                hook,
            )

    def report(self) -> PluginStatus:
        """Return the current state."""
        with self._lock:
            errors, error = dict(self._errors), self._error
        return PluginStatus(
            name=self.name,
            distribution=self.found.distribution,
            version=self.found.version,
            origin=self.found.origin,
            status=self.status,
            hooks=self.hooks,
            unknown_hooks=self.unknown_hooks,
            errors=errors,
            error=error,
        )


class Implementation:
    """One hook of one plugin. Immutable."""

    __slots__ = ("function", "key", "plugin", "select_arguments")

    def __init__(self, plugin: Plugin, hookimpl: pluggy.HookImpl, known: Tuple[str, ...]) -> None:
        self.plugin = plugin
        self.function = hookimpl.function
        # pluggy does not pass arguments that have a default value. They are passed here, because they allow a
        # plugin to support several versions.
        names = (*hookimpl.argnames, *(name for name in hookimpl.kwargnames if name in known))
        self.select_arguments = _selector(names)
        # A plugin class is instantiated once per client; all its instances count as the same plugin.
        self.key = id(plugin.found.identity(plugin.object))


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


def make_hook(hook: str, implementations: Tuple[Implementation, ...], clock: Clock, strict: bool) -> Hook:
    """Return the function that calls all implementations of a hook.

    A plugin that has a hook running in the current thread is skipped. In strict mode the function raises
    PluginError for an implementation that raises, and TypeError for wrong arguments.

    Args:
        hook: Name of the hook, without the prefix.
        implementations: The implementations in the order of the calls.
        clock: Source of time for slow calls.
        strict: Whether to raise errors instead of recording them only.
    """
    expected = frozenset(argument_names(PREFIX + hook))
    mappings = tuple(name for name, hint in SPECS[PREFIX + hook].__annotations__.items() if "Mapping" in hint)
    # Calling the method of the plain clock would be a quarter of the cost of an event.
    now = time.monotonic if type(clock) is Clock else clock.time
    calls = tuple((one.key, one.function, one.select_arguments, one.plugin) for one in implementations)

    def call(**facts: Any) -> None:
        if strict and facts.keys() != expected:
            raise TypeError(f"{hook} takes the arguments {sorted(expected)}, got {sorted(facts)}")
        for name in mappings:
            facts[name] = read_only(facts.get(name))
        running = _running.keys
        ended = now()
        for key, function, select_arguments, plugin in calls:
            if key in running:
                continue
            running.add(key)
            started = ended
            try:
                function(*select_arguments(facts))
            except Exception as error:
                plugin.record_error(hook, error)
                if strict:
                    raise PluginError(f"plugin {plugin.name} failed in {hook}: {error}") from error
            finally:
                running.discard(key)
            ended = now()
            if ended - started > SLOW_CALL:
                plugin.record_slow_call(hook, ended - started)

    return call
