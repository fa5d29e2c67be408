"""Find plugins in entry points, in the environment, in arguments and in this package, and load them."""

from __future__ import annotations

import inspect
import os
import re
from importlib import metadata
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Set

from ..errors import ConfigError
from ..logs import get_logger
from .hookspecs import PROJECT

# One logger for all messages about plugins, so that users configure one name.
logger = get_logger("tinkex_sync.plugins")


def _normalized(name: str) -> str:
    """Return a name in the form in which names of distributions are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Settings:
    """Which plugins to load. Never modified, so it is thread-safe.

    The value of an argument of None is read from an environment variable. ``Observers`` documents both.

    Raises:
        ConfigError: An environment variable is invalid.
        TypeError: ``disabled`` or ``modules`` is a string.
    """

    def __init__(
        self,
        autoload: Optional[bool],
        disabled: Optional[Iterable[str]],
        modules: Optional[Iterable[str]],
        strict: Optional[bool],
    ) -> None:
        self.autoload = not _read_flag("TINKEX_SYNC_DISABLE_PLUGIN_AUTOLOAD") if autoload is None else autoload
        self.strict = _read_flag("TINKEX_SYNC_PLUGINS_STRICT") if strict is None else strict
        self.modules = _read_names("modules", modules, "TINKEX_SYNC_PLUGINS")
        disabled = _read_names("disabled", disabled, "TINKEX_SYNC_DISABLED_PLUGINS")
        self._disabled = set(map(_normalized, disabled))

    def blocks(self, plugin: UnloadedPlugin) -> bool:
        """Return whether the plugin's name or its distribution is disabled. Arguments are never blocked."""
        names = {_normalized(plugin.name), _normalized(plugin.distribution or plugin.name)}
        return plugin.origin != "argument" and not names.isdisjoint(self._disabled)


def _read_flag(variable: str) -> bool:
    """Return the value of a boolean environment variable; False if it is not set."""
    value = os.environ.get(variable, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise ConfigError(f"{variable} must be 1 or 0, not {value!r}")


def _read_names(argument: str, names: Optional[Iterable[str]], variable: str) -> List[str]:
    """Return ``names`` without empty names; if it is None, the names in an environment variable."""
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a list of names, not the string {names!r}")
    if names is None:
        names = os.environ.get(variable, "").split(",")
    return [name.strip() for name in names if name.strip()]


class UnloadedPlugin(NamedTuple):
    """A plugin that was found and is not loaded yet.

    Args:
        name: Name of the plugin; another plugin may have the same one.
        origin: "entry point", "module", "argument" or "builtin".
        value: An entry point, or the plugin itself: a module, an instance or a class.
        distribution: Name of the distribution that contains the entry point.
        version: Version of that distribution.
    """

    name: str
    origin: str
    value: Any
    distribution: Optional[str] = None
    version: Optional[str] = None

    @classmethod
    def from_object(cls, plugin: object, name: Optional[str] = None, origin: str = "argument") -> UnloadedPlugin:
        """Return the description of a module, an instance or a class.

        Args:
            plugin: The object.
            name: Name of the plugin. Default: the module's name, or the names of the module and the class. A
                built-in plugin has the last part of its module's name.
            origin: "argument" or "builtin".

        Raises:
            TypeError: The object is None, a string, a number or the like.
        """
        kind = plugin if inspect.isclass(plugin) else type(plugin)
        if kind.__module__ == "builtins" and not inspect.ismodule(plugin):
            raise TypeError(f"a plugin is a module, an instance or a class, not {plugin!r}; pass names as modules=")
        if inspect.ismodule(plugin):
            default = plugin.__name__
        elif origin == "builtin":
            default = kind.__module__.rpartition(".")[2]
        else:
            default = f"{kind.__module__}.{kind.__qualname__}"
        return cls(name or default, origin, plugin)


def find_plugins(plugins: Iterable[object], builtin: Iterable[object], settings: Settings) -> Iterator[UnloadedPlugin]:
    """Yield all plugins in the order of registration: built-in, entry points, modules, arguments.

    Args:
        plugins: Plugins passed as arguments.
        builtin: Plugins of this package.
        settings: Which others to find; blocked plugins are included.

    Raises:
        TypeError: ``plugins`` is not iterable, or contains None or a string.
    """
    if not isinstance(plugins, Iterable) or isinstance(plugins, (str, bytes)):
        raise TypeError(f"plugins must be a list of plugins, not {plugins!r}")
    arguments = [UnloadedPlugin.from_object(plugin) for plugin in plugins]
    for plugin in builtin:
        yield UnloadedPlugin.from_object(plugin, origin="builtin")
    if settings.autoload:
        yield from _find_entry_points()
    for name in settings.modules:
        yield UnloadedPlugin(name, "module", metadata.EntryPoint(name=name, value=name, group=PROJECT))
    yield from arguments


def _find_entry_points() -> Iterator[UnloadedPlugin]:
    """Yield the entry points of all installed distributions. A distribution with broken metadata is skipped."""
    # metadata.entry_points(group=) is missing in Python 3.9, and fails for all distributions if the metadata of
    # one is broken.
    seen: Set[str] = set()
    for distribution in metadata.distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group == PROJECT]
            if not entries:
                continue
            name, version = distribution.metadata["Name"], distribution.version
            normalized = _normalized(name)
        except Exception:
            text = "cannot read the metadata of a distribution: distribution=%r"
            logger.warning(text, distribution, exc_info=True)
            continue
        if normalized in seen:
            continue  # The import system finds only the first copy on sys.path.
        seen.add(normalized)
        for entry in entries:
            yield UnloadedPlugin(entry.name, "entry point", entry, name, version)


def load(plugin: UnloadedPlugin) -> object:
    """Import the plugin, instantiate it if it is a class, and return it.

    Raises:
        BaseException: Any error of the plugin's own code.
    """
    value = plugin.value
    if plugin.origin in ("entry point", "module"):  # not by its class: importlib_metadata has another one
        value = value.load()
    return value() if inspect.isclass(value) else value
