"""Injection of the configured faults into requests and operations."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Callable, Optional, Tuple

from ..concurrency.clock import Clock
from .faults import PAUSABLE, Faults

__all__ = ["PAID_OPERATIONS", "FaultDecision", "FaultGate"]

#: The operations that return 402 while ``Faults.unpaid`` is in force.
PAID_OPERATIONS = frozenset(
    {
        "asample",
        "create_model",
        "create_sampling_session",
        "create_session",
        "forward",
        "forward_backward",
        "load_weights",
        "optim_step",
        "save_weights",
        "save_weights_external",
        "save_weights_for_sampler",
    }
)


@dataclass(frozen=True)
class FaultDecision:
    """The faults to inject into one request. At most one field other than ``delay`` is set."""

    #: Seconds to wait before the request is handled.
    delay: float = 0.0
    #: The status code to return instead of handling the request.
    status: Optional[int] = None
    drop_before: bool = False
    drop_after: bool = False
    truncate: bool = False


class FaultGate:
    """Decides which faults are injected. The faults can be replaced while the server runs. Thread-safe.

    Invariant: counters and random choices restart when the faults are replaced. One request sees one set of faults.

    Args:
        faults: The faults at the start.
        clock: The clock of durations.
    """

    def __init__(self, faults: Faults, clock: Clock) -> None:
        self._clock = clock
        self._on_change: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._install(faults)

    def _install(self, faults: Faults) -> None:
        """Start to inject ``faults``. Call with ``_lock`` held, or before the gate is shared."""
        now = self._clock.time()
        self._faults = faults  # guarded by _lock
        self._random = random.Random(faults.seed)  # guarded by _lock
        self._fail_first = {name: list(statuses) for name, statuses in faults.fail_first.items()}
        self._connection_faults = {
            "drop_before": dict(faults.drop_before),
            "drop_after": dict(faults.drop_after),
            "truncate": dict(faults.truncate),
        }  # guarded by _lock
        self._remaining = {
            "expire_promises": faults.expire_promises,
            "reject_tokens": faults.reject_tokens,
            "corrupt_runs": faults.corrupt_runs,
        }  # guarded by _lock
        self._unpaid_until = now + faults.unpaid  # guarded by _lock
        self._bucket = float(faults.admit_burst)  # guarded by _lock
        self._filled_at = now  # guarded by _lock
        self._paused_until = now + faults.pause  # guarded by _lock
        self._changed = threading.Event()  # guarded by _lock; set when this set of faults is replaced

    @property
    def faults(self) -> Faults:
        """The faults in force."""
        with self._lock:
            return self._faults

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Register a function that is called after each replacement. Call before the gate is shared."""
        self._on_change = on_change

    def replace(self, faults: Faults) -> None:
        """Replace the faults. All counters restart."""
        with self._lock:
            replaced = self._changed
            self._install(faults)
        replaced.set()
        self._on_change()

    def decide(self, endpoint: str) -> FaultDecision:
        """Decide which faults are injected into the next request to an endpoint."""
        with self._lock:
            faults = self._faults
            delay = faults.latency.get(endpoint, faults.latency.get("*", 0.0))
            statuses = self._fail_first.get(endpoint) or self._fail_first.get("*")
            if statuses:
                return FaultDecision(delay, status=statuses.pop(0))
            if endpoint in PAID_OPERATIONS and self._clock.time() < self._unpaid_until:
                return FaultDecision(delay, status=402)
            rate = faults.error_rate.get(endpoint, faults.error_rate.get("*", 0.0))
            if rate and self._random.random() < rate:
                return FaultDecision(delay, status=faults.error_status)
            for name, counts in self._connection_faults.items():
                key = endpoint if counts.get(endpoint) else "*"
                if counts.get(key):
                    counts[key] -= 1
                    return FaultDecision(delay, **{name: True})
            return FaultDecision(delay)

    def admit_sample(self) -> bool:
        """Return whether the next sample is admitted, and count it in the token bucket."""
        with self._lock:
            rate = self._faults.admit_per_second
            if rate is None:
                return True
            now = self._clock.time()
            filled = self._bucket + (now - self._filled_at) * rate
            self._bucket, self._filled_at = min(float(self._faults.admit_burst), filled), now
            if self._bucket < 1:
                return False
            self._bucket -= 1
            return True

    def expires_next_result(self) -> bool:
        """Return whether the next accepted operation loses its result, and count it."""
        return self._use("expire_promises")

    def rejects_token(self) -> bool:
        """Return whether the token of the next request is rejected, and count it."""
        return self._use("reject_tokens")

    def corrupts_run(self) -> bool:
        """Return whether the next optimizer step corrupts its run, and count it."""
        return self._use("corrupt_runs")

    def _use(self, name: str) -> bool:
        with self._lock:
            if self._remaining[name] == 0:
                return False
            self._remaining[name] -= 1
            return True

    def _pause(self, kind: str) -> Tuple[float, threading.Event]:
        """Return the remaining seconds of the pause, and the event that is set when the faults are replaced."""
        with self._lock:
            if kind not in PAUSABLE[self._faults.pause_kind]:
                return 0.0, self._changed
            return max(0.0, self._paused_until - self._clock.time()), self._changed

    def is_paused(self, kind: str) -> bool:
        """Return whether ``kind`` ("training" or "sampling") is paused."""
        return self._pause(kind)[0] > 0

    def wait_until_resumed(self, kind: str) -> None:
        """Wait until ``kind`` is not paused."""
        remaining, changed = self._pause(kind)
        while remaining:
            self._clock.wait(changed, remaining)
            remaining, changed = self._pause(kind)
