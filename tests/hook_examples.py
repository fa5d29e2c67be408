"""Valid arguments for every hook, and a registry without installed plugins, for tests of plugins."""

from __future__ import annotations

import logging
from typing import Any, List

import pytest

from tinkex_sync.plugins import Observers, PluginStatus
from tinkex_sync.plugins.hookspecs import SPECS, argument_names
from tinkex_sync.testing import example_facts as facts

SOURCE = facts("session_opened")["source"]

#: Names of all event hooks, as attributes of Observers.
EVENTS = [name[len("tinkex_") :] for name in SPECS if argument_names(name)[0] == "source"]


def observers(*plugins: object, **settings: Any) -> Observers:
    return Observers(plugins, **{"autoload": False, **settings})


def emit(registry: Observers, hook: str = "call_started", **changed: Any) -> None:
    """Report an event as the client does."""
    call = getattr(registry, hook)
    if call is not None:
        call(**facts(hook, **changed))


def row(registry: Observers, index: int = -1) -> PluginStatus:
    return registry.report()[index]


def warnings(caplog: pytest.LogCaptureFixture) -> List[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
