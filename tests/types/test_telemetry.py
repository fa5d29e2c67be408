"""Telemetry: each event keeps its class and its fields in a batch."""

from datetime import datetime, timezone

import pytest
from wire_bodies import assert_encoded

from tinkex_sync import types

NOW = datetime(2025, 1, 2, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (
            types.TelemetrySendRequest([], "Linux", "0.38.0", "s", "u"),
            {"events": [], "platform": "Linux", "sdk_version": "0.38.0", "session_id": "s", "process_uuid": "u"},
        )
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_fields_of_0_38_only_where_they_are_set(request_, body) -> None:
    assert_encoded(request_, body)


@pytest.mark.parametrize(
    "event",
    [
        types.SessionStartEvent("SESSION_START", "e", 0, "INFO", NOW),
        types.SessionEndEvent("0:00:01", "SESSION_END", "e", 1, "INFO", NOW),
        types.UnhandledExceptionEvent("m", "ValueError", "UNHANDLED_EXCEPTION", "e", 2, "ERROR", NOW),
        types.GenericEvent("GENERIC_EVENT", "e", "name", 3, "WARNING", NOW, {"a": [1]}),
    ],
    ids=lambda event: event.event,
)
def test_events_keep_their_class_through_a_batch(event) -> None:
    batch = types.TelemetrySendRequest([event], "Linux", "0.7.0", "s")
    body = batch.to_wire()
    assert types.TelemetrySendRequest.from_wire(body) == batch
    assert body["events"][0]["timestamp"] == "2025-01-02T00:00:00Z"
    assert ("traceback" in body["events"][0]) == isinstance(event, types.UnhandledExceptionEvent)


@pytest.mark.parametrize("event", [{"event": "LOGIN"}, {}, "SESSION_START", None])
def test_an_event_of_another_kind_is_refused_with_its_place(event) -> None:
    with pytest.raises(ValueError, match=r"TelemetryBatch\.events\[0\]: must be a telemetry event"):
        types.TelemetryBatch([event], "Linux", "0.7.0", "s")
