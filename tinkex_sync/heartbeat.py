"""The heartbeat of a session, which keeps it open on the server. POST /api/v1/session_heartbeat.

Its thread also closes idle connections.
"""

from __future__ import annotations

import weakref

from .concurrency.clock import Clock
from .concurrency.close_signal import CloseSignal
from .concurrency.primitives import start_thread
from .errors import ClosedError, TinkexError
from .http.connection import Connection
from .http.error_advice import what_is_lost
from .http.request import Request
from .logs import get_logger
from .types import SessionHeartbeatRequest

_log = get_logger(__name__)

#: Seconds without a successful heartbeat after which each failed one is logged.
_WARN_AFTER = 120.0


def start_heartbeat(session: Connection) -> None:
    """Send a heartbeat every ``Config.heartbeat_interval`` seconds from a daemon thread.

    The thread holds the session weakly. It ends when the session is closed, dropped, or ended by the server (410).
    """
    start_thread(
        _send_heartbeats,
        f"tinkex-heartbeat-{session.source.session_id}",
        *(weakref.ref(session), session.closing, session.clock, session.config.heartbeat_interval),
    )


def _send_heartbeats(reference: weakref.ref[Connection], closing: CloseSignal, clock: Clock, interval: float) -> None:
    misses = 0
    while not clock.wait(closing, interval):
        session = reference()
        if session is None or session.forked:
            return
        session.transport.close_idle()
        try:
            body = SessionHeartbeatRequest(session.source.session_id)
            session.call(Request("session_heartbeat", body))
            session.last_heartbeat = clock.time()
            misses = 0
        except ClosedError:
            return
        except (TinkexError, OSError) as error:
            if getattr(error, "status_code", None) == 410 or what_is_lost(error) == "session":
                session_id = session.source.session_id
                _log.warning("The server has ended the session: session=%s error=%s", session_id, error)
                return
            misses += 1
            _report_miss(session, misses, error)
        del session


def _report_miss(session: Connection, misses: int, error: BaseException) -> None:
    silent_for = session.clock.time() - (session.last_heartbeat or 0.0)
    if hook := session.observers.heartbeat_missed:
        hook(source=session.source, call_id="", misses=misses, silent_for=silent_for, error=error)
    if silent_for > _WARN_AFTER:
        # The text of the 0.7.0 client.
        text = (
            "Session heartbeat failed for %d seconds for session %s. Last exception: %s: %s.\n"
            "Your connection may be unreliable or Tinker is down. If this persists, the session will be terminated."
        )
        _log.warning(text, silent_for, session.source.session_id, type(error).__name__, error)
