"""Telemetry events and the batches they are sent in."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Dict, List, Literal, Optional, Union

from .scalars import FieldError, shown
from .wire import NULLABLE, Wire, build, coded

__all__ = [
    "EventType",
    "GenericEvent",
    "SessionEndEvent",
    "SessionStartEvent",
    "Severity",
    "TelemetryBatch",
    "TelemetryEvent",
    "TelemetryResponse",
    "TelemetrySendRequest",
    "UnhandledExceptionEvent",
]

EventType = Literal["SESSION_START", "SESSION_END", "UNHANDLED_EXCEPTION", "GENERIC_EVENT"]
Severity = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@dataclass(frozen=True, repr=False)
class SessionStartEvent(Wire):
    """The session began. ``event_session_index`` counts the events of a session from 0."""

    event: EventType
    event_id: str
    event_session_index: int
    severity: Severity
    timestamp: datetime


@dataclass(frozen=True, repr=False)
class SessionEndEvent(Wire):
    """The session ended after ``duration``, written as Python writes a timedelta."""

    duration: str
    event: EventType
    event_id: str
    event_session_index: int
    severity: Severity
    timestamp: datetime


@dataclass(frozen=True, repr=False)
class UnhandledExceptionEvent(Wire):
    """An exception left the client."""

    error_message: str
    error_type: str
    event: EventType
    event_id: str
    event_session_index: int
    severity: Severity
    timestamp: datetime
    traceback: Optional[str] = field(default=None, metadata=NULLABLE)


@dataclass(frozen=True, repr=False)
class GenericEvent(Wire):
    """Anything else, with a name of few values and a payload."""

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


def _event(value: Any) -> TelemetryEvent:
    if isinstance(value, (SessionStartEvent, SessionEndEvent, UnhandledExceptionEvent, GenericEvent)):
        return value
    kind = _EVENTS.get(str(value.get("event"))) if isinstance(value, dict) else None
    if kind is None:
        raise FieldError(f"must be a telemetry event, not {shown(value)}")
    event: TelemetryEvent = build(kind, value)
    return event


def _events(values: Any) -> List[TelemetryEvent]:
    if not isinstance(values, (list, tuple)):
        raise FieldError(f"must be a list of telemetry events, not {shown(values)}")
    return [_event(value) for value in values]


def _event_bodies(events: List[TelemetryEvent]) -> List[Dict[str, Any]]:
    return [event.to_wire() for event in events]


@dataclass(frozen=True, repr=False)
class TelemetryBatch(Wire):
    """Events of one session."""

    events: List[TelemetryEvent] = field(metadata=coded(_events, _event_bodies))
    platform: str
    sdk_version: str
    session_id: str


@dataclass(frozen=True, repr=False)
class TelemetrySendRequest(Wire):
    """``POST /api/v1/telemetry``."""

    events: List[TelemetryEvent] = field(metadata=coded(_events, _event_bodies))
    platform: str
    sdk_version: str
    session_id: str


@dataclass(frozen=True, repr=False)
class TelemetryResponse(Wire):
    """Taken."""

    status: Literal["accepted"]
