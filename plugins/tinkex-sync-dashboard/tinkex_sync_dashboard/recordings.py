"""Read files that tinkex-sync-jsonl has written, and follow them while they grow."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from pathlib import Path
from typing import BinaryIO, Iterator, List, Optional

from tinkex_sync.plugins import Boundary, Source

from .runs import Event, Runs

__all__ = ["parse_line", "replay"]

_BATCH = 5000
#: Seconds between two looks at a file that has not grown.
_POLL = 0.5


def parse_line(line: bytes) -> Optional[Event]:
    """Return the event of one line; None if the line holds none."""
    try:
        facts = json.loads(line)
        facts["source"] = Source(**facts["source"])
        if "boundary" in facts:
            facts["boundary"] = Boundary(**facts["boundary"])
        if "boundaries" in facts:
            facts["boundaries"] = [Boundary(**chunk) for chunk in facts["boundaries"]]
        time_ = float(facts["time"])
        return (time_, str(facts["hook"]), facts) if math.isfinite(time_) else None
    except (KeyError, TypeError, ValueError):
        return None


def replay(path: Path, runs: Runs, stop: threading.Event, speed: float = 0.0, follow: bool = True) -> int:
    """Add the events of a file to ``runs``.

    Args:
        path: The file.
        runs: Receives the events. Their origin is the name of the file.
        stop: Ends the replay when it is set.
        speed: 1.0 replays events at the speed of the run, 10.0 ten times faster, 0.0 without waiting.
        follow: Continue with lines that are appended later, until ``stop`` is set.

    Returns:
        The number of lines that are not events.

    Raises:
        OSError: The file cannot be read.
    """
    skipped = 0
    first: Optional[float] = None
    began = time.monotonic()
    batch: List[Event] = []
    for line in _lines(path, stop, follow):
        event = parse_line(line) if line else None
        if event is not None:
            first = event[0] if first is None else first
            if speed and stop.wait(max(0.0, (event[0] - first) / speed - (time.monotonic() - began))):
                break
            batch.append(event)
        elif line:
            skipped += 1
        if batch and (speed or not line or len(batch) >= _BATCH):
            runs.add(path.name, batch)
            batch = []
    return skipped


def _lines(path: Path, stop: threading.Event, follow: bool) -> Iterator[bytes]:
    """Yield complete lines, and b"" at each end of the file. Continue with a file that replaces this one."""
    while not stop.is_set():
        with path.open("rb") as file:
            rest = b""
            while not stop.is_set():
                part = file.readline()
                rest += part
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
                elif not part:
                    yield b""
                    if not follow or stop.wait(_POLL):
                        return
                    if _is_replaced(path, file):
                        break


def _is_replaced(path: Path, file: BinaryIO) -> bool:
    """Return whether a file of the same name has taken the place of this one, or it was truncated."""
    try:
        found, own = path.stat(), os.fstat(file.fileno())
    except OSError:
        return False  # It was renamed, and the next one does not exist yet.
    return not os.path.samestat(found, own) or found.st_size < file.tell()
