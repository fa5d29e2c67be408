"""The table of endpoints: the path, the retry policy and the response type of each request.

The paths are those of versions 0.7.0 and 0.38.0 of the official SDK. A new endpoint requires a new row of
:data:`ENDPOINTS`, its request and response classes in ``types/``, and a method of a client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Optional, Union
from urllib.parse import quote

from .. import types


@dataclass(frozen=True)
class Endpoint:
    """One row: how a request is sent over HTTP, and how its response is decoded."""

    name: str
    #: Type of the response; None: the response is returned undecoded.
    response_type: Any = None
    #: Name of the retry policy; None: sent once.
    policy: Optional[str] = "submit"
    method: str = "POST"
    #: Below ``/api/v1/``; default: the name. Fields in braces are replaced by quoted values; those named ``*_path``
    #: keep their slashes.
    path: str = ""
    #: Read timeout in seconds, or the name of the setting that contains it. Some servers work during the request.
    read_timeout: Union[float, str] = "read_timeout"
    #: Whether its requests are reported to hooks. Those of telemetry are not, because telemetry reports requests.
    observed: bool = True
    #: Whether it requires the API key itself where other endpoints accept a token.
    uses_key: bool = False
    redirect_ok: bool = False
    #: The ``Accept`` header; "": JSON.
    accept: str = ""
    #: Statuses which mean that the server lacks the endpoint. Then the call returns None.
    absent_statuses: FrozenSet[int] = frozenset()
    #: Statuses which mean that an earlier attempt, whose response was lost, was carried out. The call returns None.
    done_statuses: FrozenSet[int] = frozenset()
    #: Type of the result, for which the server future that the response names is polled; None: there is no future.
    result_type: Any = None
    #: Value of ``X-Tinker-Request-Type`` in those polls.
    request_type: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            object.__setattr__(self, "path", self.name)

    def url(self, **path_values: str) -> str:
        """Return the path with its fields replaced by quoted values."""
        quoted = {
            # Colons are legal in a path, and ids of samplers contain several.
            name: quote(str(value), safe="/:" if name.endswith("_path") else ":")
            for name, value in path_values.items()
        }
        return "/api/v1/" + self.path.format(**quoted)


#: 404, 405 and 501 by the standards. Servers that reject unknown paths may return 400 or 422.
_ABSENT_STATUSES = frozenset((400, 404, 405, 422, 501))
#: For operations that servers accept before they carry them out.
_QUICK = {"read_timeout": "submit_timeout"}
_CHECKPOINT = "training_runs/{run}/checkpoints/{checkpoint_path}"


def _get(name: str, response_type: Any = None, path: str = "", **fields: Any) -> Endpoint:
    """Return the row of an endpoint that only reads."""
    return Endpoint(name, response_type, method="GET", path=path, **fields)


def _optional(name: str, response_type: Any, policy: Optional[str], path: str, **fields: Any) -> Endpoint:
    """Return the row of an endpoint that some servers lack."""
    return Endpoint(name, response_type, policy, path=path, absent_statuses=_ABSENT_STATUSES, **fields)


def _operation(name: str, result_type: Any, policy: str = "submit", **fields: Any) -> Endpoint:
    """Return the row of an operation, whose result is polled. The request type is the name in CamelCase."""
    fields = {"request_type": name.title().replace("_", ""), **fields}
    return Endpoint(name, types.UntypedAPIFuture, policy, result_type=result_type, **fields)


_ROWS = (
    # Sessions
    _optional("client_config", types.ServerConfigResponse, "optional", "client/config", uses_key=True),
    Endpoint("auth_token", types.AuthTokenResponse, "short", path="auth/token", uses_key=True),
    _optional("dynamic_config", types.DynamicConfigResponse, None, "client/dynamic_config"),
    Endpoint("create_session", types.CreateSessionResponse, "short"),
    Endpoint("session_heartbeat", types.SessionHeartbeatResponse, None, read_timeout="heartbeat_timeout"),
    _optional("finish_session", None, None, "sessions/{session}/finish"),
    Endpoint("telemetry", types.TelemetryResponse, "telemetry", read_timeout=5.0, observed=False),
    _get("healthz", types.HealthResponse, policy="short"),
    _get("get_server_capabilities", types.GetServerCapabilitiesResponse),
    # Training
    _operation("create_model", types.CreateModelResponse, "short"),
    _operation("unload_model", types.UnloadModelResponse),
    _operation("forward", types.ForwardBackwardOutput, **_QUICK),
    _operation("forward_backward", types.ForwardBackwardOutput, **_QUICK),
    _operation("optim_step", types.OptimStepResponse, **_QUICK),
    _operation("save_weights", types.SaveWeightsResponse),
    _operation("load_weights", types.LoadWeightsResponse),
    _operation("save_weights_for_sampler", types.SaveWeightsForSamplerResponseInternal),
    _operation("save_weights_external", types.SaveWeightsExternalResponse),
    Endpoint("get_info", types.GetInfoResponse),
    # Sampling
    Endpoint("create_sampling_session", types.CreateSamplingSessionResponse, "short"),
    Endpoint("join_sampling_session", types.JoinSamplingSessionResponse, "short"),
    _operation("asample", types.SampleResponse, "sampling", request_type="Sample", **_QUICK),
    # Server futures
    Endpoint("retrieve_future", None, None, read_timeout="poll_timeout"),
    Endpoint("retrieve_futures", None, None, read_timeout=45.0),
    Endpoint("cancel_future", read_timeout=30.0),
    # Stored runs, checkpoints, sessions and samplers
    Endpoint("weights_info", types.WeightsInfoResponse),
    Endpoint("copy_weights", types.CopyWeightsResponse),
    _get("training_runs", types.TrainingRunsResponse),
    _get("training_run", types.TrainingRun, "training_runs/{run}"),
    _get("run_checkpoints", types.CheckpointsListResponse, "training_runs/{run}/checkpoints"),
    _get("checkpoints", types.CheckpointsListResponse),
    Endpoint("delete_checkpoint", method="DELETE", path=_CHECKPOINT, done_statuses=frozenset((404, 410))),
    Endpoint("publish_checkpoint", path=_CHECKPOINT + "/publish"),
    Endpoint("unpublish_checkpoint", method="DELETE", path=_CHECKPOINT + "/publish"),
    Endpoint("checkpoint_ttl", method="PUT", path=_CHECKPOINT + "/ttl"),
    _get(
        "checkpoint_archive",
        path=_CHECKPOINT + "/archive",
        policy="short",
        redirect_ok=True,
        accept="application/json, application/gzip",
    ),
    _get("external_weights_urls", types.ExternalWeightsUrlsResponse, _CHECKPOINT + "/external_weights_urls"),
    Endpoint("session_project", method="PUT", path="sessions/{session}/project"),
    _get("session", types.GetSessionResponse, "sessions/{session}"),
    _get("sessions", types.ListSessionsResponse),
    _get("sampler", types.GetSamplerResponse, "samplers/{sampler}"),
)

#: All endpoints by name.
ENDPOINTS: Dict[str, Endpoint] = {row.name: row for row in _ROWS}
#: Those whose responses name a server future.
OPERATIONS: Dict[str, Endpoint] = {row.name: row for row in _ROWS if row.result_type is not None}
