"""The state that the clients of one session share, and the delivery of queue states to them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Dict, Generator, NoReturn, Optional, Set, Tuple, TypeVar

from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..logs import get_logger
from ..plugins import Source, hookimpl
from ..plugins.queue_log import QueueLog
from ..session import Session
from ..types import QueueState
from .absent import raise_absent
from .poll_errors import as_value_error
from .telemetry import Telemetry, telemetry_of

__all__ = ["Holder", "QueueStateHooks", "QueueStateObserver", "TelemetryProvider"]

_Client = TypeVar("_Client", bound="QueueStateObserver")


class QueueStateHooks(QueueLog):
    """Plugin that calls ``on_queue_state_change`` of the client that a queue state is about.

    A state of a source without a client is logged, as the built-in ``queue_log`` plugin does. Thread-safe.
    """

    def __init__(self, clock: Optional[Clock] = None) -> None:
        super().__init__(clock, get_logger(__name__))
        self._clients_lock = Lock()
        self._clients: Dict[Tuple[str, str], weakref.WeakSet[Any]] = {}  # guarded by _clients_lock
        # Sources whose last pause was logged here. A client that overrides the method logs nothing.
        self._logged_here: Set[Source] = set()  # guarded by _clients_lock

    def add(self, client: Any, source: Source) -> None:
        """Deliver the states of ``source`` to ``client`` while the client exists."""
        with self._clients_lock:
            self._clients = {key: clients for key, clients in self._clients.items() if clients}
            self._clients.setdefault((source.kind, source.id), weakref.WeakSet()).add(client)

    def log_change(self, source: Source, state: str, reason: Optional[str]) -> None:
        """Log a change of state, as the built-in plugin does."""
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
        """Deliver a change of state to the clients of its source."""
        with self._clients_lock:
            clients = list(self._clients.get((source.kind, source.id), ()))
        if not clients:
            self.log_change(source, state, reason)
        for client in clients:
            client.on_queue_state_change(QueueState(state), reason if reason_source == "server" else None)


class Holder:
    """The session behind the clients. :meth:`close` ends it."""

    def __init__(self, session: Session, queue_state_hooks: Optional[QueueStateHooks] = None) -> None:
        #: The session of tinkex_sync.
        self.session = session
        session.adapt_error = as_value_error
        #: The plugin that delivers queue states to clients; None if the user disabled it, and after unpickling.
        self.queue_state_hooks = queue_state_hooks

    @property
    def _session_id(self) -> str:
        # Scripts read this private name of the official class.
        return self.session.session_id

    def get_session_id(self) -> str:
        """Return the server's id of the session."""
        return self.session.session_id

    def get_telemetry(self) -> Optional[Telemetry]:
        """Return the telemetry, for events of the user's own; None while it is off."""
        return telemetry_of(self.session)

    def close(self) -> None:
        """End the session and every wait. Idempotent."""
        self.session.close()


class TelemetryProvider:
    """A client of a session. The AttributeError for a method that only the official client has contains the reason."""

    #: The client of tinkex_sync that does the work.
    native: Any
    _holder: Optional[Holder]

    @property
    def holder(self) -> Holder:
        """The state that it shares with the other clients of its session."""
        if self._holder is None:
            # This client was unpickled. Its native client joins the session at the first use.
            self._holder = Holder(self.native.session)
        return self._holder

    def get_telemetry(self) -> Optional[Telemetry]:
        """Return the telemetry, for events of the user's own; None while it is off."""
        return None if self._holder is None else self._holder.get_telemetry()

    if not TYPE_CHECKING:  # With this method in view, a type checker would accept any name.

        def __getattr__(self, name: str) -> NoReturn:
            raise_absent(repr(type(self).__name__), name)


class QueueStateObserver(TelemetryProvider):
    """A client that receives its queue states. Override :meth:`on_queue_state_change`.

    The official SDK 0.38.0 returns futures of such clients. So a client can be waited for and awaited, which returns
    it immediately.
    """

    def result(self: _Client, timeout: Optional[float] = None) -> _Client:
        """Return this client."""
        return self

    async def result_async(self: _Client, timeout: Optional[float] = None) -> _Client:
        """Return this client."""
        return self

    def __await__(self: _Client) -> Generator[Any, None, _Client]:
        return self.result_async().__await__()

    def _observe(self) -> None:
        hooks = self._queue_state_hooks
        if hooks is not None:
            hooks.add(self, self.native.source)

    @property
    def _queue_state_hooks(self) -> Optional[QueueStateHooks]:
        return None if self._holder is None else self._holder.queue_state_hooks

    def on_queue_state_change(self, queue_state: QueueState, queue_state_reason: Optional[str] = None) -> None:
        """React to a change of the server's queue state or reason. This implementation logs a WARNING on a pause.

        A worker thread calls it.

        Args:
            queue_state_reason: The server's reason; None if it returned none.
        """
        hooks = self._queue_state_hooks
        if hooks is not None:
            hooks.log_change(self.native.source, queue_state.value, queue_state_reason)
