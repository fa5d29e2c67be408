"""Sessions, heartbeats, sampling sessions, server capabilities and health."""

from dataclasses import field
from typing import Any, Dict, List, Literal, Optional

from .wire import NOT_SENT, SENT_AS_NULL, Wire, since

__all__ = [
    "AssignSessionProjectRequest", "CreateSamplingSessionRequest", "CreateSamplingSessionResponse",
    "CreateSessionRequest", "CreateSessionResponse", "FinishReason", "FinishSessionRequest",
    "GetSamplerResponse", "GetServerCapabilitiesResponse", "GetSessionResponse", "HealthResponse",
    "JoinSamplingSessionRequest", "JoinSamplingSessionResponse", "ListSessionsResponse",
    "SessionHeartbeatRequest", "SessionHeartbeatResponse", "SupportedModel",
]  # fmt: skip


class CreateSessionRequest(Wire):
    """Body of ``POST /api/v1/create_session``, the first call of every client."""

    tags: List[str]
    user_metadata: Optional[Dict[str, Any]] = field(metadata=SENT_AS_NULL)
    sdk_version: str
    #: The project that the session and its runs belong to; None for the account's default.
    project_id: Optional[str] = field(default=None, metadata=since("0.38.0"))
    type: str = field(default="create_session", metadata=NOT_SENT)


class CreateSessionResponse(Wire):
    """The created session, with the server's messages for the user; None if it sends none."""

    session_id: str
    info_message: Optional[str] = None
    warning_message: Optional[str] = None
    error_message: Optional[str] = None
    type: str = "create_session"


class SessionHeartbeatRequest(Wire):
    """Body of ``POST /api/v1/session_heartbeat``."""

    session_id: str
    type: str = field(default="session_heartbeat", metadata=NOT_SENT)


class SessionHeartbeatResponse(Wire):
    """The session is still open on the server."""

    type: str = "session_heartbeat"


class FinishReason(Wire):
    """How a session ended: "success", "errored" or "interrupted"."""

    type: str


class FinishSessionRequest(Wire):
    """Body of ``POST /api/v1/sessions/{id}/finish`` (0.38.0). ``detail`` is the error's text, sent as null if None."""

    reason: FinishReason
    detail: Optional[str] = field(default=None, metadata=SENT_AS_NULL)


class AssignSessionProjectRequest(Wire):
    """Body of ``PUT /api/v1/sessions/{id}/project`` (0.38.0)."""

    project_id: str


class CreateSamplingSessionRequest(Wire):
    """Body of ``POST /api/v1/create_sampling_session``, for a base model or saved weights; both fields are sent."""

    session_id: str
    sampling_session_seq_id: int
    base_model: Optional[str] = field(default=None, metadata=SENT_AS_NULL)
    model_path: Optional[str] = field(default=None, metadata=SENT_AS_NULL)
    type: str = field(default="create_sampling_session", metadata=NOT_SENT)


class CreateSamplingSessionResponse(Wire):
    """The created sampling session."""

    sampling_session_id: str
    type: str = "create_sampling_session"


class JoinSamplingSessionRequest(Wire):
    """Body of ``POST /api/v1/join_sampling_session`` (0.38.0)."""

    sampling_session_id: str


class JoinSamplingSessionResponse(Wire):
    """A number that no other copy of the sampling client has."""

    client_counter: int


class SupportedModel(Wire):
    """A base model that the server offers. Fields are None if the server does not send them."""

    model_name: Optional[str] = None
    #: Largest number of tokens of an input.
    max_context_length: Optional[int] = field(default=None, metadata=since("0.38.0"))
    trainable: Optional[bool] = field(default=None, metadata=since("0.38.0"))
    sampleable: Optional[bool] = field(default=None, metadata=since("0.38.0"))


class GetServerCapabilitiesResponse(Wire):
    """Response of ``GET /api/v1/get_server_capabilities``."""

    supported_models: List[SupportedModel]


class HealthResponse(Wire):
    """Response of ``GET /api/v1/healthz``."""

    status: Literal["ok"]


class GetSessionResponse(Wire):
    """Response of ``GET /api/v1/sessions/{id}``. ``user_metadata`` and ``display_name`` are None if not sent."""

    training_run_ids: List[str]
    sampler_ids: List[str]
    user_metadata: Optional[Dict[str, Any]] = field(default=None, metadata=since("0.38.0"))
    display_name: Optional[str] = field(default=None, metadata=since("0.38.0"))


class ListSessionsResponse(Wire):
    """Response of ``GET /api/v1/sessions``."""

    sessions: List[str]


class GetSamplerResponse(Wire):
    """Response of ``GET /api/v1/samplers/{id}``."""

    sampler_id: str
    base_model: str
    model_path: Optional[str] = None
