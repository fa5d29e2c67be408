"""What the view shows, kept from events. It knows nothing of the terminal."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Tuple

from tinkex_sync.plugins import Source

__all__ = ["Pause", "Snapshot", "State"]

#: Seconds over which rates are computed.
WINDOW = 10.0
#: Losses that are kept for the curve.
MOST_LOSSES = 60


@dataclass
class Pause:
    """A client that waits in a queue of the server."""

    kind: str
    state: str
    reason: str
    #: When the client began to wait.
    since: float


@dataclass
class Snapshot:
    """A copy of the state for one frame."""

    elapsed: float
    running: Dict[str, int]
    finished: Dict[str, int]
    pauses: List[Pause]
    samples_per_second: float
    tokens_per_second: float
    in_flight: int
    waiting: int
    backoffs: int
    backoff_seconds: float
    losses: List[float]
    step: Optional[int]
    learning_rate: Optional[float]
    now: float = 0.0


@dataclass
class State:
    """The run of one process. Thread-safe: hooks change it, and the thread of the view reads it.

    Args:
        clock: Returns seconds on a monotonic clock.
    """

    clock: Callable[[], float]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: Optional[float] = None
    _running: Counter[str] = field(default_factory=Counter)
    _finished: Counter[str] = field(default_factory=Counter)
    _pauses: Dict[Source, Pause] = field(default_factory=dict)
    #: Time, samples and tokens of the calls that ended in the window.
    _recent: Deque[Tuple[float, int, int]] = field(default_factory=deque)
    _usage: Tuple[int, int] = (0, 0)
    _backoffs: int = 0
    _backoff_seconds: float = 0.0
    _losses: Deque[float] = field(default_factory=lambda: deque(maxlen=MOST_LOSSES))
    _step: Optional[int] = None
    _learning_rate: Optional[float] = None

    def start_call(self, operation: str) -> None:
        with self._lock:
            if self._began is None:
                self._began = self.clock()
            self._running[operation] += 1

    def end_call(self, operation: str, outcome: str, facts: Mapping[str, Any]) -> None:
        tokens = facts.get("tokens", 0) + facts.get("completion_tokens", 0)
        is_sample = "completion_tokens" in facts
        with self._lock:
            self._running[operation] -= 1
            self._finished[outcome] += 1
            if tokens:
                self._recent.append((self.clock(), int(is_sample), tokens))
            if "loss" in facts:
                self._losses.append(facts["loss"])
            self._step = facts.get("step", self._step)

    def pause(self, source: Source, state: str, reason: Optional[str], waited: float) -> None:
        with self._lock:
            self._pauses.pop(source, None)
            if state != "active":
                self._pauses[source] = Pause(source.kind, state, reason or "", self.clock() - waited)

    def end_session(self, session_id: str) -> None:
        with self._lock:
            self._pauses = {source: one for source, one in self._pauses.items() if source.session_id != session_id}

    def use(self, in_flight: int, waiting: int) -> None:
        with self._lock:
            self._usage = (in_flight, waiting)

    def back_off(self, seconds: float) -> None:
        with self._lock:
            self._backoffs += 1
            self._backoff_seconds += seconds

    def set_learning_rate(self, value: float) -> None:
        with self._lock:
            self._learning_rate = value

    def snapshot(self) -> Snapshot:
        now = self.clock()
        with self._lock:
            while self._recent and self._recent[0][0] < now - WINDOW:
                self._recent.popleft()
            elapsed = 0.0 if self._began is None else now - self._began
            recent = list(self._recent)
            snapshot = Snapshot(
                elapsed=elapsed,
                running={name: count for name, count in self._running.items() if count > 0},
                finished=dict(self._finished),
                pauses=list(self._pauses.values()),
                samples_per_second=0.0,
                tokens_per_second=0.0,
                in_flight=self._usage[0],
                waiting=self._usage[1],
                backoffs=self._backoffs,
                backoff_seconds=self._backoff_seconds,
                losses=list(self._losses),
                step=self._step,
                learning_rate=self._learning_rate,
                now=now,
            )
        # Without the lock, because there may be tens of thousands of calls.
        seconds = max(min(elapsed, WINDOW), 1e-3)
        snapshot.samples_per_second = sum(one[1] for one in recent) / seconds
        snapshot.tokens_per_second = sum(one[2] for one in recent) / seconds
        return snapshot
