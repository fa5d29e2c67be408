"""The table of calls: where each goes, what it is retried by, what its answer is. Source: PROTOCOL section 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Optional, Union
from urllib.parse import quote

from .. import types

__all__ = ["ENDPOINTS", "PROMISES", "Endpoint", "PromiseKind"]


@dataclass(frozen=True)
class Endpoint:
    """One row: how one operation goes over HTTP."""

    name: str
    method: str
    #: Below ``/api/v1/``; fields in braces are quoted, those named ``*_path`` keep their slashes.
    path: str
    #: What the answer decodes into; None: it is ignored.
    reply: Any = None
    #: Name of the retry policy; None: it is sent once.
    policy: Optional[str] = "submit"
    #: Longest silence in seconds, or the name of the setting that gives it.
    read_timeout: Union[float, str] = "read_timeout"
    #: Whether hooks are told; reporting on telemetry would never end.
    observed: bool = True
    #: Sent with the key itself, also where other calls carry a token.
    uses_key: bool = False
    redirect_ok: bool = False
    #: What the answer may be; "": JSON.
    accept: str = ""
    #: Statuses that say no more than that the server has nothing of the kind: then there is no answer, and no error.
    absent: FrozenSet[int] = frozenset()

    def url(self, **parts: str) -> str:
        """The path with its fields filled in and quoted."""
        quoted = {
            # Colons are legal in a path, and samplers' ids are full of them.
            name: quote(str(value), safe="/:" if name.endswith("_path") else ":")
            for name, value in parts.items()
        }
        return "/api/v1/" + self.path.format(**quoted)


#: 404, 405 and 501 by the book; a server that forbids what it does not know may say 400 or 422.
_ABSENT = frozenset((400, 404, 405, 422, 501))
_CHECKPOINT = "training_runs/{run}/checkpoints/{checkpoint_path}"

ENDPOINTS: Dict[str, Endpoint] = {
    row.name: row
    for row in (
        Endpoint(
            "client_config",
            "POST",
            "client/config",
            types.ServerConfigResponse,
            "optional",
            uses_key=True,
            absent=_ABSENT,
        ),
        Endpoint("auth_token", "POST", "auth/token", types.AuthTokenResponse, "short", uses_key=True),
        Endpoint(
            "dynamic_config",
            "POST",
            "client/dynamic_config",
            types.DynamicConfigResponse,
            None,
            absent=_ABSENT,
        ),
        Endpoint("create_session", "POST", "create_session", types.CreateSessionResponse, "short"),
        Endpoint("finish_session", "POST", "sessions/{session}/finish", None, None, absent=_ABSENT),
        Endpoint(
            "session_heartbeat",
            "POST",
            "session_heartbeat",
            types.SessionHeartbeatResponse,
            None,
            "heartbeat_timeout",
        ),
        Endpoint(
            "create_sampling_session",
            "POST",
            "create_sampling_session",
            types.CreateSamplingSessionResponse,
            "short",
        ),
        Endpoint(
            "get_server_capabilities", "GET", "get_server_capabilities", types.GetServerCapabilitiesResponse
        ),
        Endpoint("healthz", "GET", "healthz", types.HealthResponse, "short"),
        Endpoint("create_model", "POST", "create_model", types.UntypedAPIFuture, "short"),
        Endpoint("get_info", "POST", "get_info", types.GetInfoResponse),
        Endpoint("unload_model", "POST", "unload_model", types.UntypedAPIFuture),
        Endpoint("forward", "POST", "forward", types.UntypedAPIFuture),
        Endpoint("forward_backward", "POST", "forward_backward", types.UntypedAPIFuture),
        Endpoint("optim_step", "POST", "optim_step", types.UntypedAPIFuture),
        Endpoint("save_weights", "POST", "save_weights", types.UntypedAPIFuture),
        Endpoint("load_weights", "POST", "load_weights", types.UntypedAPIFuture),
        Endpoint("save_weights_for_sampler", "POST", "save_weights_for_sampler", types.UntypedAPIFuture),
        Endpoint(
            "join_sampling_session",
            "POST",
            "join_sampling_session",
            types.JoinSamplingSessionResponse,
            "short",
        ),
        Endpoint("save_weights_external", "POST", "save_weights_external", types.UntypedAPIFuture),
        Endpoint("asample", "POST", "asample", types.UntypedAPIFuture, "sampling"),
        Endpoint("retrieve_future", "POST", "retrieve_future", None, None, "poll_timeout"),
        Endpoint("retrieve_futures", "POST", "retrieve_futures", None, None, read_timeout=45.0),
        Endpoint("cancel_future", "POST", "cancel_future", None, "submit", read_timeout=30.0),
        Endpoint(
            "telemetry",
            "POST",
            "telemetry",
            types.TelemetryResponse,
            "telemetry",
            read_timeout=5.0,
            observed=False,
        ),
        Endpoint("weights_info", "POST", "weights_info", types.WeightsInfoResponse),
        Endpoint("training_runs", "GET", "training_runs", types.TrainingRunsResponse),
        Endpoint("training_run", "GET", "training_runs/{run}", types.TrainingRun),
        Endpoint("run_checkpoints", "GET", "training_runs/{run}/checkpoints", types.CheckpointsListResponse),
        Endpoint("checkpoints", "GET", "checkpoints", types.CheckpointsListResponse),
        Endpoint("delete_checkpoint", "DELETE", _CHECKPOINT),
        Endpoint("publish_checkpoint", "POST", _CHECKPOINT + "/publish"),
        Endpoint("unpublish_checkpoint", "DELETE", _CHECKPOINT + "/publish"),
        Endpoint(
            "checkpoint_archive",
            "GET",
            _CHECKPOINT + "/archive",
            None,
            "short",
            redirect_ok=True,
            accept="application/json, application/gzip",
        ),
        Endpoint("checkpoint_ttl", "PUT", _CHECKPOINT + "/ttl"),
        Endpoint(
            "external_weights_urls",
            "GET",
            _CHECKPOINT + "/external_weights_urls",
            types.ExternalWeightsUrlsResponse,
        ),
        Endpoint("copy_weights", "POST", "copy_weights", types.CopyWeightsResponse),
        Endpoint("session_project", "PUT", "sessions/{session}/project"),
        Endpoint("session", "GET", "sessions/{session}", types.GetSessionResponse),
        Endpoint("sessions", "GET", "sessions", types.ListSessionsResponse),
        Endpoint("sampler", "GET", "samplers/{sampler}", types.GetSamplerResponse),
    )
}


@dataclass(frozen=True)
class PromiseKind:
    """What a promise of one endpoint becomes."""

    #: Value of ``X-Tinker-Request-Type``.
    name: str
    reply: Any


PROMISES: Dict[str, PromiseKind] = {
    "create_model": PromiseKind("CreateModel", types.CreateModelResponse),
    "unload_model": PromiseKind("UnloadModel", types.UnloadModelResponse),
    "forward": PromiseKind("Forward", types.ForwardBackwardOutput),
    "forward_backward": PromiseKind("ForwardBackward", types.ForwardBackwardOutput),
    "optim_step": PromiseKind("OptimStep", types.OptimStepResponse),
    "save_weights": PromiseKind("SaveWeights", types.SaveWeightsResponse),
    "load_weights": PromiseKind("LoadWeights", types.LoadWeightsResponse),
    "save_weights_for_sampler": PromiseKind(
        "SaveWeightsForSampler", types.SaveWeightsForSamplerResponseInternal
    ),
    "save_weights_external": PromiseKind("SaveWeightsExternal", types.SaveWeightsExternalResponse),
    "asample": PromiseKind("Sample", types.SampleResponse),
}
