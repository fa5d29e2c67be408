"""Telemetry with the interface of the official SDK. Only sessions with telemetry enabled have it."""

from __future__ import annotations

import contextlib
from typing import Any, AsyncIterator, Iterator, Mapping, Optional

from ..session import Session
from ..telemetry import Telemetry as NativeTelemetry
from ..types import Severity

__all__ = ["Telemetry", "telemetry_of"]


class Telemetry:
    """Sends events of the user's own. No method waits for the network or raises an error of the network."""

    def __init__(self, native: NativeTelemetry) -> None:
        self._native = native

    def log(self, event_name: str, event_data: Optional[Mapping[str, Any]] = None, severity: Severity = "INFO") -> bool:
        """Queue an event. Return False if it cannot be encoded as JSON, and was dropped."""
        return self._native.log(event_name, event_data, severity)

    def log_exception_sync(self, exception: BaseException, severity: Severity = "ERROR") -> bool:
        """Queue an exception and send the queue soon. Return False if the event was dropped."""
        return self._native.log_exception(exception, severity)

    #: Closing reports the end of a session. An exception does not end it, so a fatal one is logged like others.
    log_fatal_exception_sync = log_exception_sync

    async def log_exception(self, exception: BaseException, severity: Severity = "ERROR") -> bool:
        """Queue an exception, as :meth:`log_exception_sync`."""
        return self.log_exception_sync(exception, severity)

    async def log_fatal_exception(self, exception: BaseException, severity: Severity = "ERROR") -> bool:
        """Queue an exception, as :meth:`log_exception_sync`."""
        return self.log_exception_sync(exception, severity)

    @contextlib.contextmanager
    def capture_exceptions(self, fatal: bool = False, severity: Severity = "ERROR") -> Iterator[None]:
        """Queue an exception that leaves the ``with`` block, and raise it again."""
        try:
            yield
        except Exception as error:
            self.log_exception_sync(error, severity)
            raise

    @contextlib.asynccontextmanager
    async def acapture_exceptions(self, fatal: bool = False, severity: Severity = "ERROR") -> AsyncIterator[None]:
        """Queue an exception that leaves the ``async with`` block, and raise it again."""
        with self.capture_exceptions(fatal, severity):
            yield

    def stop(self) -> None:
        """Send the queued events, for half a second at most."""
        self._native.close()


def telemetry_of(session: Session) -> Optional[Telemetry]:
    """Return the telemetry of a session; None while it is off."""
    native = session.telemetry
    return Telemetry(native) if isinstance(native, NativeTelemetry) else None
