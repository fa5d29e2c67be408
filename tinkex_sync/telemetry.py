"""Telemetry: a plugin that reports failures of a client to the server. It is off by default."""

from __future__ import annotations

import contextlib
import itertools
import platform
import time
import traceback
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Mapping, Optional, Sequence

from . import errors, types
from .concurrency.clock import Clock
from .concurrency.primitives import start_thread
from .config import Config
from .http.connection import Connection
from .http.request import Request
from .plugins import Observers, QueuedObserver, Source, hookimpl
from .protocol import json_wire
from .protocol.negotiation import Negotiated

#: Seconds between two requests.
INTERVAL = 10.0
#: Largest number of events in one request.
BATCH = 100
#: Seconds that the last request may take. It delays the closing of the client.
CLOSE_FLUSH = 0.5

#: Identifies this process to servers of protocol 0.38.
_PROCESS = str(uuid.uuid4())

#: Prefix of the names of events about server futures, as in the official SDK.
_POLLING = "APIFuture.result_async."
#: Ends of paths whose failed requests are not reported. The official SDK does not report them either.
_NOT_REPORTED = ("/create_session", "/create_sampling_session", "/create_model", "/session_heartbeat")


def _is_user_error(error: Optional[BaseException]) -> bool:
    """Return whether an error in the chain of causes reports that the request was invalid."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, errors.RequestFailedError) and error.category == "user":
            return True
        status = getattr(error, "status_code", None)
        if isinstance(status, int) and 400 <= status < 500 and status != 408:
            return True
        error = error.__cause__ or error.__context__
    return False


def _traceback_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def _describe(error: BaseException) -> Dict[str, Any]:
    """Return the fields of an event that describe an exception."""
    return {"exception": str(error), "exception_type": type(error).__name__, "exception_stack": _traceback_of(error)}


class Telemetry(QueuedObserver):
    """Send the events of one session in batches to POST /api/v1/telemetry.

    The plugin has a connection of its own without plugins. Its requests therefore cause no events, and closing
    the client does not interrupt the last request. An event is encoded in the thread of the event and sent by
    the thread of the observer. An event that cannot be encoded is dropped; other events are not affected. A
    batch that cannot be sent within 30 s is dropped and counted in ``failed``. All methods are thread-safe.

    Attributes:
        unencodable: Number of events dropped because they have no JSON form.

    Args:
        config: Configuration of the service client.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(batch=BATCH, interval=INTERVAL)
        self._clock = config.clock
        observers = Observers(autoload=False, disabled=(), modules=(), strict=False)
        self._connection = Connection(config, observers)
        self.unencodable = 0  # changed with _lock held
        self._session_id = ""
        self._indexes = itertools.count()
        # Number of consecutive failed connections of the polls of a server future, by request id. Not guarded by
        # a lock, because one thread at a time polls a server future.
        self._failed_connections: Dict[Optional[str], int] = {}
        self._started = 0.0

    def restore(self, negotiated: Negotiated) -> None:
        """Use the result of the session's negotiation with the server. Call it before anything is sent."""
        self._connection.negotiation.restore(negotiated)
        self._connection.use_server_credentials(lambda job: start_thread(job, "tinkex-telemetry-token"))

    def log(
        self, event_name: str, event_data: Optional[Mapping[str, Any]] = None, severity: types.Severity = "INFO"
    ) -> bool:
        """Queue an event of the caller.

        Args:
            event_name: Name of the event.
            event_data: Its data; values must have a JSON form.
            severity: "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL".

        Returns:
            False if the event has no JSON form and was dropped.
        """
        return self._event(
            types.GenericEvent, "GENERIC_EVENT", severity, event_name=event_name, event_data=event_data or {}
        )

    def log_exception(self, error: BaseException, severity: types.Severity = "ERROR") -> bool:
        """Queue an event about an exception, and send the queued events immediately. Does not wait.

        Args:
            error: The exception. If the request caused it, the event is a "user_error" of severity "WARNING".
            severity: Severity of other exceptions.

        Returns:
            False if the event has no JSON form and was dropped.
        """
        if _is_user_error(error):
            data: Dict[str, Any] = {"error_type": type(error).__name__, "message": str(error)}
            if isinstance(error, errors.APIStatusError):
                data.update(status_code=error.status_code, body=error.body)
            queued = self.log("user_error", data, "WARNING")
        else:
            queued = self._event(
                types.UnhandledExceptionEvent,
                "UNHANDLED_EXCEPTION",
                severity,
                error_message=str(error),
                error_type=type(error).__name__,
                traceback=_traceback_of(error),
            )
        self.hurry()
        return queued

    def _event(self, kind: Any, name: str, severity: str, **fields: Any) -> bool:
        """Encode and queue an event; return False if it has no JSON form."""
        event = kind(
            event=name,
            event_id=str(uuid.uuid4()),
            event_session_index=next(self._indexes),
            severity=severity,
            timestamp=datetime.now(timezone.utc),
            **fields,
        )
        try:
            encoded = json_wire.encode(event)
        except Exception:  # Methods of the caller's values may raise any error.
            with self._lock:
                self.unencodable += 1
            return False
        self.put(encoded)
        return True

    def handle(self, events: Sequence[bytes]) -> None:
        """Send one batch of encoded events."""
        if self._connection.forked:
            return  # The session belongs to the parent process.
        capabilities = self._connection.capabilities
        batch = types.TelemetrySendRequest(
            events=[],
            platform=platform.system(),
            sdk_version=capabilities.sdk_version,
            session_id=self._session_id,
            process_uuid=_PROCESS if capabilities.identifies_processes else None,
        )
        body = json_wire.fill_first_list(json_wire.encode(batch), events)
        with contextlib.suppress(errors.ClosedError):
            self._connection.call(Request("telemetry", body))

    def close(self, deadline: Optional[float] = None) -> bool:
        """Send the queued events for at most half a second, then close the connection.

        Args:
            deadline: End of the wait on ``time.monotonic()``, if it is earlier.

        Returns:
            Whether all events were sent.
        """
        limit = Clock().time() + CLOSE_FLUSH
        done = super().close(limit if deadline is None else min(deadline, limit))
        self._connection.closing.set()
        self._connection.transport.close()
        self._connection.timer.close()
        return done

    @hookimpl
    def tinkex_session_opened(self, source: Source) -> None:
        """Queue a SESSION_START event."""
        self._started = time.monotonic()
        self._session_id = source.session_id
        self._event(types.SessionStartEvent, "SESSION_START", "INFO")

    @hookimpl
    def tinkex_session_closed(self) -> None:
        """Queue a SESSION_END event."""
        if self._started:
            duration = timedelta(seconds=time.monotonic() - self._started)
            self._event(types.SessionEndEvent, "SESSION_END", "INFO", duration=str(duration))

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
        """Queue an event about a failed request or a failed poll."""
        if error is None or path.endswith(_NOT_REPORTED):
            return
        is_backpressure = status == 429 and path.endswith("/asample")
        if is_backpressure or isinstance(error, (errors.ClosedError, errors.DeadlineExceeded)):
            return  # The operation continues, or the client itself ended it.
        attempts = self._connection.attempts("submit")
        attempts.number = attempt
        retried = attempts.policy.retry(attempts.failure_state(error))
        polled = getattr(error, "polled", None)
        if polled is not None:
            self._poll_failed(error, polled, status, retried, elapsed)
        else:
            self._request_failed(f"{method} {path}", error, attempt, retried, elapsed)

    def _request_failed(self, request: str, error: BaseException, attempt: int, retried: bool, elapsed: float) -> None:
        """Queue an event about a failed request that was not a poll."""
        now = datetime.now(timezone.utc).timestamp()
        data = {
            "func": request,
            **_describe(error),
            "is_retryable": retried,
            "is_user_error": _is_user_error(error),
            "attempt_count": attempt - 1,
            "start_time": now - elapsed,
            "current_time": now,
            "elapsed_time": elapsed,
        }
        status = getattr(error, "status_code", None)
        if status is not None:
            data["status_code"] = status
        self.log("InternalClientHolder.execute_with_retries.exception", data, "WARNING")

    def _poll_failed(
        self, error: BaseException, polled: errors.Polled, status: Optional[int], retried: bool, elapsed: float
    ) -> None:
        """Queue an event about a poll: the connection failed, or the server returned an error."""
        data = {**polled._asdict(), "exception": str(error), "elapsed_time": elapsed}
        failures = self._failed_connections.pop(polled.request_id, 0)
        if status is None:
            self._failed_connections[polled.request_id] = failures + 1
            data["connection_error_retries"] = failures
            self.log(_POLLING + "connection_error", data, "WARNING")
        else:
            is_user_error = _is_user_error(error)
            data.update(status_code=status, should_retry=retried, is_user_error=is_user_error)
            severity: types.Severity = "WARNING" if retried or is_user_error else "ERROR"
            self.log(_POLLING + "api_status_error", data, severity)

    @hookimpl
    def tinkex_future_resolved(
        self, operation: str, request_id: Optional[str], elapsed: float, error: Optional[BaseException]
    ) -> None:
        """Queue events about a server future that ended with an error."""
        self._failed_connections.pop(request_id, None)
        if not isinstance(error, Exception) or isinstance(error, (errors.ClosedError, errors.WithdrawnError)):
            return  # The operation succeeded, or the client itself ended it.
        polled = getattr(error, "polled", None)
        data: Dict[str, Any] = {
            "request_id": request_id,
            "request_type": polled.request_type if polled is not None else operation,
            "iteration": polled.iteration if polled is not None else 0,
            "elapsed_time": elapsed,
        }
        if isinstance(error, errors.DeadlineExceeded):
            self.log(_POLLING + "timeout", {**data, "timeout": elapsed}, "ERROR")
            return
        if isinstance(error, errors.RequestFailedError):
            is_user_error = _is_user_error(error)
            text = error.body.get("error") if isinstance(error.body, dict) else None
            data.update(error=text or error.message, error_category=error.category.capitalize())
            data.update(is_user_error=is_user_error)
            self.log(_POLLING + "application_error", data, "WARNING" if is_user_error else "ERROR")
        elif isinstance(error, errors.APIResponseValidationError):
            self.log(_POLLING + "validation_error", {**data, **_describe(error)}, "ERROR")
        self.log_exception(error)
