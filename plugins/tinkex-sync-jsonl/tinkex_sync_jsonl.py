"""A tinkex_sync plugin that appends every event to a file as one line of JSON.

The environment variable TINKEX_SYNC_JSONL names the file. The default is ``tinkex-sync.jsonl`` in the current
directory. If the variable is empty, the plugin writes nothing. With TINKEX_SYNC_JSONL_MAX_BYTES, a file of that size is
renamed to ``FILE.1``, and earlier ones to ``FILE.2`` and so on; TINKEX_SYNC_JSONL_KEEP of them are kept (5). The README
describes the format. ``tinkex-sync events FILE`` summarises a file.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Dict, Optional

from tinkex_sync.plugins import QueuedObserver, observe_all

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

__all__ = ["JsonLines"]

VARIABLE = "TINKEX_SYNC_JSONL"
DEFAULT = "tinkex-sync.jsonl"


class JsonLines(QueuedObserver):
    """Append events to a file, which the first event creates.

    Lines are appended as a whole, so several processes may use the same file. Only the thread of the observer
    opens and writes it.

    Args:
        path: Path of the file; "" for none. Default: TINKEX_SYNC_JSONL, see the module.
        max_bytes: Size at which the file is renamed; 0: never. Default: TINKEX_SYNC_JSONL_MAX_BYTES, else 0.
        keep: Number of renamed files that are kept. Default: TINKEX_SYNC_JSONL_KEEP, else 5.

    Raises:
        ValueError: A number is invalid.
    """

    def __init__(self, path: Optional[str] = None, max_bytes: Optional[int] = None, keep: Optional[int] = None) -> None:
        super().__init__()
        self._max_bytes = _read_number(f"{VARIABLE}_MAX_BYTES", 0, least=0) if max_bytes is None else max_bytes
        self._keep = _read_number(f"{VARIABLE}_KEEP", 5, least=1) if keep is None else keep
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
        assert self.path is not None
        if self._file is not None and self._max_bytes:
            self._rotate(self.path)
        if self._file is None:
            # Without a buffer, so that a forked child does not write what its parent has buffered.
            self._file = self.path.open("ab", buffering=0)
        self._file.write(lines)

    def _rotate(self, path: Path) -> None:
        """Rename a file that is full, and close a file that another process has renamed."""
        assert self._file is not None
        with path.with_name(f"{path.name}.lock").open("ab") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released when it is closed
            is_present = path.exists() and os.path.samestat(os.fstat(self._file.fileno()), path.stat())
            if is_present and self._file.seek(0, os.SEEK_END) < self._max_bytes:
                return
            self.finish()
            if is_present:
                for number in range(self._keep, 0, -1):
                    earlier = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
                    if earlier.exists():
                        earlier.replace(path.with_name(f"{path.name}.{number}"))

    def finish(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _read_number(variable: str, default: int, least: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not text.isdigit() or int(text) < least:
        raise ValueError(f"{variable} must be a whole number of at least {least}, not {text!r}")
    return int(text)


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
