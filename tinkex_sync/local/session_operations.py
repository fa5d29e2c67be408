"""Operations of sessions: create, heartbeat, finish, assign to a project, and telemetry."""

from __future__ import annotations

import uuid
from typing import Dict

from .json_bodies import Body, JsonObject, RejectedRequest
from .state import Handler, ServerState
from .store import timestamp

__all__ = ["SessionOperations"]


class SessionOperations:
    """The handlers of session operations. Immutable, so threads may share an instance."""

    def __init__(self, state: ServerState) -> None:
        self._store = state.store
        self._stats = state.stats
        self._state = state

    def handlers(self) -> Dict[str, Handler]:
        """Return the handlers of POST /api/v1/NAME by name."""
        return {
            "create_session": self.create_session,
            "session_heartbeat": self.session_heartbeat,
            "telemetry": self.telemetry,
        }

    def create_session(self, body: Body, _: bytes) -> JsonObject:
        """Create a session. POST /api/v1/create_session."""
        session_id = uuid.uuid4().hex
        record = {
            "id": session_id,
            "tags": body.strings("tags"),
            "user_metadata": body.optional_inner("user_metadata").raw,
            "sdk_version": body.optional_text("sdk_version"),
            "project_id": body.optional_text("project_id"),
            "time": timestamp(),
        }
        self._store.put("sessions", record)
        return {
            "session_id": session_id,
            "info_message": None,
            "warning_message": None,
            "error_message": None,
            "type": "create_session",
        }

    def session_heartbeat(self, body: Body, _: bytes) -> JsonObject:
        """Count a heartbeat. POST /api/v1/session_heartbeat.

        Raises:
            RejectedRequest: 404 if there is no such session, 410 if it is finished.
        """
        session_id = self._state.session_id(body)
        if "finished" in self._store.get("sessions", session_id):
            raise RejectedRequest(410, f"session {session_id!r} is finished")
        self._stats.count_heartbeat(session_id)
        return {"type": "session_heartbeat"}

    def telemetry(self, body: Body, _: bytes) -> JsonObject:
        """Count telemetry events. POST /api/v1/telemetry."""
        body.text("session_id")
        self._stats.add("telemetry_events", len(body.non_empty_list("events")))
        return {"status": "accepted"}

    def finish_session(self, session_id: str, body: Body) -> JsonObject:
        """Record how a session ended, and unload its models. Later calls change nothing.

        POST /api/v1/sessions/ID/finish.
        """
        record = self._store.get("sessions", session_id)
        reason = body.inner("reason").text("type")
        if reason not in ("success", "errored", "interrupted"):
            raise body.field_error("reason.type", f"must be success, errored or interrupted, not {reason!r}")
        if "finished" not in record:
            ended = {"reason": reason, "detail": body.optional_text("detail"), "time": timestamp()}
            self._store.put("sessions", {**record, "finished": ended})
            self._stats.add("sessions_finished")
            for model in self._state.models.all_loaded():
                if model.record["session_id"] == session_id:
                    self._state.models.submit_unload(model)
        return {}

    def assign_project(self, session_id: str, body: Body) -> JsonObject:
        """Assign a session and its runs to a project. Every name is accepted. PUT /api/v1/sessions/ID/project."""
        record = self._store.get("sessions", session_id)
        self._store.put("sessions", {**record, "project_id": body.text("project_id")})
        return {}
