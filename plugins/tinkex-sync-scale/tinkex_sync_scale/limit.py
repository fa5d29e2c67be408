"""The limit that the worker processes of a job share: a 429 in one process slows all of them.

The signal is the file ``_backoff`` in the output folder, because the engines have no common primitive and the workers
share this folder already. A process that gets a 429 replaces the file. The others read it and measure the stop with
their own clocks, so the clocks of the machines need not agree.
"""

from __future__ import annotations

import collections
import json
import threading
import time
import uuid
from pathlib import Path
from typing import Callable, Deque, Dict, List, Optional, Tuple

__all__ = ["SIGNAL", "SharedLimit", "limit_of", "report_backoff"]

#: Name of the file of the signal.
SIGNAL = "_backoff"
#: Seconds between two reads of the file.
_CHECK_INTERVAL = 0.1
#: Seconds in which a process writes the file or lowers its rate at most once.
_EPISODE = 1.0
#: Seconds over which the rate before a 429 is measured.
_WINDOW = 5.0
#: Factor that a 429 in another process applies to the measured rate.
_REDUCTION = 0.7
#: Seconds in which the rate doubles.
_DOUBLING = 5.0
#: The rate limit ends when the rate is this many times the rate before the first 429.
_END = 4.0
_LEAST_RATE = 1.0


class SharedLimit:
    """The rate at which this process may start samples of one job. Thread-safe.

    Without a recent 429 in another process there is no limit. The throttle of the sampling client handles the 429s of
    this process itself.
    """

    def __init__(self, folder: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(folder, SIGNAL)
        self._clock = clock
        self._own = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._last_seen = self._read()  # guarded by _lock
        self._next_check = clock()  # guarded by _lock
        self._next_signal = clock()  # guarded by _lock
        self._next_reduction = clock()  # guarded by _lock
        self._turns: Deque[float] = collections.deque()  # guarded by _lock
        #: The rate, its time, and the rate at which the limit ends; None: no limit.
        self._rate: Optional[Tuple[float, float, float]] = None  # guarded by _lock
        self._next_turn = clock()  # guarded by _lock

    def take_turn(self) -> float:
        """Reserve the next start of a sample, and return the seconds to wait before it.

        Returns:
            0.0 if the sample may start now. Otherwise nothing is reserved: call it again after the wait.
        """
        with self._lock:
            now = self._clock()
            if now >= self._next_check:
                self._next_check = now + _CHECK_INTERVAL
                seen = self._read()
                if seen is not None and seen != self._last_seen and seen[0] != self._own:
                    self._slow_down(now, seen[2])
                self._last_seen = seen
            if now < self._next_turn:
                # Short waits, so that a further signal is read in time.
                return min(self._next_turn - now, _CHECK_INTERVAL)
            rate = self._current_rate(now)
            if rate is not None:
                self._next_turn = now + 1 / rate
            self._turns.append(now)
            while self._turns[0] < now - _WINDOW:
                self._turns.popleft()
            return 0.0

    def report_backoff(self, duration: float) -> None:
        """Report to the other processes that the server returned 429, at most once per second."""
        with self._lock:
            now = self._clock()
            if now < self._next_signal:
                return
            self._next_signal = now + _EPISODE
        temporary = self._path.with_name(f"{SIGNAL}.{uuid.uuid4().hex}.tmp")
        temporary.write_text(json.dumps([self._own, uuid.uuid4().hex, duration]))
        temporary.replace(self._path)

    def _read(self) -> Optional[Tuple[str, str, float]]:
        try:
            own, number, duration = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        return str(own), str(number), float(duration)

    def _slow_down(self, now: float, duration: float) -> None:
        """Stop for ``duration`` seconds, then continue at a lower rate. Call with ``_lock`` held."""
        if now < self._next_reduction:
            return
        recent: List[float] = [turn for turn in self._turns if turn >= now - _WINDOW]
        measured = len(recent) / max(now - recent[0], _EPISODE) if recent else _LEAST_RATE
        rate = self._current_rate(now)
        before = measured if rate is None else min(measured, rate)
        reduced = max(before * _REDUCTION, _LEAST_RATE)
        end = max(measured * _END, reduced * 2) if self._rate is None else self._rate[2]
        self._next_turn = max(self._next_turn, now + duration)
        self._rate = (reduced, self._next_turn, end)
        self._next_reduction = self._next_turn + _EPISODE

    def _current_rate(self, now: float) -> Optional[float]:
        """Return the rate that has grown since the last reduction. Call with ``_lock`` held."""
        if self._rate is None:
            return None
        start, since, end = self._rate
        rate: float = start * 2 ** (max(0.0, now - since) / _DOUBLING)
        if rate >= end:
            self._rate = None
            return None
        return rate


_limits: Dict[Tuple[str, str], SharedLimit] = {}  # guarded by _limits_lock
_limits_lock = threading.Lock()


def limit_of(session_id: str, folder: str) -> SharedLimit:
    """Return the limit of this process for the job that samples in a session and writes to a folder."""
    with _limits_lock:
        key = (session_id, folder)
        if key not in _limits:
            _limits[key] = SharedLimit(folder)
        return _limits[key]


def report_backoff(session_id: str, duration: float) -> None:
    """Report a 429 to the jobs that sample in this session, if this process is one of their workers."""
    with _limits_lock:
        found = [limit for (known, _), limit in _limits.items() if known == session_id]
    for limit in found:
        limit.report_backoff(duration)
