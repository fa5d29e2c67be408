"""The table of endpoints: the path, the retry policy and the response type of each request.

The paths are those of versions 0.7.0 and 0.38.0 of the official SDK. A new endpoint requires a new row of
:data:`ENDPOINTS`, its request and response classes in ``types/``, and a method of a client.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, FrozenSet, Optional, Union
from urllib.parse import quote

from .. import types

__all__ = ["ENDPOINTS", "OPERATIONS", "Endpoint"]


@dataclass(frozen=True)
class Endpoint:
    """One row: how a request is sent over HTTP, and how its response is decoded."""

    name: str
    method: str
    #: Below ``/api/v1/``. Fields in braces are replaced by quoted values; those named ``*_path`` keep their slashes.
    path: str
    #: Type of the response; None: the response is returned undecoded.
    reply: Any = None
    #: Name of the retry policy; None: sent once.
    policy: Optional[str] = "submit"
    #: Read timeout in seconds, or the name of the setting that contains it.
    read_timeout: Union[float, str] = "read_timeout"
    #: Whether its requests are reported to hooks. Those of telemetry are not, because telemetry reports requests.
    observed: bool = True
    #: Whether it requires the API key itself where other endpoints accept a token.
    uses_key: bool = False
    redirect_ok: bool = False
    #: The ``Accept`` header; "": JSON.
    accept: str = ""
    #: Statuses which mean that the server lacks the endpoint. Then the call returns None.
    absent: FrozenSet[int] = frozenset()
    #: Type of the result, for which the server future that the response names is polled; None: there is no future.
    result: Any = None
    #: Value of ``X-Tinker-Request-Type`` in those polls.
    request_type: str = ""

    def url(self, **parts: str) -> str:
        """Return the path with its fields replaced by quoted values."""
        quoted = {
            # Colons are legal in a path, and ids of samplers contain several.
            name: quote(str(value), safe="/:" if name.endswith("_path") else ":")
            for name, value in parts.items()
        }
        return "/api/v1/" + self.path.format(**quoted)


#: 404, 405 and 501 by the standards. Servers that reject unknown paths may return 400 or 422.
_ABSENT = frozenset((400, 404, 405, 422, 501))
_CHECKPOINT = "training_runs/{run}/checkpoints/{checkpoint_path}"


def _post(name: str, reply: Any = None, policy: Optional[str] = "submit", **fields: Any) -> Endpoint:
    """Return the row of an endpoint whose path is its name, unless ``path`` is given."""
    return replace(Endpoint(name, "POST", name, reply, policy), **fields)


def _operation(name: str, result: Any, policy: str = "submit", request_type: str = "") -> Endpoint:
    """Return the row of an operation, whose result is polled. The request type is the name in CamelCase."""
    request_type = request_type or name.title().replace("_", "")
    return _post(name, types.UntypedAPIFuture, policy, result=result, request_type=request_type)


_ROWS = (
    # Sessions
    _post(
        "client_config",
        types.ServerConfigResponse,
        "optional",
        path="client/config",
        uses_key=True,
        absent=_ABSENT,
    ),
    _post("auth_token", types.AuthTokenResponse, "short", path="auth/token", uses_key=True),
    _post("dynamic_config", types.DynamicConfigResponse, None, path="client/dynamic_config", absent=_ABSENT),
    _post("create_session", types.CreateSessionResponse, "short"),
    _post("session_heartbeat", types.SessionHeartbeatResponse, None, read_timeout="heartbeat_timeout"),
    _post("finish_session", None, None, path="sessions/{session}/finish", absent=_ABSENT),
    _post("telemetry", types.TelemetryResponse, "telemetry", read_timeout=5.0, observed=False),
    Endpoint("healthz", "GET", "healthz", types.HealthResponse, "short"),
    Endpoint(
        "get_server_capabilities", "GET", "get_server_capabilities", types.GetServerCapabilitiesResponse
    ),
    # Training
    _operation("create_model", types.CreateModelResponse, "short"),
    _operation("unload_model", types.UnloadModelResponse),
    _operation("forward", types.ForwardBackwardOutput),
    _operation("forward_backward", types.ForwardBackwardOutput),
    _operation("optim_step", types.OptimStepResponse),
    _operation("save_weights", types.SaveWeightsResponse),
    _operation("load_weights", types.LoadWeightsResponse),
    _operation("save_weights_for_sampler", types.SaveWeightsForSamplerResponseInternal),
    _operation("save_weights_external", types.SaveWeightsExternalResponse),
    _post("get_info", types.GetInfoResponse),
    # Sampling
    _post("create_sampling_session", types.CreateSamplingSessionResponse, "short"),
    _post("join_sampling_session", types.JoinSamplingSessionResponse, "short"),
    _operation("asample", types.SampleResponse, "sampling", "Sample"),
    # Server futures
    _post("retrieve_future", None, None, read_timeout="poll_timeout"),
    _post("retrieve_futures", None, None, read_timeout=45.0),
    _post("cancel_future", read_timeout=30.0),
    # Stored runs, checkpoints, sessions and samplers
    _post("weights_info", types.WeightsInfoResponse),
    _post("copy_weights", types.CopyWeightsResponse),
    Endpoint("training_runs", "GET", "training_runs", types.TrainingRunsResponse),
    Endpoint("training_run", "GET", "training_runs/{run}", types.TrainingRun),
    Endpoint("run_checkpoints", "GET", "training_runs/{run}/checkpoints", types.CheckpointsListResponse),
    Endpoint("checkpoints", "GET", "checkpoints", types.CheckpointsListResponse),
    Endpoint("delete_checkpoint", "DELETE", _CHECKPOINT),
    Endpoint("publish_checkpoint", "POST", _CHECKPOINT + "/publish"),
    Endpoint("unpublish_checkpoint", "DELETE", _CHECKPOINT + "/publish"),
    Endpoint("checkpoint_ttl", "PUT", _CHECKPOINT + "/ttl"),
    Endpoint(
        "checkpoint_archive",
        "GET",
        _CHECKPOINT + "/archive",
        None,
        "short",
        redirect_ok=True,
        accept="application/json, application/gzip",
    ),
    Endpoint(
        "external_weights_urls",
        "GET",
        _CHECKPOINT + "/external_weights_urls",
        types.ExternalWeightsUrlsResponse,
    ),
    Endpoint("session_project", "PUT", "sessions/{session}/project"),
    Endpoint("session", "GET", "sessions/{session}", types.GetSessionResponse),
    Endpoint("sessions", "GET", "sessions", types.ListSessionsResponse),
    Endpoint("sampler", "GET", "samplers/{sampler}", types.GetSamplerResponse),
)

#: All endpoints by name.
ENDPOINTS: Dict[str, Endpoint] = {row.name: row for row in _ROWS}
#: Those whose responses name a server future.
OPERATIONS: Dict[str, Endpoint] = {row.name: row for row in _ROWS if row.result is not None}
