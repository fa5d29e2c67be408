"""Telemetry: a plugin that tells the server what went wrong in a client. Off unless asked for."""

from __future__ import annotations

import platform
import threading
import time
import traceback
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from . import types
from .concurrency.clock import Clock
from .config import Config
from .errors import (
    APIResponseValidationError,
    APIStatusError,
    ClosedError,
    DeadlineExceeded,
    Polled,
    RequestFailedError,
    WithdrawnError,
)
from .http.connection import Connection
from .http.request import Request
from .plugins.hookspecs import Source, hookimpl
from .plugins.queued_observer import QueuedObserver
from .plugins.registry import Observers
from .protocol import json_wire as codec
from .protocol.negotiation import Known

__all__ = ["Telemetry"]

#: Seconds between flushes, and the most events in one request.
INTERVAL = 10.0
BATCH = 100
#: Seconds the last flush may take; closing a client must not be felt.
CLOSE_FLUSH = 0.5

#: Today's servers want to tell processes apart.
_PROCESS = str(uuid.uuid4())

_POLLING = "APIFuture.result_async."
#: Their failures are the caller's to tell, and were never reported one by one.
_CREATING = ("/create_session", "/create_sampling_session", "/create_model", "/session_heartbeat")


def _is_user_error(error: Optional[BaseException]) -> bool:
    """Whether something in the chain of causes says that the request was wrong, not the server."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RequestFailedError) and error.category == "user":
            return True
        status = getattr(error, "status_code", None)
        if isinstance(status, int) and 400 <= status < 500 and status != 408:
            return True
        error = error.__cause__ or error.__context__
    return False


def _stack(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def _start_thread(job: Callable[[], None]) -> None:
    threading.Thread(target=job, name="tinkex-telemetry-token", daemon=True).start()


class Telemetry(QueuedObserver):
    """Sends events of one session in batches. POST /api/v1/telemetry.

    It has connections of its own and no observers, so what it sends is never an event, and the client's
    closing does not cut the last flush. An event is encoded where it happens and sent by the observer's thread;
    one that cannot be encoded is dropped alone. A batch that cannot be sent in 30 s is dropped and counted in
    ``failed``.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(batch=BATCH, interval=INTERVAL)
        self._clock = config.clock
        observers = Observers(autoload=False, disabled=(), modules=(), strict=False)
        self._connection = Connection(config, observers)
        self._events_lock = threading.Lock()
        self._session_id = ""  # guarded by _events_lock
        self._index = 0  # guarded by _events_lock
        self._unsent_kinds = 0  # guarded by _events_lock
        #: Polls of a promise that got no answer, in a row.
        self._broken: Dict[str, int] = {}  # guarded by _events_lock
        self._started = 0.0

    def adopt(self, known: Known) -> None:
        """Speak as the session does, by what it found out about the server; before anything is sent."""
        self._connection.protocol.take_over(known)
        self._connection.use_server_credentials(_start_thread)

    @property
    def unencodable(self) -> int:
        """Events dropped because they have no JSON form."""
        with self._events_lock:
            return self._unsent_kinds

    def log(
        self,
        event_name: str,
        event_data: Optional[Mapping[str, Any]] = None,
        severity: types.Severity = "INFO",
    ) -> bool:
        """Queue an event of the caller's own; False if it has no JSON form and was dropped."""
        return self._event(
            types.GenericEvent,
            "GENERIC_EVENT",
            severity,
            event_name=event_name,
            event_data=dict(event_data or {}),
        )

    def log_exception(self, error: BaseException, severity: types.Severity = "ERROR") -> bool:
        """Queue an exception and have the queue sent soon; never waits. False if it was dropped."""
        if _is_user_error(error):
            data: Dict[str, Any] = {"error_type": type(error).__name__, "message": str(error)}
            if isinstance(error, APIStatusError):
                data.update(status_code=error.status_code, body=error.body)
            queued = self.log("user_error", data, "WARNING")
        else:
            queued = self._event(
                types.UnhandledExceptionEvent,
                "UNHANDLED_EXCEPTION",
                severity,
                error_message=str(error),
                error_type=type(error).__name__,
                traceback=_stack(error),
            )
        self.hurry()
        return queued

    def _event(self, kind: Any, name: str, severity: str, **fields: Any) -> bool:
        with self._events_lock:
            index = self._index
            self._index += 1
        event = kind(
            event=name,
            event_id=str(uuid.uuid4()),
            event_session_index=index,
            severity=severity,
            timestamp=datetime.now(timezone.utc),
            **fields,
        )
        try:
            encoded = codec.encode(event)
        except Exception:  # a value's own methods may raise anything
            with self._events_lock:
                self._unsent_kinds += 1
            return False
        self.put(encoded)
        return True

    def handle(self, events: Sequence[bytes]) -> None:
        """Send one batch."""
        if self._connection.forked:
            return  # the parent's session
        with self._events_lock:
            session_id = self._session_id
        protocol = self._connection.protocol
        about = {
            "platform": platform.system(),
            "sdk_version": protocol.version,
            "session_id": session_id,
            **({"process_uuid": _PROCESS} if protocol.modern else {}),
        }
        rest = codec.encode(about)
        body = b'{"events":[' + b",".join(events) + b"]," + rest[1:]
        try:
            self._connection.call(Request("telemetry", body))
        except ClosedError:
            if not self._connection.closing.is_set():
                raise

    def close(self, deadline: Optional[float] = None) -> bool:
        """Send what is queued, for half a second at most, and end."""
        soon = Clock().time() + CLOSE_FLUSH
        done = super().close(soon if deadline is None else min(deadline, soon))
        self._connection.closing.set()
        self._connection.transport.close()
        self._connection.timer.close()
        return done

    @hookimpl
    def tinkex_session_opened(self, source: Source) -> None:
        self._started = time.monotonic()
        with self._events_lock:
            self._session_id = source.session_id
        self._event(types.SessionStartEvent, "SESSION_START", "INFO")

    @hookimpl
    def tinkex_session_closed(self) -> None:
        if self._started:
            lasted = timedelta(seconds=time.monotonic() - self._started)
            self._event(types.SessionEndEvent, "SESSION_END", "INFO", duration=str(lasted))

    @hookimpl
    def tinkex_request_finished(
        self,
        method: str,
        path: str,
        attempt: int,
        status: Optional[int],
        elapsed: float,
        error: Optional[BaseException],
    ) -> None:
        if error is None or isinstance(error, (ClosedError, DeadlineExceeded)) or path.endswith(_CREATING):
            return
        if path.endswith("/asample") and status == 429:
            return  # backpressure is no failure
        attempts = self._connection.attempts("submit")
        attempts.number = attempt
        retried = attempts.policy.is_retryable(attempts, error)
        polled = getattr(error, "polled", None)
        if polled is not None:
            self._poll_failed(error, polled, status, retried, elapsed)
            return
        now = datetime.now(timezone.utc).timestamp()
        data: Dict[str, Any] = {
            "func": f"{method} {path}",
            "exception": str(error),
            "exception_type": type(error).__name__,
            "exception_stack": _stack(error),
        }
        if status is not None:
            data["status_code"] = status
        data.update(
            is_retryable=retried,
            is_user_error=_is_user_error(error),
            attempt_count=attempt - 1,
            start_time=now - elapsed,
            current_time=now,
            elapsed_time=elapsed,
        )
        self.log("InternalClientHolder.execute_with_retries.exception", data, "WARNING")

    def _poll_failed(
        self, error: BaseException, polled: Polled, status: Optional[int], retried: bool, elapsed: float
    ) -> None:
        data: Dict[str, Any] = {"request_id": polled.request_id, "request_type": polled.request_type}
        with self._events_lock:
            broken = self._broken.pop(polled.request_id, 0)
            if status is None:
                self._broken[polled.request_id] = broken + 1
        if status is None:
            data.update(exception=str(error), connection_error_retries=broken)
            severity: types.Severity = "WARNING"
        else:
            wrong = _is_user_error(error)
            data.update(status_code=status, exception=str(error), should_retry=retried, is_user_error=wrong)
            severity = "WARNING" if retried or wrong else "ERROR"
        data.update(iteration=polled.iteration, elapsed_time=elapsed)
        self.log(_POLLING + ("connection_error" if status is None else "api_status_error"), data, severity)

    @hookimpl
    def tinkex_future_resolved(
        self, operation: str, request_id: Optional[str], elapsed: float, error: Optional[BaseException]
    ) -> None:
        if request_id is not None:
            with self._events_lock:
                self._broken.pop(request_id, None)
        if not isinstance(error, Exception) or isinstance(error, (ClosedError, WithdrawnError)):
            return  # it went well, or nothing of ours failed
        polled = getattr(error, "polled", None)
        data: Dict[str, Any] = {
            "request_id": request_id,
            "request_type": polled.request_type if polled is not None else operation,
        }
        ending = {"iteration": polled.iteration if polled is not None else 0, "elapsed_time": elapsed}
        if isinstance(error, DeadlineExceeded):
            self.log(_POLLING + "timeout", {**data, "timeout": elapsed, **ending}, "ERROR")
            return
        wrong = _is_user_error(error)
        if isinstance(error, RequestFailedError):
            said = error.body.get("error") if isinstance(error.body, dict) else None
            data.update(error=said or error.message, error_category=error.category.capitalize())
            data.update(is_user_error=wrong, **ending)
            self.log(_POLLING + "application_error", data, "WARNING" if wrong else "ERROR")
        elif isinstance(error, APIResponseValidationError):
            data.update(exception=str(error), exception_type=type(error).__name__)
            data.update(exception_stack=_stack(error), **ending)
            self.log(_POLLING + "validation_error", data, "ERROR")
        self.log_exception(error)
