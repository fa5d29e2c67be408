"""Telemetry events, and the batches in which they are sent."""

import functools
from dataclasses import field
from datetime import datetime
from typing import Any, Dict, List, Literal, Optional, Union, get_args

from .decoders import FieldError, each, shorten
from .wire import SENT_AS_NULL, Wire, coding, since

__all__ = [
    "EventType", "GenericEvent", "SessionEndEvent", "SessionStartEvent", "Severity", "TelemetryBatch",
    "TelemetryEvent", "TelemetryResponse", "TelemetrySendRequest", "UnhandledExceptionEvent",
]  # fmt: skip

EventType = Literal["SESSION_START", "SESSION_END", "UNHANDLED_EXCEPTION", "GENERIC_EVENT"]
Severity = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class SessionStartEvent(Wire):
    """The session was created. ``event_session_index`` counts the events of a session from 0."""

    event: EventType
    event_id: str
    event_session_index: int
    severity: Severity
    timestamp: datetime


class SessionEndEvent(Wire):
    """The session ended after ``duration``, which is the text of a Python timedelta."""

    duration: str
    event: EventType
    event_id: str
    event_session_index: int
    severity: Severity
    timestamp: datetime


class UnhandledExceptionEvent(Wire):
    """The client raised an exception."""

    error_message: str
    error_type: str
    event: EventType
    event_id: str
    event_session_index: int
    severity: Severity
    timestamp: datetime
    traceback: Optional[str] = field(default=None, metadata=SENT_AS_NULL)


class GenericEvent(Wire):
    """Another event: a name from a small set, and its data."""

    event: EventType
    event_id: str
    event_name: str
    event_session_index: int
    severity: Severity
    timestamp: datetime
    event_data: Dict[str, Any] = field(default_factory=dict)


TelemetryEvent = Union[SessionStartEvent, SessionEndEvent, UnhandledExceptionEvent, GenericEvent]

_EVENTS: Dict[str, Any] = {
    "SESSION_START": SessionStartEvent,
    "SESSION_END": SessionEndEvent,
    "UNHANDLED_EXCEPTION": UnhandledExceptionEvent,
    "GENERIC_EVENT": GenericEvent,
}


def _event(value: Any) -> Any:
    """Decode one event; its field ``event`` determines its class."""
    if isinstance(value, get_args(TelemetryEvent)):
        return value
    kind = _EVENTS.get(str(value.get("event"))) if isinstance(value, dict) else None
    if kind is None:
        raise FieldError(f"must be a telemetry event, not {shorten(value)}")
    return kind.model_validate(value)


_EVENT_LIST = coding(functools.partial(each, _event), lambda events: [event.to_wire() for event in events])


class TelemetryBatch(Wire):
    """The events of one session."""

    events: List[TelemetryEvent] = field(metadata=_EVENT_LIST)
    platform: str
    sdk_version: str
    session_id: str


class TelemetrySendRequest(TelemetryBatch):
    """Body of ``POST /api/v1/telemetry``."""

    #: Distinguishes processes of one session.
    process_uuid: Optional[str] = field(default=None, metadata=since("0.38.0"))


class TelemetryResponse(Wire):
    """Response of ``POST /api/v1/telemetry``."""

    status: Literal["accepted"]
