"""The official shape of telemetry; there is one only where it was turned on."""

from __future__ import annotations

import contextlib
from typing import Any, AsyncIterator, Iterator, Mapping, Optional

from ..session import Session
from ..telemetry import Telemetry as _Telemetry
from ..types import Severity

__all__ = ["Telemetry", "found"]


class Telemetry:
    """Events of the caller's own. Nothing here waits for the network, and no error of it is the caller's."""

    def __init__(self, core: _Telemetry) -> None:
        self._core = core

    def log(
        self, event_name: str, event_data: Optional[Mapping[str, Any]] = None, severity: Severity = "INFO"
    ) -> bool:
        """Queue an event; False if it has no JSON form and was dropped."""
        return self._core.log(event_name, event_data, severity)

    def log_exception_sync(self, exception: BaseException, severity: Severity = "ERROR") -> bool:
        """Queue an exception and have the queue sent soon."""
        return self._core.log_exception(exception, severity)

    #: An exception ends nothing here: the end of the session is told when it is closed.
    log_fatal_exception_sync = log_exception_sync

    async def log_exception(self, exception: BaseException, severity: Severity = "ERROR") -> bool:
        """:meth:`log_exception_sync`."""
        return self.log_exception_sync(exception, severity)

    async def log_fatal_exception(self, exception: BaseException, severity: Severity = "ERROR") -> bool:
        """:meth:`log_exception_sync`."""
        return self.log_exception_sync(exception, severity)

    @contextlib.contextmanager
    def capture_exceptions(self, fatal: bool = False, severity: Severity = "ERROR") -> Iterator[None]:
        """A ``with`` block whose exception is told, and goes on."""
        try:
            yield
        except Exception as error:
            self.log_exception_sync(error, severity)
            raise

    @contextlib.asynccontextmanager
    async def acapture_exceptions(
        self, fatal: bool = False, severity: Severity = "ERROR"
    ) -> AsyncIterator[None]:
        """:meth:`capture_exceptions`, for ``async with``."""
        with self.capture_exceptions(fatal, severity):
            yield

    def stop(self) -> None:
        """Send what is queued, for half a second at most."""
        self._core.close()


def found(session: Session) -> Optional[Telemetry]:
    """That of a session; None where it is off."""
    core = session.telemetry
    return Telemetry(core) if isinstance(core, _Telemetry) else None
