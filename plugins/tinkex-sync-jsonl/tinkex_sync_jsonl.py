"""A tinkex_sync plugin that appends every event to a file as one line of JSON.

The environment variable TINKEX_SYNC_JSONL names the file. The default is ``tinkex-sync.jsonl`` in the current
directory. If the variable is empty, the plugin writes nothing. The README describes the format.
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

from tinkex_sync.plugins import QueuedObserver, observe_all

__all__ = ["JsonLines"]

VARIABLE = "TINKEX_SYNC_JSONL"
DEFAULT = "tinkex-sync.jsonl"


class JsonLines(QueuedObserver):
    """Append events to a file, which the first event creates.

    Lines are appended as a whole, so several processes may use the same file. Only the thread of the observer
    opens and writes it.

    Args:
        path: Path of the file; "" for none. Default: TINKEX_SYNC_JSONL, see the module.
    """

    def __init__(self, path: Optional[str] = None) -> None:
        super().__init__()
        chosen = os.environ.get(VARIABLE, DEFAULT) if path is None else path
        # The path is made absolute, because a script may change its directory before the first event.
        self.path = Path(chosen).absolute() if chosen else None
        self._file: Optional[BinaryIO] = None
        observe_all(self, self._receive)

    def _receive(self, hook: str, facts: Dict[str, Any]) -> None:
        if self.path is not None:
            self.put((time.time(), time.monotonic(), threading.current_thread().name, hook, facts))

    def handle(self, events: Sequence[Any]) -> None:
        """Append one line per event."""
        lines = b"".join(map(_line, events))
        if self._file is None:
            assert self.path is not None
            # Without a buffer, so that a forked child does not write what its parent has buffered.
            self._file = self.path.open("ab", buffering=0)
        self._file.write(lines)

    def finish(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(event: Any) -> bytes:
    now, monotonic, thread, hook, facts = event
    line = {
        "time": now,
        "monotonic": monotonic,
        "pid": os.getpid(),
        "thread": thread,
        "hook": hook,
        **{name: _json_value(value) for name, value in facts.items()},
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def _json_value(value: Any) -> Any:
    """Return ``value`` in a form that JSON can represent."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return _json_value(value._asdict())
    if isinstance(value, Sequence):
        return [_json_value(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _json_value(getattr(value, name)) for name in value.__dataclass_fields__}
    return str(value)
