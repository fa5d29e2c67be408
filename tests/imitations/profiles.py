"""Profiles of servers of the Tinker API: the differences of each in requests and responses.

There is one profile per known server, and two of other kinds. NEITHER neither recognizes repeated requests nor
requires consecutive numbers. STRICT accepts and returns as little as the protocol allows.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, FrozenSet, Mapping, Optional, Tuple

__all__ = [
    "PROFILES",
    "EMBEDDED",
    "HATCHERY",
    "LATE",
    "NEITHER",
    "SKYRL",
    "STRICT",
    "TUFT",
    "TUFT_0_38",
    "ServerProfile",
]


def _detail(status: int, text: str) -> Any:
    return {"detail": text}


def _validation_list(status: int, text: str) -> Any:
    """Return a list of problems, as the validation of pydantic does."""
    return {"detail": [{"type": "value_error", "loc": ["body"], "msg": text}] if status == 422 else text}


def _coded(status: int, text: str) -> Any:
    """Return an error as gateways do. For a missing endpoint that is an HTML page."""
    missing = "<html><h1>404 Not Found</h1></html>"
    return missing if text == "Not Found" else {"error": {"message": text, "code": status}}


def _reject_nothing(endpoint: str, body: Mapping[str, Any]) -> Optional[Tuple[int, str]]:
    return None


@dataclass(frozen=True)
class ServerProfile:
    """The behaviour of one server."""

    name: str
    #: The meaning of sequence numbers. "dedupe": the same number and body return the same server future, another body
    #: gets 409. "dedupe_number": the body is not compared. "consecutive": any number but the next gets 409. "late":
    #: like "consecutive", but every POST is accepted, polls report the conflict, and a failed operation does not use
    #: its number up. "none": numbers are ignored.
    numbers: str
    #: Makes the response to an accepted operation from a counter, the model and the operation.
    accepted_body: Callable[[int, str, str], dict]
    #: Status for a missing and for an unknown API key. None: keys are not checked.
    missing_key: Optional[int] = None
    unknown_key: Optional[int] = None
    #: Whether the key is also accepted as a bearer token.
    bearer: bool = False
    #: Statuses of success: for new sessions, for accepted operations, and for deleting and publishing.
    created: int = 200
    accepted: int = 200
    deleted: int = 200
    #: Status and body of the response to a poll without a result.
    not_yet: Tuple[int, Any] = (200, {"type": "try_again", "request_id": "?", "queue_state": "active"})
    #: If more operations than this have no result, the queue state becomes "paused_capacity".
    queued_limit: Optional[int] = None
    #: Whether polls are never held.
    never_holds: bool = False
    #: Whether the queue states of the engine are returned.
    returns_queue_states: bool = False
    #: Whether a result is returned once, and later polls get 404.
    once: bool = False
    #: Operations that are completed before the POST returns.
    inside_post: FrozenSet[str] = frozenset()
    #: The response for a failed operation: "400", "cause" (404 with a detail) or "failed" (200 with an error).
    failure: str = "failed"
    #: The metrics of a forward_backward.
    metrics: Tuple = (("loss:sum", 1.0),)
    #: Whether the connection is closed after a 500.
    drops_after_500: bool = False
    #: Whether every connection is closed after one request.
    closes: bool = False
    #: Whether a create_model with ``"user_metadata": null`` gets 422.
    rejects_null_metadata: bool = False
    #: Whether logprobs of the prompt have no entry for the first token.
    short_prompt_logprobs: bool = False
    #: Whether outputs have ``elementwise_loss`` in addition to ``logprobs``.
    elementwise_loss: bool = False
    #: The form of checkpoint paths by folder.
    paths: Mapping[str, str] = field(
        default_factory=lambda: {
            "weights": "tinker://{model}/weights/{name}",
            "sampler_weights": "tinker://{model}/sampler_weights/{name}",
        }
    )
    #: Makes the id of a sampling session from its session and number.
    sampler: Callable[[str, int], str] = lambda session, number: f"{session}:sample:{number}"
    #: Whether weights saved without a name get a name instead of a sampling session.
    names_ephemeral: bool = False
    #: Whether a name can be used for one checkpoint only.
    unique_names: bool = False
    #: Endpoints that do not exist.
    missing: FrozenSet[str] = frozenset()
    #: Returns status and reason if the content of a request is rejected.
    rejects: Callable[[str, Mapping[str, Any]], Optional[Tuple[int, str]]] = _reject_nothing
    #: The accepted keys of bodies by endpoint. None: any keys.
    known_keys: Optional[Mapping[str, FrozenSet[str]]] = None
    #: Makes the body of an error from its status and reason.
    error: Callable[[int, str], Any] = _detail
    #: The datetimes of checkpoints: "aware", "naive" or "null".
    times: str = "aware"
    #: The links to archives: "http", "file" or "http, sampler only".
    archives: str = "http"
    #: The response of client/config. None: the endpoint does not exist.
    client_config: Optional[Mapping[str, Any]] = None
    #: The accepted forms of training requests: "json", "protobuf". With "protobuf", results are protobuf on request.
    wires: FrozenSet[str] = frozenset({"json"})
    #: Whether all requests are forwarded to the embedded server unchanged.
    transparent: bool = False


def _skyrl_rejects(endpoint: str, body: Mapping[str, Any]) -> Optional[Tuple[int, str]]:
    if endpoint in ("forward", "forward_backward") and body[f"{endpoint}_input"]["loss_fn"] == "dro":
        return 422, "loss_fn: 'dro' is not supported"
    if endpoint == "asample":
        if ":" in (body.get("sampling_session_id") or ""):
            return 400, "sampling_session_id must not contain a colon"
        if body["sampling_params"].get("max_tokens") is None:
            return 400, "max_tokens is required"
        if body.get("topk_prompt_logprobs"):
            return 400, "topk_prompt_logprobs is not supported"
    return None


def _hatchery_rejects(endpoint: str, body: Mapping[str, Any]) -> Optional[Tuple[int, str]]:
    if endpoint in ("forward", "forward_backward") and body[f"{endpoint}_input"]["loss_fn"] == "dro":
        return 501, "loss_fn 'dro' is not implemented"
    if endpoint == "optim_step" and not 0 < body["adam_params"]["learning_rate"] <= 10:
        return 422, "learning_rate: must be above 0 and at most 10"
    return None


#: The keys of the protocol. Strict servers reject all others.
_KEYS: Dict[str, str] = {
    "create_session": "tags user_metadata sdk_version",
    "session_heartbeat": "session_id",
    "create_sampling_session": "session_id sampling_session_seq_id base_model model_path",
    "create_model": "session_id model_seq_id base_model user_metadata lora_config",
    "get_info": "model_id",
    "unload_model": "model_id",
    "forward": "forward_input model_id seq_id",
    "forward_backward": "forward_backward_input model_id seq_id",
    "optim_step": "adam_params model_id seq_id",
    "save_weights": "model_id path seq_id",
    "load_weights": "model_id path optimizer seq_id",
    "save_weights_for_sampler": "model_id path sampling_session_seq_id seq_id",
    "asample": "num_samples prompt sampling_params sampling_session_id seq_id prompt_logprobs topk_prompt_logprobs",
    "retrieve_future": "request_id",
    "weights_info": "tinker_path",
}

SKYRL = ServerProfile(
    name="SkyRL",
    numbers="dedupe",
    accepted_body=lambda number, model, operation: {
        "future_id": number,
        "status": "pending",
        "request_id": str(number),
        **({"model_id": model} if operation == "create_model" else {}),
    },
    deleted=204,
    not_yet=(408, {"detail": "Timeout waiting for the result"}),
    failure="400",
    metrics=(),
    drops_after_500=True,
    short_prompt_logprobs=True,
    elementwise_loss=True,
    unique_names=True,
    paths={"weights": "tinker://{model}/{name}", "sampler_weights": "tinker://{model}/sampler_weights/{name}"},
    sampler=lambda session, number: f"sampling_{session[:8]}{number:04x}",
    missing=frozenset({"checkpoints", "sessions", "session", "publish_checkpoint", "unpublish_checkpoint"}),
    rejects=_skyrl_rejects,
    client_config={"pjwt_auth_enabled": False},
    wires=frozenset({"json", "protobuf"}),
    times="naive",
    archives="http, sampler only",
)

TUFT = ServerProfile(
    name="TuFT",
    numbers="consecutive",
    accepted_body=lambda number, model, operation: {"request_id": f"tuft-{number:08x}", "model_id": model},
    missing_key=401,
    unknown_key=403,
    created=201,
    accepted=202,
    deleted=204,
    failure="cause",
    drops_after_500=True,
    archives="file",
)

#: Versions of the same server that check the number of an operation when the operation runs.
LATE = replace(TUFT, name="TuFT, late", numbers="late")

#: Keys that protocol 0.38.0 added.
_KEYS_OF_0_38 = {
    "client_config": "sdk_version",
    "create_session": "project_id type",
    "save_weights": "overwrite ttl_seconds type",
    "save_weights_for_sampler": "ttl_seconds type",
    "retrieve_future": "allow_metadata_only",
    "load_weights": "type",
}

#: The version for protocol 0.38.0: training requests must be protobuf, and models cannot be created by loading a
#: checkpoint.
TUFT_0_38 = replace(
    LATE,
    name="TuFT, 0.38",
    known_keys={
        endpoint: frozenset(f"{_KEYS.get(endpoint, '')} {_KEYS_OF_0_38.get(endpoint, '')}".split())
        for endpoint in (*_KEYS, *_KEYS_OF_0_38)
    },
    client_config={
        "pjwt_auth_enabled": False,
        "credential_default_source": "api_key",
        "sample_dispatch_bytes_semaphore_size": 10485760,
        "inflight_response_bytes_semaphore_size": 52428800,
        "parallel_fwdbwd_chunks": False,
        "proto_compress_fwdbwd": False,
        "fwdbwd_max_chunk_len": 1024,
        "fwdbwd_max_chunk_bytes_count": 5000000,
        "fwdbwd_dispatch_bytes_semaphore_size": 50000000,
        "billing_exception_max_pause_duration_sec": 3600,
        "sample_no_retries": False,
        "sample_enable_stuck_detection": True,
        "sample_max_concurrent_requests": 2000,
        "use_pyqwest_transport": True,
        "create_model_via_load_weights": False,
    },
    wires=frozenset({"protobuf"}),
    missing=frozenset({"dynamic_config", "finish_session", "retrieve_futures", "cancel_future"}),
)

HATCHERY = ServerProfile(
    name="Hatchery",
    numbers="dedupe_number",
    accepted_body=lambda number, model, operation: {
        "request_id": f"req_{number}",
        "model_id": model,
        "operation": operation,
        "status": "queued",
    },
    missing_key=401,
    unknown_key=401,
    bearer=True,
    queued_limit=100,
    inside_post=frozenset({"create_model", "save_weights", "save_weights_for_sampler"}),
    metrics=(("loss:sum", 1.0), ("step", 3.0), ("learning_rate", 1e-4)),
    rejects_null_metadata=True,
    paths=dict.fromkeys(("weights", "sampler_weights"), "tinker://{model}/checkpoints/{name}"),
    sampler=lambda session, number: f"samp-{session[:8]}-{number}",
    missing=frozenset({"training_runs", "checkpoints", "sessions", "session", "sampler", "checkpoint_archive"}),
    rejects=_hatchery_rejects,
    client_config={
        "sample_dispatch_bytes_semaphore_size": 134217728,
        "inflight_response_bytes_semaphore_size": 268435456,
        "max_pipelined_requests": 64,
        "default_poll_interval_ms": 100,
    },
    error=_validation_list,
    times="null",
)

NEITHER = ServerProfile(
    name="neither",
    numbers="none",
    accepted_body=lambda number, model, operation: {"request_id": f"p{number}", "model_id": model},
)

STRICT = ServerProfile(
    name="strict",
    numbers="dedupe",
    accepted_body=lambda number, model, operation: {"request_id": f"{number:032x}"},
    created=201,
    deleted=204,
    not_yet=(408, ""),
    never_holds=True,
    once=True,
    closes=True,
    metrics=(),
    names_ephemeral=True,
    missing=frozenset({"session_heartbeat", "sampler"}),
    known_keys={endpoint: frozenset(keys.split()) for endpoint, keys in _KEYS.items()},
    error=_coded,
)

#: The embedded server itself, with scripted faults.
EMBEDDED = ServerProfile(
    name="embedded",
    numbers="dedupe",
    accepted_body=lambda number, model, operation: {},
    returns_queue_states=True,
    transparent=True,
)

PROFILES = (SKYRL, TUFT, HATCHERY, NEITHER)
