"""The servers of the field as data: what each does differently on the wire.

One row each for the columns of the survey of servers, and two for servers of other kinds: one that neither
recognises a request it has seen nor asks for consecutive numbers, and one that is as strict and as terse as the
protocol lets it be.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, FrozenSet, Mapping, Optional, Tuple

__all__ = [
    "COLUMNS",
    "EMBEDDED",
    "HATCHERY",
    "LATE",
    "NEITHER",
    "SKYRL",
    "STRICT",
    "TUFT",
    "TUFT_TODAY",
    "Column",
]


def _detail(status: int, text: str) -> Any:
    return {"detail": text}


def _validation_list(status: int, text: str) -> Any:
    """What the validation of pydantic makes of a wrong body: a list of problems."""
    return {"detail": [{"type": "value_error", "loc": ["body"], "msg": text}] if status == 422 else text}


def _coded(status: int, text: str) -> Any:
    """As gateways and the large inference services do it; a missing endpoint is a page for people."""
    missing = "<html><h1>404 Not Found</h1></html>"
    return missing if text == "Not Found" else {"error": {"message": text, "code": status}}


def _nothing(endpoint: str, body: Mapping[str, Any]) -> Optional[Tuple[int, str]]:
    return None


@dataclass(frozen=True)
class Column:
    """How one server behaves."""

    name: str
    #: "dedupe": same number and body give the same promise, another body 409. "dedupe_number": the body is
    #: not compared. "consecutive": exactly the next number, or 409. "late": likewise, but every POST is accepted,
    #: the promise tells of the conflict, and an operation that failed has used up no number. "none": numbers are
    #: ignored.
    numbers: str
    #: What a promise looks like, from its number, the model and the operation.
    promise: Callable[[int, str, str], dict]
    #: Status of a missing and of an unknown key; None: keys are not checked.
    missing_key: Optional[int] = None
    unknown_key: Optional[int] = None
    #: A key may also come as a bearer token.
    bearer: bool = False
    #: Statuses of success: new sessions, promises, deleting and publishing.
    created: int = 200
    accepted: int = 200
    deleted: int = 200
    #: What a poll is told whose result is not there yet.
    not_yet: Tuple[int, Any] = (200, {"type": "try_again", "request_id": "?", "queue_state": "active"})
    #: With more promises than this without a result, that becomes "paused_capacity".
    queued_limit: Optional[int] = None
    #: Polls are never held.
    hurried: bool = False
    #: The server's own word on queue states is handed on.
    tells_states: bool = False
    #: A result is handed out once; later polls get 404.
    once: bool = False
    #: Operations carried out inside the POST that asks for them.
    inside_post: FrozenSet[str] = frozenset()
    #: "400", "cause" (404 with a detail) or "failed" (200 with an error in it).
    failure: str = "failed"
    #: The metrics of a forward_backward.
    metrics: Tuple = (("loss:sum", 1.0),)
    #: Whether the connection is dropped after a 500.
    drops_after_500: bool = False
    #: Every connection carries one request.
    closes: bool = False
    #: Whether create_model is answered by ``{"user_metadata": null}`` with 422.
    refuses_null_metadata: bool = False
    #: Logprobs of the prompt have no entry for the first token.
    short_prompt_logprobs: bool = False
    #: Outputs have ``elementwise_loss`` beside ``logprobs``.
    elementwise_loss: bool = False
    #: Paths of saved checkpoints by the folder the protocol has for them.
    paths: Mapping[str, str] = field(
        default_factory=lambda: {
            "weights": "tinker://{model}/weights/{name}",
            "sampler_weights": "tinker://{model}/sampler_weights/{name}",
        }
    )
    #: Id of a sampling session, from its session and number.
    sampler: Callable[[str, int], str] = lambda session, number: f"{session}:sample:{number}"
    #: Weights saved without a name get one, and no sampling session.
    names_ephemeral: bool = False
    #: A name can be saved under once.
    unique_names: bool = False
    #: Endpoints that are not there.
    missing: FrozenSet[str] = frozenset()
    #: Status and reason of requests that are refused for what they ask.
    refuses: Callable[[str, Mapping[str, Any]], Optional[Tuple[int, str]]] = _nothing
    #: Keys of bodies that are known; None: any.
    known_keys: Optional[Mapping[str, FrozenSet[str]]] = None
    #: Body of an error, from its status and reason.
    error: Callable[[int, str], Any] = _detail
    #: "aware", "naive" or "null": datetimes of checkpoints.
    times: str = "aware"
    #: Where archives are: "http", "file" or "http, sampler only".
    archives: str = "http"
    #: Reply of client/config; None: there is no such endpoint.
    configured: Optional[Mapping[str, Any]] = None
    #: What training requests may be: "json", "protobuf". The latter gives results as protobuf to whoever accepts it.
    wires: FrozenSet[str] = frozenset({"json"})
    #: Everything goes through to the embedded server as it came.
    transparent: bool = False


def _skyrl_refuses(endpoint: str, body: Mapping[str, Any]) -> Optional[Tuple[int, str]]:
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


def _hatchery_refuses(endpoint: str, body: Mapping[str, Any]) -> Optional[Tuple[int, str]]:
    if endpoint in ("forward", "forward_backward") and body[f"{endpoint}_input"]["loss_fn"] == "dro":
        return 501, "loss_fn 'dro' is not implemented"
    if endpoint == "optim_step" and not 0 < body["adam_params"]["learning_rate"] <= 10:
        return 422, "learning_rate: must be above 0 and at most 10"
    return None


#: Whoever is strict allows these and nothing else.
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
    "asample": "num_samples prompt sampling_params sampling_session_id seq_id prompt_logprobs"
    " topk_prompt_logprobs",
    "retrieve_future": "request_id",
    "weights_info": "tinker_path",
}

SKYRL = Column(
    name="SkyRL",
    numbers="dedupe",
    promise=lambda number, model, operation: {
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
    paths={
        "weights": "tinker://{model}/{name}",
        "sampler_weights": "tinker://{model}/sampler_weights/{name}",
    },
    sampler=lambda session, number: f"sampling_{session[:8]}{number:04x}",
    missing=frozenset({"checkpoints", "sessions", "session", "publish_checkpoint", "unpublish_checkpoint"}),
    refuses=_skyrl_refuses,
    configured={"pjwt_auth_enabled": False},
    wires=frozenset({"json", "protobuf"}),
    times="naive",
    archives="http, sampler only",
)

TUFT = Column(
    name="TuFT",
    numbers="consecutive",
    promise=lambda number, model, operation: {"request_id": f"tuft-{number:08x}", "model_id": model},
    missing_key=401,
    unknown_key=403,
    created=201,
    accepted=202,
    deleted=204,
    failure="cause",
    drops_after_500=True,
    archives="file",
)

#: The same server as some of its versions are: an operation's number is looked at when its turn has come.
LATE = replace(TUFT, name="TuFT, late", numbers="late")

#: What today's servers know beside.
_TODAY = {
    "client_config": "sdk_version",
    "create_session": "project_id type",
    "save_weights": "overwrite ttl_seconds type",
    "save_weights_for_sampler": "ttl_seconds type",
    "retrieve_future": "allow_metadata_only",
    "load_weights": "type",
}

#: What became of it: training requests are protobuf only. It announces that models are not made by loading, and its
#: token exchange gives tokens that it refuses itself.
TUFT_TODAY = replace(
    LATE,
    name="TuFT, today",
    known_keys={
        endpoint: frozenset(f"{_KEYS.get(endpoint, '')} {_TODAY.get(endpoint, '')}".split())
        for endpoint in (*_KEYS, *_TODAY)
    },
    configured={
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

HATCHERY = Column(
    name="Hatchery",
    numbers="dedupe_number",
    promise=lambda number, model, operation: {
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
    refuses_null_metadata=True,
    paths=dict.fromkeys(("weights", "sampler_weights"), "tinker://{model}/checkpoints/{name}"),
    sampler=lambda session, number: f"samp-{session[:8]}-{number}",
    missing=frozenset(
        {"training_runs", "checkpoints", "sessions", "session", "sampler", "checkpoint_archive"}
    ),
    refuses=_hatchery_refuses,
    configured={
        "sample_dispatch_bytes_semaphore_size": 134217728,
        "inflight_response_bytes_semaphore_size": 268435456,
        "max_pipelined_requests": 64,
        "default_poll_interval_ms": 100,
    },
    error=_validation_list,
    times="null",
)

NEITHER = Column(
    name="neither",
    numbers="none",
    promise=lambda number, model, operation: {"request_id": f"p{number}", "model_id": model},
)

STRICT = Column(
    name="strict",
    numbers="dedupe",
    promise=lambda number, model, operation: {"request_id": f"{number:032x}"},
    created=201,
    deleted=204,
    not_yet=(408, ""),
    hurried=True,
    once=True,
    closes=True,
    metrics=(),
    names_ephemeral=True,
    missing=frozenset({"session_heartbeat", "sampler"}),
    known_keys={endpoint: frozenset(keys.split()) for endpoint, keys in _KEYS.items()},
    error=_coded,
)

#: The embedded server itself, with what is scripted laid over it.
EMBEDDED = Column(
    name="embedded",
    numbers="dedupe",
    promise=lambda number, model, operation: {},
    tells_states=True,
    transparent=True,
)

COLUMNS = (SKYRL, TUFT, HATCHERY, NEITHER)
