"""The plugin of worker processes: it reports the 429s of this process to the other workers of the job."""

from __future__ import annotations

from typing import Any

from tinkex_sync import hookimpl

from .limit import report_backoff

__all__ = ["Scale"]


class Scale:
    """Reports 429s of sampling sessions that belong to a job. In other processes it does nothing. Thread-safe."""

    @hookimpl
    def tinkex_backoff_started(self, source: Any, duration: float) -> None:
        report_backoff(source.session_id, duration)
