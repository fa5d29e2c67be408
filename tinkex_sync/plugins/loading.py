"""Where plugins come from: entry points, modules named in the environment, arguments, the package itself."""

from __future__ import annotations

import inspect
import logging
import os
import re
from dataclasses import dataclass
from importlib import metadata
from typing import Any, FrozenSet, Iterable, Iterator, List, Optional, Set, Tuple

from ..errors import ConfigError
from .hookspecs import PROJECT

__all__ = ["Candidate", "Settings", "candidates", "load"]

logger = logging.getLogger("tinkex_sync.plugins")


def _plain(name: str) -> str:
    """Names of distributions are compared like this (PEP 503); ours are too."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Settings:
    """Which plugins to load, with the environment read."""

    autoload: bool
    disabled: FrozenSet[str]
    modules: Tuple[str, ...]
    strict: bool

    @classmethod
    def read(
        cls,
        *,
        autoload: Optional[bool],
        disabled: Optional[Iterable[str]],
        modules: Optional[Iterable[str]],
        strict: Optional[bool],
    ) -> Settings:
        """Take each argument that is given, and its environment variable where it is None."""
        if autoload is None:
            autoload = not _flag("TINKEX_SYNC_DISABLE_PLUGIN_AUTOLOAD")
        if strict is None:
            strict = _flag("TINKEX_SYNC_PLUGINS_STRICT")
        disabled = _names("disabled", disabled, "TINKEX_SYNC_DISABLED_PLUGINS")
        modules = _names("modules", modules, "TINKEX_SYNC_PLUGINS")
        return cls(autoload, frozenset(map(_plain, disabled)), tuple(modules), strict)

    def blocks(self, candidate: Candidate) -> bool:
        """True if its own name or its distribution's is disabled; what was given as an argument never is."""
        names = {_plain(candidate.name), _plain(candidate.distribution or candidate.name)}
        return candidate.origin != "argument" and not names.isdisjoint(self.disabled)


def _flag(variable: str) -> bool:
    value = os.environ.get(variable, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise ConfigError(f"{variable} must be 1 or 0, not {value!r}")


def _names(argument: str, given: Optional[Iterable[str]], variable: str) -> List[str]:
    if isinstance(given, str):
        raise TypeError(f"{argument} must be a list of names, not the text {given!r}")
    names = os.environ.get(variable, "").split(",") if given is None else given
    return [name.strip() for name in names if name.strip()]


@dataclass(frozen=True)
class Candidate:
    """A plugin that was found and not yet loaded. ``value`` is an entry point, or the plugin itself."""

    name: str
    origin: str
    value: Any
    distribution: Optional[str] = None
    version: Optional[str] = None

    @classmethod
    def given(cls, plugin: object, name: Optional[str] = None, origin: str = "argument") -> Candidate:
        """A module, instance or class handed over by code."""
        if plugin is None or isinstance(plugin, (str, bytes)):
            raise TypeError(
                f"a plugin is a module, an instance or a class, not {plugin!r}; modules= takes names"
            )
        return cls(name or _name_of(plugin, origin), origin, plugin)

    def identity(self, loaded: object) -> object:
        """What all clients that load this plugin share: its class if there is one, else the object."""
        by_entry_point = isinstance(self.value, metadata.EntryPoint)
        by_class = inspect.isclass(self.value) or (by_entry_point and not inspect.ismodule(loaded))
        return type(loaded) if by_class else loaded


def _name_of(plugin: object, origin: str) -> str:
    if inspect.ismodule(plugin):
        return plugin.__name__
    cls = plugin if inspect.isclass(plugin) else type(plugin)
    return (
        cls.__module__.rpartition(".")[2] if origin == "builtin" else f"{cls.__module__}.{cls.__qualname__}"
    )


def candidates(
    plugins: Iterable[object], builtin: Iterable[object], settings: Settings
) -> Iterator[Candidate]:
    """Everything to load, in the order of registration: builtin, entry points, modules, arguments."""
    if not isinstance(plugins, Iterable) or isinstance(plugins, (str, bytes)):
        raise TypeError(f"plugins must be a list of plugins, not {plugins!r}")
    given = [Candidate.given(plugin) for plugin in plugins]
    for plugin in builtin:
        yield Candidate.given(plugin, origin="builtin")
    if settings.autoload:
        yield from _entry_points()
    for name in settings.modules:
        yield Candidate(name, "module", metadata.EntryPoint(name=name, value=name, group=PROJECT))
    yield from given


def _entry_points() -> Iterator[Candidate]:
    # 3.9 has no entry_points(group=), and one distribution with broken metadata would end it for all.
    seen: Set[str] = set()
    for distribution in metadata.distributions():
        try:
            found = [entry for entry in distribution.entry_points if entry.group == PROJECT]
            if not found:
                continue
            name, version = distribution.metadata["Name"], distribution.version
            plain = _plain(name)
        except Exception:
            logger.warning("cannot read the metadata of %r", distribution, exc_info=True)
            continue
        if plain in seen:
            continue  # a second copy further down sys.path cannot be imported
        seen.add(plain)
        for entry in found:
            yield Candidate(entry.name, "entry point", entry, name, version)


def load(candidate: Candidate) -> object:
    """Import what is not yet imported, instantiate what is a class. Raises what the plugin's code raises."""
    value = candidate.value
    if isinstance(value, metadata.EntryPoint):
        value = value.load()
    return value() if inspect.isclass(value) else value
