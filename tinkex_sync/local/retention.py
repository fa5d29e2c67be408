"""Removal of the models and samplers of sessions that no client uses any more."""

from __future__ import annotations

import threading
from typing import Dict

from ..concurrency.clock import Clock
from .models import Models
from .store import Store

__all__ = ["Retention"]

#: Seconds between two checks at most.
_CHECK_INTERVAL = 60.0


class Retention:
    """Unloads the models and deletes the unnamed sampler weights of sessions without requests. Thread-safe.

    Checkpoints and samplers of checkpoints are kept, because the user named them.

    Args:
        models: The loaded models.
        store: Contains the samplers.
        clock: The clock of lifetimes.
        lifetime: Seconds without a request or a heartbeat after which a session is unused.
    """

    def __init__(self, models: Models, store: Store, clock: Clock, lifetime: float) -> None:
        self._models = models
        self._store = store
        self._clock = clock
        self._lifetime = lifetime
        self._started = clock.time()
        self._lock = threading.Lock()
        self._last_used: Dict[str, float] = {}  # guarded by _lock

    def touch(self, session_id: str) -> None:
        """Record a request of a session."""
        with self._lock:
            self._last_used[session_id] = self._clock.time()

    def _is_unused(self, session_id: str) -> bool:
        with self._lock:
            last_used = self._last_used.get(session_id, self._started)
            return self._clock.time() - last_used > self._lifetime

    def drop_unused(self) -> None:
        """Drop the models and the unnamed sampler weights of all unused sessions."""
        for model in self._models.all_loaded():
            if self._is_unused(model.record["session_id"]):
                self._models.submit_unload(model)
        for sampler in self._store.all("samplers"):
            if "meta" in sampler and self._is_unused(sampler["session_id"]):
                self._store.delete_sampler(sampler)
        with self._lock:
            oldest = self._clock.time() - self._lifetime
            if oldest > self._started:
                # A session that is not in the dict is unused from now on.
                self._last_used = {id: used for id, used in self._last_used.items() if used >= oldest}

    def run(self, closing: threading.Event) -> None:
        """Drop what is unused from time to time, until ``closing`` is set."""
        while not self._clock.wait(closing, min(_CHECK_INTERVAL, self._lifetime / 4)):
            self.drop_unused()
