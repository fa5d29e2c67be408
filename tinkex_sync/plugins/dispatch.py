"""Telling the plugins of one hook of one event: each in its own ``try``, none twice on one thread."""

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
from .loading import Candidate

__all__ = ["Hook", "Implementation", "Plugin", "PluginStatus", "caller"]

# Users and docs know one logger for everything about plugins.
logger = logging.getLogger("tinkex_sync.plugins")

#: What an attribute of ``Observers`` holds while somebody listens; called with the hook's arguments by name.
Hook = Callable[..., None]

#: A hook that takes longer than this many seconds is reported, once.
SLOW = 1.0


@dataclass(frozen=True)
class PluginStatus:
    """One plugin, as ``tinkex-sync plugins`` lists it."""

    name: str
    #: The distribution it came with and its version; None for what did not come by entry point.
    distribution: Optional[str]
    version: Optional[str]
    #: "entry point", "module", "argument" or "builtin".
    origin: str
    #: "active", "blocked" (by name), "failed" (could not be loaded), "invalid" (loaded, and not usable), or
    #: "loading" while another thread is at it.
    status: str
    #: Names of the hooks it implements.
    hooks: Tuple[str, ...] = ()
    #: Hooks of ours it implements that this version does not have: ignored.
    unknown_hooks: Tuple[str, ...] = ()
    #: How often each hook of it has raised.
    errors: Mapping[str, int] = field(default_factory=dict)
    #: Why it is not active, or the first error of one of its hooks; "" if there is nothing to say.
    error: str = ""


class Plugin:
    """One plugin of one ``Observers``, loaded or not."""

    def __init__(self, name: str, candidate: Candidate) -> None:
        self.name = name
        self.candidate = candidate
        self.object: Any = None
        self.status = "loading"
        self.hooks: Tuple[str, ...] = ()
        self.unknown_hooks: Tuple[str, ...] = ()
        self._lock = Lock()
        self._error = ""  # guarded by _lock
        self._errors: Dict[str, int] = {}  # guarded by _lock
        self._slow: Set[str] = set()  # guarded by _lock

    def reject(self, status: str, error: str) -> None:
        self.status = status
        with self._lock:
            self._error = error

    def failed(self, hook: str, error: Exception) -> None:
        """Count an error of a hook, and log the first one. Call inside the ``except``."""
        with self._lock:
            count = self._errors[hook] = self._errors.get(hook, 0) + 1
            self._error = self._error or f"{hook}: {type(error).__name__}: {error}"
        if count == 1:
            logger.warning(
                "plugin %s failed in %s; further failures there are only counted",
                self.name,
                hook,
                exc_info=True,
            )

    def slow(self, hook: str, elapsed: float) -> None:
        with self._lock:
            known = hook in self._slow
            self._slow.add(hook)
        if not known:
            logger.warning(
                "plugin %s took %.1f s in %s and held up the thread it was called in; further delays there "
                "are not reported",
                self.name,
                elapsed,
                hook,
            )

    def report(self) -> PluginStatus:
        with self._lock:
            errors, error = dict(self._errors), self._error
        found = self.candidate
        return PluginStatus(
            self.name,
            found.distribution,
            found.version,
            found.origin,
            self.status,
            self.hooks,
            self.unknown_hooks,
            errors,
            error,
        )


class Implementation:
    """One hook of one plugin, ready to be called."""

    __slots__ = ("function", "key", "pick", "plugin")

    def __init__(self, plugin: Plugin, hookimpl: pluggy.HookImpl, known: Tuple[str, ...]) -> None:
        self.plugin = plugin
        self.function = hookimpl.function
        # pluggy never passes arguments that have a default; they let a plugin span versions of ours.
        self.pick = _picker((*hookimpl.argnames, *(name for name in hookimpl.kwargnames if name in known)))
        # A class is made anew for each client, and is still one plugin.
        self.key = id(plugin.candidate.identity(plugin.object))


def _picker(names: Tuple[str, ...]) -> Callable[[Dict[str, Any]], Iterable[Any]]:
    """A function that takes the arguments ``names`` out of the facts of an event."""
    if len(names) > 1:
        return operator.itemgetter(*names)  # in C, half the cost of a loop
    return lambda facts: [facts[name] for name in names]


def read_only(value: Any) -> Any:
    """``value`` with every mapping and list in it replaced by what cannot be changed."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: read_only(item) for key, item in value.items()})
    if type(value) in (list, tuple):
        return tuple(map(read_only, value))
    return value


# Per thread: the keys of the plugins that are inside one of their hooks.
_inside = threading.local()


def caller(hook: str, implementations: Tuple[Implementation, ...], clock: Clock, strict: bool) -> Hook:
    """The function that tells ``implementations`` of one event."""
    expected = frozenset(argument_names(PREFIX + hook))
    mappings = tuple(name for name, hint in SPECS[PREFIX + hook].__annotations__.items() if "Mapping" in hint)
    # The plain clock's method would be a quarter of the cost of an event.
    tick = time.monotonic if type(clock) is Clock else clock.time
    calls = tuple((one.key, one.function, one.pick, one.plugin) for one in implementations)

    def call(**facts: Any) -> None:
        try:
            inside = _inside.keys
        except AttributeError:
            inside = _inside.keys = set()
        if strict and facts.keys() != expected:
            raise TypeError(f"{hook} takes {sorted(expected)}, not {sorted(facts)}")
        for name in mappings:
            facts[name] = read_only(facts.get(name))
        ended = tick()
        for key, function, pick, plugin in calls:
            if key in inside:
                continue
            inside.add(key)
            began = ended
            try:
                function(*pick(facts))
            except Exception as error:
                plugin.failed(hook, error)
                if strict:
                    raise PluginError(f"plugin {plugin.name} failed in {hook}: {error}") from error
            finally:
                inside.discard(key)
            ended = tick()
            if ended - began > SLOW:
                plugin.slow(hook, ended - began)

    return call
