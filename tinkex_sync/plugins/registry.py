"""Plugins: found, loaded and told what happens, each kept from harming the run or the others.

pluggy holds the specifications, the registrations and their order. Its own call is not used for events: one
implementation that raises would end the call for the rest. See ``plugin_calls``.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any, Dict, Iterable, List, Optional, Type, TypeVar

import pluggy

from ..concurrency.clock import Clock
from ..concurrency.primitives import Event, Lock, start_thread
from ..errors import PluginError
from . import hookspecs
from .dispatch import Hook, Implementation, Plugin, PluginStatus, caller
from .hookspecs import PREFIX, PROJECT, SPECS, argument_names
from .loading import Candidate, Settings, candidates, load
from .queued_observer import CLOSE_TIMEOUT

__all__ = ["Hook", "Observers", "PluginStatus"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        # Until 1.7 pluggy evaluates properties in search of hooks.
        if isinstance(inspect.getattr_static(plugin, name, None), property):
            return None
        return super().parse_hookimpl_opts(plugin, name)


class Observers:
    """The plugins of one service client, with an attribute for each hook.

    An attribute is named like its hook without ``tinkex_``. It is None while nobody implements the hook, so
    that a site costs one test, else a function that takes the hook's arguments by name and tells every
    plugin, the one registered last first::

        hook = observers.request_finished
        if hook is not None:
            hook(source=source, call_id=call_id, ...)

    What a plugin raises is logged once per plugin and hook, with a traceback, and then counted; the run goes
    on. A plugin inside one of its hooks is not called again on that thread.

    Invariant: attributes and what they hold are replaced, never changed, so sites read them without a lock. A
    call under way when a plugin is unregistered may still reach it.

    Everything is loaded by the constructor, nothing at import. Arguments win over the environment.

    Args:
        plugins: Modules, instances or classes (instantiated). They are called before those found otherwise.
        autoload: Load the entry points of group ``tinkex_sync``. Default: unless
            TINKEX_SYNC_DISABLE_PLUGIN_AUTOLOAD is set.
        disabled: Names not to load: of an entry point, distribution, module or builtin. Default:
            TINKEX_SYNC_DISABLED_PLUGINS, separated by commas.
        modules: Names of modules to load, or "module:attribute". Default: TINKEX_SYNC_PLUGINS. strict: Raise
        PluginError instead of logging: for a plugin that cannot be loaded, is not valid or has an
            unknown hook, from the constructor and ``register``; for a hook that raises, from the place that
            called it. Default: TINKEX_SYNC_PLUGINS_STRICT. For plugin authors.
        builtin: The package's own plugins; their names are those of their modules.

    Raises:
        ConfigError: an environment variable cannot be read.
        PluginError: in strict mode only.
        TypeError: something in ``plugins`` cannot be a plugin.
    """

    session_opened: Optional[Hook]
    session_closed: Optional[Hook]
    heartbeat_missed: Optional[Hook]
    billing_paused: Optional[Hook]
    call_started: Optional[Hook]
    request_finished: Optional[Hook]
    retry_scheduled: Optional[Hook]
    future_resolved: Optional[Hook]
    chunks_planned: Optional[Hook]
    chunk_sent: Optional[Hook]
    adam_params_serialized: Optional[Hook]
    queue_state_changed: Optional[Hook]
    queue_state_repeated: Optional[Hook]
    dispatch_acquired: Optional[Hook]
    dispatch_released: Optional[Hook]
    backoff_started: Optional[Hook]
    register_commands: Optional[Hook]

    def __init__(
        self,
        plugins: Iterable[object] = (),
        *,
        autoload: Optional[bool] = None,
        disabled: Optional[Iterable[str]] = None,
        modules: Optional[Iterable[str]] = None,
        strict: Optional[bool] = None,
        builtin: Iterable[object] = (),
        clock: Optional[Clock] = None,
    ) -> None:
        settings = Settings.read(autoload=autoload, disabled=disabled, modules=modules, strict=strict)
        self.strict = settings.strict
        self._clock = clock or Clock()
        self._lock = Lock()
        self._manager = _Manager(PROJECT)  # guarded by _lock
        self._manager.add_hookspecs(hookspecs)
        self._plugins: List[Plugin] = []  # guarded by _lock
        self._publish()
        for candidate in candidates(plugins, builtin, settings):
            self._add(candidate, blocked=settings.blocks(candidate))

    def register(self, plugin: object, name: Optional[str] = None) -> PluginStatus:
        """Add a plugin (module, instance or class) while the client runs; any thread may.

        Returns its row of ``report()``; look at ``status``, because an invalid plugin raises in strict mode
        only.

        Raises:
            TypeError: it cannot be a plugin (None, text).
        """
        return self._add(Candidate.given(plugin, name)).report()

    def unregister(self, plugin: object) -> None:
        """Remove a plugin, given the object or its name; it is not closed.

        Raises:
            ValueError: there is no such plugin.
        """
        with self._lock:
            for row in self._plugins:
                known = (row.object, row.candidate.value)
                if row.name == plugin or (plugin is not None and any(plugin is one for one in known)):
                    break
            else:
                raise ValueError(
                    f"{plugin!r} is not registered; registered: {[p.name for p in self._plugins]}"
                )
            if self._manager.has_plugin(row.name):
                self._manager.unregister(name=row.name)
            self._plugins.remove(row)
            self._publish()

    def find(self, kind: Type[T]) -> Optional[T]:
        """The active plugin that is a ``kind``; None if there is none."""
        with self._lock:
            active = [row.object for row in self._plugins if row.status == "active"]
        return next((plugin for plugin in active if isinstance(plugin, kind)), None)

    def report(self) -> List[PluginStatus]:
        """All plugins that were found, in the order they were found."""
        with self._lock:
            plugins = list(self._plugins)
        return [plugin.report() for plugin in plugins]

    def close(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Call ``close()`` of every active plugin that has it; False if ``timeout`` seconds were not enough.

        Modules are passed over: their ``close`` might be any function they imported. It is called one after
        the other, each isolated, on a thread of its own, so that none can hold the client up for longer than
        that. A ``close`` with a parameter ``deadline`` is given the end of the time, as seconds on
        ``time.monotonic()``. Plugins stay registered.
        """
        deadline = Clock().time() + self._clock.real(timeout)
        with self._lock:
            closing = [row for row in self._plugins if row.status == "active" and _has_close(row.object)]
        if not closing:
            return True
        done = Event()
        begun: List[Plugin] = []

        def close_all() -> None:
            for row in closing:
                begun.append(row)
                _close(row, deadline)
            done.set()

        try:
            start_thread(close_all, "tinkex-plugins-close")
        except RuntimeError:
            close_all()  # the interpreter is going and starts no more threads
        if self._clock.wait(done, timeout):
            return True
        late = begun[-1].name if begun else closing[0].name
        logger.warning("plugin %s was still closing after %.1f s", late, timeout)
        return False

    def _add(self, candidate: Candidate, blocked: bool = False) -> Plugin:
        with self._lock:
            row = Plugin(self._free_name(candidate.name), candidate)
            self._plugins.append(row)
        if blocked:
            row.reject("blocked", "")
            return row
        # Loading runs the plugin's own code, so it happens before the lock is taken.
        cause: Optional[BaseException] = None
        try:
            row.object = load(candidate)
        except (Exception, SystemExit) as error:
            cause = error
            row.reject("failed", f"{type(error).__name__}: {error}")
        else:
            cause = self._register(row)
            if cause is None:
                row.status = "active"
            else:
                row.reject("invalid", f"{type(cause).__name__}: {cause}")
        if row.status != "active":
            self._complain(f"plugin {row.name} is not used: {row.report().error}", cause)
        elif row.unknown_hooks:
            self._complain(f"plugin {row.name}: unknown hook {', '.join(row.unknown_hooks)} (ignored)", None)
        elif not row.hooks:
            self._complain(f"plugin {row.name} implements no hook; are they marked with @hookimpl?", None)
        return row

    def _free_name(self, name: str) -> str:
        """A name no other plugin has. Call with ``_lock`` held."""
        taken = {row.name for row in self._plugins}
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}#{number}", number + 1
        return unique

    def _register(self, row: Plugin) -> Optional[Exception]:
        with self._lock:
            try:
                self._manager.register(row.object, row.name)
                hooks = self._implementations(row)
            except Exception as error:
                # 1.6 leaves what did not validate half registered.
                if self._manager.has_plugin(row.name):
                    self._manager.unregister(name=row.name)
                return error
            row.hooks = tuple(sorted(name for name in hooks if name in SPECS))
            row.unknown_hooks = tuple(
                sorted(
                    name
                    for name, hookimpl in hooks.items()
                    if name not in SPECS and not hookimpl.optionalhook
                )
            )
            self._publish()
        return None

    def _implementations(self, row: Plugin) -> Dict[str, pluggy.HookImpl]:
        """The hooks of a plugin pluggy has accepted, by full name; ValueError if one cannot observe.

        Call with ``_lock`` held.
        """
        found = {}
        for hook in self._manager.get_hookcallers(row.object) or ():
            for hookimpl in hook.get_hookimpls():
                if hookimpl.plugin is row.object:
                    _check_plain(hook.name, hookimpl)
                    found[hook.name] = hookimpl
        return found

    def _publish(self) -> None:
        """Replace the attributes by what is registered now. Call with ``_lock`` held."""
        rows = {row.name: row for row in self._plugins}
        for name in SPECS:
            known = argument_names(name)
            implementations = tuple(
                Implementation(rows[hookimpl.plugin_name], hookimpl, known)
                for hookimpl in reversed(getattr(self._manager.hook, name).get_hookimpls())
            )
            hook = name[len(PREFIX) :]
            setattr(
                self,
                hook,
                caller(hook, implementations, self._clock, self.strict) if implementations else None,
            )

    def _complain(self, text: str, cause: Optional[BaseException]) -> None:
        if self.strict:
            raise PluginError(text) from cause
        logger.warning("%s", text, exc_info=cause)


def _check_plain(hook: str, hookimpl: pluggy.HookImpl) -> None:
    if hookimpl.wrapper or hookimpl.hookwrapper:
        raise ValueError(f"{hook} is a wrapper; plugins observe, they cannot wrap")
    function = hookimpl.function
    for test in (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction):
        if test(function):
            raise ValueError(
                f"{hook} is a generator or coroutine; it would never run, write a plain function"
            )


def _has_close(plugin: object) -> bool:
    return not inspect.ismodule(plugin) and callable(getattr(plugin, "close", None))


def _close(row: Plugin, deadline: float) -> None:
    try:
        if "deadline" in inspect.signature(row.object.close).parameters:
            row.object.close(deadline=deadline)
        else:
            row.object.close()
    except Exception as error:
        row.failed("close", error)
