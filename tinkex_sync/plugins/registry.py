"""The plugins of one service client, with one attribute per hook.

pluggy stores specifications, registrations and their order. Its own call is not used, because an implementation
that raises would end the call for all others; see ``dispatch``.
"""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any, Iterable, List, Optional, Set

import pluggy

from ..concurrency.clock import Clock
from ..concurrency.primitives import Event, Lock, start_thread
from ..errors import PluginError
from . import hookspecs
from .dispatch import Hook, Plugin, PluginStatus, make_hook
from .hookspecs import PREFIX, PROJECT, SPECS
from .loading import Settings, UnloadedPlugin, find_plugins, load, logger
from .queued_observer import CLOSE_TIMEOUT


class _Manager(pluggy.PluginManager):
    """pluggy's manager, restricted to hooks that are plain functions."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        # Versions of pluggy before 1.7 evaluate the properties of a plugin while they search for hooks.
        if isinstance(inspect.getattr_static(plugin, name, None), property):
            return None
        options = super().parse_hookimpl_opts(plugin, name)
        hook = (options and options.get("specname")) or name
        # An unknown hook that is optional is neither registered nor reported.
        if not options or (options.get("optionalhook") and hook not in SPECS):
            return None
        if options.get("wrapper") or options.get("hookwrapper"):
            raise ValueError(f"{hook} is a wrapper; a plugin can only observe, so use a plain function")
        function = getattr(plugin, name)
        for test in (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction):
            if test(function):
                raise ValueError(
                    f"{hook} is a generator or a coroutine, whose body would never run; use a plain function"
                )
        return options


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
        hook_timeout: Seconds after which a hook that has not returned is left behind in a thread of its own, and its
            plugin is listed as "stuck" and not called again. Default: no limit; hooks run in the thread of the event.

    Raises:
        ConfigError: An environment variable is invalid.
        PluginError: A plugin is unusable, in strict mode only.
        TypeError: An element of ``plugins`` cannot be a plugin.
    """

    if TYPE_CHECKING:

        def __getattr__(self, hook: str) -> Optional[Hook]: ...

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
        hook_timeout: Optional[float] = None,
    ) -> None:
        settings = Settings(autoload, disabled, modules, strict)
        self.strict = settings.strict
        self._clock = clock or Clock()
        self._hook_timeout = hook_timeout
        self._given: Set[int] = set()  # ids of the classes and modules of plugins passed as arguments
        self._lock = Lock()
        self._manager = _Manager(PROJECT)  # guarded by _lock
        self._manager.add_hookspecs(hookspecs)
        self._plugins: List[Plugin] = []  # guarded by _lock
        self._publish()
        found = list(find_plugins(plugins, builtin, settings))
        self._given = {_identity(one.value) for one in found if one.origin == "argument"}
        for one in found:
            self._add(one, is_blocked=settings.blocks(one))

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
        return self._add(UnloadedPlugin.from_object(plugin, name)).status

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
            self._manager.unregister(name=row.name)  # Does nothing for a plugin that is not active.
            self._plugins.remove(row)
            self._publish()

    def is_active(self, plugin: object) -> bool:
        """Return whether this instance or module is registered, valid and not blocked."""
        with self._lock:
            return any(row.object is plugin and row.status.status == "active" for row in self._plugins)

    def report(self) -> List[PluginStatus]:
        """Return the status of every plugin, in the order in which they were found."""
        with self._lock:
            return [row.status for row in self._plugins]

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
            active = [row for row in self._plugins if row.status.status == "active"]
        closing = [row for row in active if _has_close(row.object)]
        if not closing:
            return True
        done = Event()
        current = closing[0]

        def close_all() -> None:
            nonlocal current
            for current in closing:
                _close(current, deadline)
            done.set()

        try:
            start_thread(close_all, "tinkex-plugins-close")
        except RuntimeError:
            close_all()  # No thread can be started while the interpreter exits.
        if self._clock.wait(done, timeout):
            return True
        logger.warning("plugin %s was still closing after %.1f s", current.name, timeout)
        return False

    def _add(self, found: UnloadedPlugin, is_blocked: bool = False) -> Plugin:
        with self._lock:
            row = Plugin(self._unused_name(found.name), found)
            self._plugins.append(row)
        if is_blocked:
            row.update(status="blocked")
            return row
        failure = "failed"
        try:
            row.object = load(found)  # This runs code of the plugin, so the lock is not held.
            if found.origin in ("entry point", "module") and _identity(row.object) in self._given:
                row.update(status="blocked", error="the same plugin was passed as an argument, which is used")
                return row
            failure = "invalid"
            self._register(row)
        except (Exception, SystemExit) as error:
            row.update(status=failure, error=f"{type(error).__name__}: {error}")
            self._warn_or_raise(f"plugin {row.name} is not used: {row.status.error}", error)
            return row
        if row.status.unknown_hooks:
            names = ", ".join(row.status.unknown_hooks)
            self._warn_or_raise(f"plugin {row.name}: unknown hook {names} (ignored)")
        elif not row.status.hooks:
            self._warn_or_raise(f"plugin {row.name} implements no hook; mark its functions with @hookimpl")
        return row

    def _unused_name(self, name: str) -> str:
        """Return ``name``, with a number if another plugin has that name. Call with ``_lock`` held."""
        used = {row.name for row in self._plugins}
        unique, number = name, 2
        while unique in used:
            unique, number = f"{name}#{number}", number + 1
        return unique

    def _register(self, row: Plugin) -> None:
        """Register a loaded plugin with pluggy. Raises an error if the plugin is invalid."""
        with self._lock:
            try:
                self._manager.register(row.object, row.name)
            except BaseException:
                # Versions of pluggy before 1.7 keep a part of a plugin that they have rejected.
                self._manager.unregister(name=row.name)
                raise
            names = sorted(hook.name for hook in self._manager.get_hookcallers(row.object) or ())
            row.update(
                status="active",
                hooks=tuple(name for name in names if name in SPECS),
                unknown_hooks=tuple(name for name in names if name not in SPECS),
            )
            self._publish()

    def _publish(self) -> None:
        """Replace the attributes by functions that call the registered plugins. Call with ``_lock`` held."""
        rows = {row.name: row for row in self._plugins}
        for name in SPECS:
            registered = reversed(getattr(self._manager.hook, name).get_hookimpls())
            implementations = [(rows[hookimpl.plugin_name], hookimpl) for hookimpl in registered]
            options = (self._clock, self.strict, self._hook_timeout)
            setattr(self, name[len(PREFIX) :], make_hook(name, implementations, *options) if implementations else None)

    def _warn_or_raise(self, text: str, cause: Optional[BaseException] = None) -> None:
        if self.strict:
            raise PluginError(text) from cause
        if logger.hasHandlers():  # Without a handler, the warning alone is on stderr.
            logger.warning("%s", text, exc_info=cause)
        warnings.warn(text, RuntimeWarning, stacklevel=5)


def _identity(plugin: object) -> int:
    """Return the id of a plugin's class, or of its module."""
    return id(plugin if inspect.isclass(plugin) or inspect.ismodule(plugin) else type(plugin))


def _matches(row: Plugin, plugin: object) -> bool:
    """Return whether ``plugin`` is the name, the loaded object or the registered object of a row."""
    return row.object is plugin or row.found.value is plugin or row.name == plugin


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
