"""What the clients of one session share, and who is told of its queue states."""

from __future__ import annotations

import logging
import weakref
from typing import Any, Dict, Optional, Set, Tuple

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..plugins.hookspecs import Source, hookimpl
from ..plugins.queue_log import QueueLog
from ..session import Session
from ..types import QueueState
from .telemetry import Telemetry, found

__all__ = ["Holder", "QueueStateHooks", "QueueStateObserver", "TelemetryProvider"]


class QueueStateHooks(QueueLog):
    """Calls ``on_queue_state_change`` of the client a queue state is about; without one it logs."""

    def __init__(self, clock: Optional[Clock] = None) -> None:
        super().__init__(clock, logging.getLogger(__name__))
        self._clients_lock = Lock()
        self._clients: Dict[Tuple[str, str], weakref.WeakSet[Any]] = {}  # guarded by _clients_lock
        # Sources whose last pause was logged here, and not by a client that overrides the method.
        self._logged_here: Set[Source] = set()  # guarded by _clients_lock

    def add(self, client: Any, source: Source) -> None:
        """Tell ``client`` of the states of ``source`` for as long as it lives."""
        with self._clients_lock:
            self._clients = {key: clients for key, clients in self._clients.items() if clients}
            self._clients.setdefault((source.kind, source.id), weakref.WeakSet()).add(client)

    def told(self, source: Source, state: str, reason: Optional[str]) -> None:
        """Log it, as is done where nobody overrides the hook."""
        with self._clients_lock:
            (self._logged_here.discard if state == "active" else self._logged_here.add)(source)
        super().tinkex_queue_state_changed(source, state, reason)

    @hookimpl
    def tinkex_queue_state_repeated(self, source: Source, state: str, reason: Optional[str]) -> None:
        """Log a pause that continues, if its beginning was logged here."""
        with self._clients_lock:
            logged_here = source in self._logged_here
        if logged_here:
            super().tinkex_queue_state_repeated(source, state, reason)

    @hookimpl
    def tinkex_queue_state_changed(  # type: ignore[override]
        self, source: Source, state: str, reason: Optional[str], reason_source: Optional[str]
    ) -> None:
        with self._clients_lock:
            clients = list(self._clients.get((source.kind, source.id), ()))
        if not clients:
            self.told(source, state, reason)
        for client in clients:
            client.on_queue_state_change(QueueState(state), reason if reason_source == "server" else None)


class Holder:
    """The session behind the clients; ``close()`` ends it."""

    def __init__(self, session: Session, hooks: Optional[QueueStateHooks] = None) -> None:
        self._session = session
        self._hooks = hooks

    def get_session_id(self) -> str:
        """The server's id of the session."""
        return self._session.session_id

    def get_telemetry(self) -> Optional[Telemetry]:
        """For events of your own; None unless telemetry was turned on."""
        return found(self._session)

    def close(self) -> None:
        """End the session and every wait; idempotent."""
        self._session.close()


class TelemetryProvider:
    """A client of a session."""

    _core: Any
    _holder: Optional[Holder]

    @property
    def holder(self) -> Holder:
        """What it shares with the other clients of its session."""
        if self._holder is None:
            # Unpickled: its own session is made at first use.
            self._holder = Holder(self._core._session)
        return self._holder

    def get_telemetry(self) -> Optional[Telemetry]:
        """For events of your own; None unless telemetry was turned on."""
        return None if self._holder is None else self._holder.get_telemetry()


class QueueStateObserver(TelemetryProvider):
    """A client that is told of the queue states it is in. Override :meth:`on_queue_state_change`."""

    def _observe(self) -> None:
        if self._holder is not None and self._holder._hooks is not None:
            self._holder._hooks.add(self, self._core._source)

    def on_queue_state_change(
        self, queue_state: QueueState, queue_state_reason: Optional[str] = None
    ) -> None:
        """Called in a thread of ours when the server's state or reason changes; logs a WARNING on a pause.

        Args:
            queue_state_reason: The server's words, None if it gave none.
        """
        hooks = self._holder._hooks if self._holder is not None else None
        if hooks is not None:
            hooks.told(self._core._source, queue_state.value, queue_state_reason)
