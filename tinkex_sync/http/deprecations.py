"""What a server says of requests it will not take much longer."""

from __future__ import annotations

import logging
from typing import Mapping, Set

from ..concurrency.primitives import Lock

__all__ = ["Deprecations"]

_log = logging.getLogger(__name__)

#: A server that words each note anew must not fill the memory.
_MOST = 1000


class Deprecations:
    """The notes of one server, each logged once: reply headers ``x-deprecation-note`` and ``-level``."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._told: Set[str] = set()  # guarded by _lock

    def read(self, headers: Mapping[str, str]) -> None:
        """Log the note among ``headers`` (names in lower case): as an ERROR where its level says so, else a WARNING."""
        note = headers.get("x-deprecation-note")
        if not note:
            return
        with self._lock:
            if note in self._told or len(self._told) >= _MOST:
                return
            self._told.add(note)
        error = headers.get("x-deprecation-level", "").strip().lower() == "error"
        _log.log(logging.ERROR if error else logging.WARNING, "The server says: %s", note)
