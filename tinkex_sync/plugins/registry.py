"""The plugins of one service client, with one attribute per hook.

pluggy stores specifications, registrations and their order. Its own call is not used, because an implementation
that raises would end the call for all others; see ``dispatch``.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any, Dict, Iterable, List, Optional

import pluggy

from ..concurrency.clock import Clock
from ..concurrency.primitives import Event, Lock, start_thread
from ..errors import PluginError
from . import hookspecs
from .dispatch import Hook, Implementation, Plugin, PluginStatus, make_hook
from .hookspecs import PREFIX, PROJECT, SPECS, argument_names
from .loading import Settings, UnloadedPlugin, find_plugins, load
from .queued_observer import CLOSE_TIMEOUT

__all__ = ["Hook", "Observers", "PluginStatus"]

# One logger for all messages about plugins, so that users configure one name.
logger = logging.getLogger("tinkex_sync.plugins")


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        # Versions of pluggy before 1.7 evaluate the properties of a plugin while they search for hooks.
        if isinstance(inspect.getattr_static(plugin, name, None), property):
            return None
        return super().parse_hookimpl_opts(plugin, name)


class Observers:
    """The plugins of one service client, with one attribute per hook.

    An attribute has the name of its hook without ``tinkex_``. Its value is None if no plugin implements the hook,
    so an event without observers costs one test. Otherwise it is a function that takes the hook's arguments by
    name. It calls every plugin, the one registered last first::

        hook = observers.request_finished
        if hook is not None:
            hook(source=source, call_id=call_id, ...)

    The first error of each hook of a plugin is logged with a traceback; later errors are counted. Neither
    affects the run. A plugin that has a hook running in a thread is not called again in that thread.

    Invariant: attributes and their values are replaced, never modified, so callers read them without a lock. A
    call that runs while a plugin is unregistered may still call this plugin. All methods are thread-safe.

    The constructor loads all plugins; importing this package loads none. Arguments override the environment.

    Args:
        plugins: Modules, instances or classes (they are instantiated). They are called before all others.
        autoload: Whether to load the entry points of the group ``tinkex_sync``. Default: True unless
            TINKEX_SYNC_DISABLE_PLUGIN_AUTOLOAD is set.
        disabled: Names of entry points, distributions, modules or built-in plugins that are not loaded. Default:
            the names in TINKEX_SYNC_DISABLED_PLUGINS, separated by commas.
        modules: Modules to load, as "module" or "module:attribute". Default: the names in TINKEX_SYNC_PLUGINS,
            separated by commas.
        strict: Whether to raise PluginError instead of logging a warning, for plugin authors. The constructor
            and ``register`` raise it for a plugin that cannot be loaded, is invalid or implements an unknown
            hook. The place of the event raises it for a hook that raises. Default: TINKEX_SYNC_PLUGINS_STRICT.
        builtin: Plugins of this package. Each is named after its module.
        clock: Source of time. Default: the system's monotonic clock.

    Raises:
        ConfigError: An environment variable is invalid.
        PluginError: A plugin is unusable, in strict mode only.
        TypeError: An element of ``plugins`` cannot be a plugin.
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
        for found in find_plugins(plugins, builtin, settings):
            self._add(found, is_blocked=settings.blocks(found))

    def register(self, plugin: object, name: Optional[str] = None) -> PluginStatus:
        """Add a plugin to a client that may be running.

        Args:
            plugin: A module, an instance or a class.
            name: Name of the plugin. Default: the name of its module and class.

        Returns:
            The plugin's status. An invalid plugin raises in strict mode only, so check ``status``.

        Raises:
            PluginError: The plugin is unusable, in strict mode only.
            TypeError: ``plugin`` is None or a string.
        """
        return self._add(UnloadedPlugin.from_object(plugin, name)).report()

    def unregister(self, plugin: object) -> None:
        """Remove a plugin without closing it.

        Args:
            plugin: The object that was registered, the loaded instance, or the plugin's name.

        Raises:
            ValueError: No such plugin is registered.
        """
        with self._lock:
            row = next((row for row in self._plugins if _matches(row, plugin)), None)
            if row is None:
                names = [row.name for row in self._plugins]
                raise ValueError(f"{plugin!r} is not registered; registered: {names}")
            if self._manager.has_plugin(row.name):
                self._manager.unregister(name=row.name)
            self._plugins.remove(row)
            self._publish()

    def is_active(self, plugin: object) -> bool:
        """Return whether this instance or module is registered, valid and not blocked."""
        with self._lock:
            return any(row.object is plugin and row.status == "active" for row in self._plugins)

    def report(self) -> List[PluginStatus]:
        """Return the status of every plugin, in the order in which they were found."""
        with self._lock:
            plugins = list(self._plugins)
        return [plugin.report() for plugin in plugins]

    def close(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Call ``close()`` of every active plugin that has it. The plugins stay registered.

        The calls run one after the other in a thread of their own, so that no plugin delays the client for
        longer than ``timeout``. The error of one does not affect the others. A ``close`` with a parameter
        ``deadline`` receives the end of the timeout, in seconds on ``time.monotonic()``. Modules are skipped,
        because the ``close`` of a module may be any function that it imported.

        Args:
            timeout: Seconds to wait for all calls together.

        Returns:
            Whether all calls returned in time.
        """
        deadline = Clock().time() + self._clock.real(timeout)
        with self._lock:
            closing = [row for row in self._plugins if row.status == "active" and _has_close(row.object)]
        if not closing:
            return True
        done = Event()
        started: List[Plugin] = []

        def close_all() -> None:
            for row in closing:
                started.append(row)
                _close(row, deadline)
            done.set()

        try:
            start_thread(close_all, "tinkex-plugins-close")
        except RuntimeError:
            close_all()  # No thread can be started while the interpreter exits.
        if self._clock.wait(done, timeout):
            return True
        late = started[-1].name if started else closing[0].name
        logger.warning("plugin %s was still closing after %.1f s", late, timeout)
        return False

    def _add(self, found: UnloadedPlugin, is_blocked: bool = False) -> Plugin:
        with self._lock:
            row = Plugin(self._unused_name(found.name), found)
            self._plugins.append(row)
        if is_blocked:
            row.reject("blocked", "")
            return row
        cause: Optional[BaseException] = None
        # Loading runs code of the plugin, so the lock is not held.
        try:
            row.object = load(found)
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
            self._warn_or_raise(f"plugin {row.name} is not used: {row.report().error}", cause)
        elif row.unknown_hooks:
            names = ", ".join(row.unknown_hooks)
            self._warn_or_raise(f"plugin {row.name}: unknown hook {names} (ignored)", None)
        elif not row.hooks:
            text = f"plugin {row.name} implements no hook; mark its functions with @hookimpl"
            self._warn_or_raise(text, None)
        return row

    def _unused_name(self, name: str) -> str:
        """Return ``name``, with a number if another plugin has that name. Call with ``_lock`` held."""
        used = {row.name for row in self._plugins}
        unique, number = name, 2
        while unique in used:
            unique, number = f"{name}#{number}", number + 1
        return unique

    def _register(self, row: Plugin) -> Optional[Exception]:
        """Register a loaded plugin with pluggy; return the error if it is invalid."""
        with self._lock:
            try:
                self._manager.register(row.object, row.name)
                hooks = self._implementations(row)
            except Exception as error:
                # pluggy 1.6 keeps a part of a plugin that it has rejected.
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
        """Return the hooks of a plugin that pluggy has accepted, by full name. Call with ``_lock`` held.

        Raises:
            ValueError: A hook is not a plain function.
        """
        implementations = {}
        for hook in self._manager.get_hookcallers(row.object) or ():
            for hookimpl in hook.get_hookimpls():
                if hookimpl.plugin is row.object:
                    _check_plain_function(hook.name, hookimpl)
                    implementations[hook.name] = hookimpl
        return implementations

    def _publish(self) -> None:
        """Replace the attributes by functions that call the registered plugins. Call with ``_lock`` held."""
        rows = {row.name: row for row in self._plugins}
        for name in SPECS:
            known = argument_names(name)
            implementations = tuple(
                Implementation(rows[hookimpl.plugin_name], hookimpl, known)
                for hookimpl in reversed(getattr(self._manager.hook, name).get_hookimpls())
            )
            hook = name[len(PREFIX) :]
            called = make_hook(hook, implementations, self._clock, self.strict) if implementations else None
            setattr(self, hook, called)

    def _warn_or_raise(self, text: str, cause: Optional[BaseException]) -> None:
        if self.strict:
            raise PluginError(text) from cause
        logger.warning("%s", text, exc_info=cause)


def _matches(row: Plugin, plugin: object) -> bool:
    """Return whether ``plugin`` is the name, the loaded object or the registered object of a row."""
    is_object = plugin is not None and (row.object is plugin or row.found.value is plugin)
    return is_object or row.name == plugin


def _check_plain_function(hook: str, hookimpl: pluggy.HookImpl) -> None:
    if hookimpl.wrapper or hookimpl.hookwrapper:
        raise ValueError(f"{hook} is a wrapper; a plugin can only observe, so use a plain function")
    function = hookimpl.function
    for test in (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction):
        if test(function):
            raise ValueError(
                f"{hook} is a generator or a coroutine, whose body would never run; use a plain function"
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
        row.record_error("close", error)
