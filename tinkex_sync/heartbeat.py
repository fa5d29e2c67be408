"""What runs beside the calls of a session: its heartbeat, a look at what may change, its end with the interpreter."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from concurrent.futures import thread as _import_before_registering  # noqa: F401
from typing import TYPE_CHECKING

from .concurrency.clock import Clock
from .errors import APIStatusError, ClosedError, TinkexError
from .http.request import Request

if TYPE_CHECKING:
    from .session import Session

__all__ = ["beat", "close_at_exit", "refresh_later"]

_log = logging.getLogger(__name__)

#: After this long without a good heartbeat each failed one is logged.
_HEARTBEAT_SILENCE = 120.0
#: Seconds between two looks at the dynamic configuration, whatever the server says.
_LEAST_REFRESH = 10.0


def beat(
    ref: weakref.ref[Session], body: bytes, closing: threading.Event, clock: Clock, interval: float
) -> None:
    misses = 0
    while not clock.wait(closing, interval):
        session = ref()
        if session is None or session.forked:
            return
        try:
            session.call(Request("session_heartbeat", body))
            session.last_heartbeat = clock.time()
            misses = 0
        except ClosedError:
            return
        except APIStatusError as error:
            if error.status_code == 410:
                _log.warning("Session %s has ended on the server: %s", session.session_id, error)
                return
            misses = _missed(session, misses, error)
        except (TinkexError, OSError) as error:
            misses = _missed(session, misses, error)
        del session


def _missed(session: Session, misses: int, error: BaseException) -> int:
    misses += 1
    silent = session.clock.time() - (session.last_heartbeat or 0.0)
    hook = session.observers.heartbeat_missed
    if hook is not None:
        hook(source=session.source, call_id="", misses=misses, silent_for=silent, error=error)
    if silent > _HEARTBEAT_SILENCE:
        _log.warning(
            "Session heartbeat failed for %d seconds for session %s. Last exception: %s: %s.\n"
            "Your connection may be unreliable or Tinker is down. If this persists, the session will be"
            " terminated.",
            silent,
            session.session_id,
            type(error).__name__,
            error,
        )
    return misses


def refresh_later(session: Session) -> None:
    """Ask for the dynamic configuration again when it is due; what fails leaves it as it is."""
    due = session.clock.time() + max(session.protocol.dynamic.refresh_interval_sec, _LEAST_REFRESH)
    ref = weakref.ref(session)

    def begin() -> None:
        alive = ref()
        if alive is not None and not alive.forked:
            alive.helpers.submit(lambda: _refresh(ref))

    session.timer.at(due, begin)


def _refresh(ref: weakref.ref[Session]) -> None:
    session = ref()
    if session is None:
        return
    try:
        session.refresh()
    except ClosedError:
        return
    except (TinkexError, OSError) as error:
        _log.debug("The dynamic configuration stays as it was: %s", error)
        refresh_later(session)


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_sessions_lock = threading.Lock()
_registered = False


def close_at_exit(session: Session) -> None:
    global _registered
    with _sessions_lock:
        _sessions.add(session)
        if _registered:
            return
        _registered = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_sessions)
    register = getattr(threading, "_register_atexit", None)
    if register is None:
        import atexit

        register = atexit.register
    # Plain atexit runs after concurrent.futures has joined its workers, who may be waiting for us; callbacks
    # registered here later than that module's run before it.
    try:
        register(_close_all)
    except RuntimeError:
        _log.debug("Made during interpreter shutdown: it is closed with the process")


def _forget_sessions() -> None:
    # In a forked child: the sessions are the parent's, and a thread that is not here may have held the lock.
    global _sessions_lock
    _sessions_lock = threading.Lock()
    _sessions.clear()


def _close_all() -> None:
    with _sessions_lock:
        sessions = list(_sessions)
    for session in sessions:
        session.close()
