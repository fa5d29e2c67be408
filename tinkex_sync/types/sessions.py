"""Sessions, heartbeats, sampling sessions, capabilities and health."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Optional

from .wire import LATER, NULLABLE, UNSENT, Wire

__all__ = [
    "CreateSamplingSessionRequest",
    "CreateSamplingSessionResponse",
    "CreateSessionRequest",
    "CreateSessionResponse",
    "GetSamplerResponse",
    "GetServerCapabilitiesResponse",
    "GetSessionResponse",
    "HealthResponse",
    "JoinSamplingSessionResponse",
    "ListSessionsResponse",
    "SessionHeartbeatRequest",
    "SessionHeartbeatResponse",
    "SupportedModel",
]


@dataclass(frozen=True, repr=False)
class CreateSessionRequest(Wire):
    """``POST /api/v1/create_session``: the first call of every client."""

    tags: List[str]
    user_metadata: Optional[Dict[str, Any]] = field(metadata=NULLABLE)
    sdk_version: str
    type: str = field(default="create_session", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class CreateSessionResponse(Wire):
    """The session, with messages for the user where the server has any."""

    session_id: str
    info_message: Optional[str] = None
    warning_message: Optional[str] = None
    error_message: Optional[str] = None
    type: str = "create_session"


@dataclass(frozen=True, repr=False)
class SessionHeartbeatRequest(Wire):
    """``POST /api/v1/session_heartbeat``."""

    session_id: str
    type: str = field(default="session_heartbeat", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class SessionHeartbeatResponse(Wire):
    """The session lives."""

    type: str = "session_heartbeat"


@dataclass(frozen=True, repr=False)
class CreateSamplingSessionRequest(Wire):
    """``POST /api/v1/create_sampling_session``, of a base model or of saved weights; both are always sent."""

    session_id: str
    sampling_session_seq_id: int
    base_model: Optional[str] = field(default=None, metadata=NULLABLE)
    model_path: Optional[str] = field(default=None, metadata=NULLABLE)
    type: str = field(default="create_sampling_session", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class CreateSamplingSessionResponse(Wire):
    """The sampler to draw from."""

    sampling_session_id: str
    type: str = "create_sampling_session"


@dataclass(frozen=True, repr=False)
class JoinSamplingSessionResponse(Wire):
    """Reply of ``POST /api/v1/join_sampling_session``: a number that no other copy of the sampler has."""

    client_counter: int


@dataclass(frozen=True, repr=False)
class SupportedModel(Wire):
    """A base model the server offers."""

    model_name: Optional[str] = None
    #: Most tokens of an input, and what it can be used for; None: the server does not say.
    max_context_length: Optional[int] = field(default=None, metadata=LATER)
    trainable: Optional[bool] = field(default=None, metadata=LATER)
    sampleable: Optional[bool] = field(default=None, metadata=LATER)


@dataclass(frozen=True, repr=False)
class GetServerCapabilitiesResponse(Wire):
    """``GET /api/v1/get_server_capabilities``."""

    supported_models: List[SupportedModel]


@dataclass(frozen=True, repr=False)
class HealthResponse(Wire):
    """``GET /api/v1/healthz``."""

    status: Literal["ok"]


@dataclass(frozen=True, repr=False)
class GetSessionResponse(Wire):
    """``GET /api/v1/sessions/{id}``."""

    training_run_ids: List[str]
    sampler_ids: List[str]
    #: Labels and name of the session, where the server has them.
    user_metadata: Optional[Dict[str, Any]] = field(default=None, metadata=LATER)
    display_name: Optional[str] = field(default=None, metadata=LATER)


@dataclass(frozen=True, repr=False)
class ListSessionsResponse(Wire):
    """``GET /api/v1/sessions``."""

    sessions: List[str]


@dataclass(frozen=True, repr=False)
class GetSamplerResponse(Wire):
    """``GET /api/v1/samplers/{id}``."""

    sampler_id: str
    base_model: str
    model_path: Optional[str] = None
