"""A tinkex_sync plugin: every event as one JSON line, appended to a file.

TINKEX_SYNC_JSONL names the file; where that is not set in the environment it is ``tinkex-sync.jsonl``
in the current directory, and where it is set to nothing there is none. The README describes the format.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Dict, Optional

from tinkex_sync.plugins.queued_observer import QueuedObserver, observe_all

__all__ = ["JsonLines"]

VARIABLE = "TINKEX_SYNC_JSONL"
DEFAULT = "tinkex-sync.jsonl"


class JsonLines(QueuedObserver):
    """Write events to ``path`` (default: see the module); the file is created by the first one.

    Lines are appended whole, so several processes may share a file. Only the observer's thread touches it.
    """

    def __init__(self, path: Optional[str] = None) -> None:
        super().__init__()
        chosen = os.environ.get(VARIABLE, DEFAULT) if path is None else path
        # Absolute, because a script may change its directory before the first event.
        self.path = Path(chosen).absolute() if chosen else None
        self._file: Optional[BinaryIO] = None
        if self.path is not None:
            observe_all(self, self._receive)

    def _receive(self, hook: str, facts: Dict[str, Any]) -> None:
        self.put((time.time(), time.monotonic(), threading.current_thread().name, hook, facts))

    def handle(self, events: Sequence[Any]) -> None:
        lines = b"".join(map(_line, events))
        if self._file is None:
            assert self.path is not None
            # Unbuffered: a forked child must not write out what its parent had begun.
            self._file = self.path.open("ab", buffering=0)
        self._file.write(lines)

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(event: Any) -> bytes:
    now, monotonic, thread, hook, facts = event
    told = {
        "time": now,
        "monotonic": monotonic,
        "pid": os.getpid(),
        "thread": thread,
        "hook": hook,
        **{name: _plain(value) for name, value in facts.items()},
    }
    return (
        json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        + b"\n"
    )


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return str(value)
