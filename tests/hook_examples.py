"""Valid arguments for every hook, and a registry without installed plugins, for tests of plugins."""

from __future__ import annotations

import logging
from typing import Any, Dict, List

import pytest

from tinkex_sync.plugins import Observers, PluginStatus
from tinkex_sync.plugins.events import Boundary, Source
from tinkex_sync.plugins.hookspecs import SPECS, argument_names

SOURCE = Source("training", "model-1", "session-1")

_EXAMPLES: Dict[str, Any] = {
    "source": SOURCE,
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
    "params": object(),
    "payload": {"learning_rate": 1e-4},
    "estimated_bytes": 80,
    "charged_bytes": 80,
    "throttled": False,
    "in_flight": 1,
    "bytes_left": 1000,
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

#: Names of all event hooks, as attributes of Observers.
EVENTS = [name[len("tinkex_") :] for name in SPECS if argument_names(name)[0] == "source"]


def facts(hook: str, **changed: Any) -> Dict[str, Any]:
    """Return arguments for ``hook`` (the name of an attribute of Observers)."""
    return {name: changed.get(name, _EXAMPLES[name]) for name in argument_names("tinkex_" + hook)}


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
