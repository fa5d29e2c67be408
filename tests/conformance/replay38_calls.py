"""Replay of the requests of each operation in protocol 0.38.0, and of its results.

The recorded client sends every default value, and requests the description of each new model. Our client sends only the
values that were given. A field that it omits must have a default value, so that both requests mean the same.
"""

import ast
import base64
import dataclasses
import itertools
from typing import Any, Callable, Dict, List, Optional

import pytest
from scripted_server import API, Answer, ScriptedServer, bare_session

from tinkex_sync import RestClient, SamplingClient, ServiceClient, TrainingClient, types

from .registry import error_class, no_excuse, not_understood, only, replay38
from .replay_datums import make_chunk
from .replay_requests import plain, sampling_params

KEY = "tml-test-key"
#: Numbers without a JSON form are rejected. (Row 1.)
REFUSED = 1
#: The sequence ids in the response to a submission are optional. Invalid ones are ignored. (Row 2.)
NAMES_OPTIONAL = 2

#: Default values of fields that a request may omit. A null has the same meaning as a missing field.
DEFAULTS: Dict[str, Any] = {
    "optimizer_config": {"type": "adamw"},
    "overwrite": False,
    "kind": "snapshot",
    "topk_sample_logprobs": 0,
    "prompt_alt_tokens_k": 0,
    "record_stability_info": False,
    "user_metadata": {},
    "access_scope": "owned",
}
#: Requests that our client does not send: the description of a new model and the base model of a new sampler.
NOT_SENT = ("get_info", "samplers/")
TRAINING = {
    *("optim_step", "save_state", "save_weights_for_sampler", "save_weights_and_get_sampling_client"),
    *("save_weights_external", "load_state", "load_state_with_optimizer"),
}
SERVICE = {
    *("create_lora_training_client", "create_training_client_from_state", "create_sampling_client"),
    "create_training_client_from_state_with_optimizer",
}


def make_service(session: Any) -> ServiceClient:
    made = ServiceClient.__new__(ServiceClient)
    super(ServiceClient, made).__init__(session, session.source)
    made.config, made.plugins = session.config, session.observers
    return made


class Exchanges:
    """The exchanges of one case. Sequence numbers and missing arguments are read from their bodies."""

    def __init__(self, server: ScriptedServer, session: Any, exchanges: List[Dict[str, Any]]) -> None:
        self.session = session
        self.requests = [one["request"] for one in exchanges]
        self.first = self.requests[0] if exchanges else {"path": "", "query": {}, "body": {}, "headers": {}}
        self.body = self.first["body"] or {}
        for name in ("model_seq_id", "sampling_session_seq_id"):
            if name in self.body:
                session._counters[name] = itertools.count(self.body[name])
        for one in exchanges:
            server.script(one["request"]["path"].partition(API)[2], response_of(one["response"]))

    def training(self) -> TrainingClient:
        model = self.body.get("model_id", "sess-1:train:0")
        return TrainingClient(self.session, model, first_seq_id=self.body.get("seq_id", 1))

    def sampling(self, settings: Dict[str, Any]) -> SamplingClient:
        sampler = self.body.get("sampling_session_id", "sess-1:sample:0")
        made = SamplingClient(self.session, sampler, **only(settings, "record_stability_info"))
        made._context = dataclasses.replace(made._context, seq_ids=itertools.count(self.body.get("seq_id", 0)))
        return made

    def prompt(self, given: Any) -> types.ModelInput:
        if isinstance(given, list):
            return types.ModelInput.from_ints(given)
        chunks = self.body.get("prompt", {}).get("chunks") or [{"tokens": [1, 2, 3]}]
        return types.ModelInput(chunks=[make_chunk(recorded_chunk(one)) for one in chunks])


def recorded_chunk(body: Dict[str, Any]) -> Dict[str, Any]:
    return {"image_data_string" if name == "data" else name: value for name, value in body.items()}


def response_of(response: Dict[str, Any]) -> Answer:
    body = response["body"]
    if isinstance(body, dict) and set(body) == {"$protobuf"}:
        packed = base64.b64decode(body["$protobuf"]["b64"])
        return Answer(response["status"], packed=packed, headers=response["headers"])
    if isinstance(body, str):
        return Answer(response["status"], text=body, headers=response["headers"])
    return Answer(response["status"], body, headers=response["headers"])


def optimizer(spec: Dict[str, Any]) -> types.OptimizerConfig:
    kinds: Dict[str, Any] = {"adamw": types.AdamOptimizerConfig, "dimuon": types.DimuonOptimizerConfig}
    return kinds[spec["type"]](**spec)  # type: ignore[no-any-return]


def operation(stage: Exchanges, given: Dict[str, Any]) -> Any:
    op, args = given["op"], dict(given.get("args", {}))
    if "optimizer" in args:
        args["optimizer"] = optimizer(args["optimizer"])
    if op == "optim_step":
        only(args, "adam", "adam_params", "dimuon")
        kinds: Dict[str, Any] = {"dimuon": types.DimuonParams}
        made = [kinds.get(name, types.AdamParams)(**fields) for name, fields in args.items()]
        return stage.training().optim_step(*made)
    if op in TRAINING:
        return getattr(stage.training(), op)(**args)
    if op in SERVICE:
        return getattr(make_service(stage.session), op)(**args)
    if op in ("sample", "compute_logprobs"):
        return call_sampling(stage, op, given.get("client", {}), args)
    if op.startswith("RestClient."):
        return call_rest(stage, op.partition(".")[2])
    return not_understood(f"operation {op}")


def call_sampling(stage: Exchanges, op: str, settings: Dict[str, Any], args: Dict[str, Any]) -> Any:
    args["prompt"] = stage.prompt(args.get("prompt"))
    if op == "sample":
        args["num_samples"] = args.get("num_samples", 1)
        args["sampling_params"] = sampling_params(args.get("sampling_params", {}))
    if "target_prompt_logprobs" in args:
        args["target_prompt_logprobs"] = types.TensorData(**args["target_prompt_logprobs"])
    return getattr(stage.sampling(settings), op)(**args)


def call_rest(stage: Exchanges, op: str) -> Any:
    """Call the REST client with the arguments that the recorded request contains."""
    rest, body = RestClient(stage.session), stage.body
    path = stage.first["path"].partition(API)[2].split("/")
    query = {name: int(value) if value.isdigit() else value for name, value in stage.first["query"].items()}
    checkpoint = f"tinker://{path[1]}/{'/'.join(path[3:5])}" if len(path) > 4 else ""
    token = stage.first["headers"].get("x-tinker-weights-access-token")
    calls: Dict[str, Callable[[], Any]] = {
        "capabilities": lambda: make_service(stage.session).get_server_capabilities(),
        "get_run": lambda: rest.get_training_run(path[1], **query),
        "list_runs": lambda: rest.list_training_runs(**query),
        "list_runs_scope_project": lambda: rest.list_training_runs(**query),
        "list_user_checkpoints": lambda: rest.list_user_checkpoints(**query),
        "list_sessions": lambda: rest.list_sessions(**query),
        "get_session": lambda: rest.get_session(path[1], **query),
        "set_ttl": lambda: rest.set_checkpoint_ttl_from_tinker_path(checkpoint, body["ttl_seconds"]),
        "clear_ttl": lambda: rest.set_checkpoint_ttl_from_tinker_path(checkpoint, body["ttl_seconds"]),
        "copy_weights": lambda: rest.copy_weights(
            body["source_path"],
            body.get("destination_project_id"),
            ttl_seconds=body.get("ttl_seconds"),
            weights_access_token=token,
        ),
        "assign_project": lambda: rest.assign_session_project(path[1], body["project_id"]),
        "external_urls": lambda: rest.get_external_weights_urls(checkpoint),
        "publish": lambda: rest.publish_checkpoint_from_tinker_path(checkpoint),
        "unpublish": lambda: rest.unpublish_checkpoint_from_tinker_path(checkpoint),
        "delete": lambda: rest.delete_checkpoint_from_tinker_path(checkpoint),
        "weights_info": lambda: rest.get_weights_info_by_tinker_path(body["tinker_path"]),
        "get_sampler": lambda: rest.get_sampler(path[1]),
    }
    return calls[op]() if op in calls else not_understood(f"RestClient.{op}")


def without_defaults(value: Any) -> Any:
    """Return a body or a query without default values, nulls and type names."""
    if isinstance(value, dict):
        kept = {name: without_defaults(inner) for name, inner in value.items() if inner is not None}
        kept.pop("allow_metadata_only", None)
        if set(kept) - {"version"} != {"type"} and not str(kept.get("type", "")).startswith("dimuon"):
            kept.pop("type", None)
        return {name: inner for name, inner in kept.items() if name not in DEFAULTS or inner != DEFAULTS[name]}
    return [without_defaults(inner) for inner in value] if isinstance(value, list) else value


def check_requests(ours: List[Any], recorded: List[Dict[str, Any]]) -> None:
    alone = len(recorded) == 1
    reference = [one for one in recorded if alone or not one["path"].partition(API)[2].startswith(NOT_SENT)]
    assert [(one.method, one.path) for one in ours] == [(one["method"], one["path"]) for one in reference]
    for mine, theirs in zip(ours, reference):
        assert without_defaults(mine.body or {}) == without_defaults(theirs["body"] or {})
        assert without_defaults(mine.query) == without_defaults(theirs["query"])
        assert mine.headers["x-api-key"] == KEY
        for name in ("x-tinker-request-type", "x-tinker-request-iteration", "x-tinker-weights-access-token"):
            assert mine.headers.get(name) == theirs["headers"].get(name), name
        if theirs["path"].endswith("copy_weights"):
            assert len(mine.headers["x-idempotency-key"]) == len(theirs["headers"]["x-idempotency-key"])


def check_result(outcome: Any, recorded: Any) -> None:
    if isinstance(outcome, types.SampleResponse):
        recorded = ast.literal_eval(recorded)
        if isinstance(recorded, int):
            assert len(outcome.sequences) == recorded
            return
        assert [one.sequence_id for one in outcome.sequences] == recorded["sequence_ids"]
        assert [list(one.tokens) for one in outcome.sequences] == recorded["tokens"]
    elif isinstance(outcome, TrainingClient):
        assert outcome.model_id == recorded["model_id"]
    elif isinstance(outcome, SamplingClient):
        assert recorded is None
    elif isinstance(outcome, list):
        assert outcome == ast.literal_eval(recorded)
    else:
        assert_contains(plain(outcome), recorded)


def assert_contains(ours: Any, theirs: Any) -> None:
    """Assert that a result contains the recorded values. Defaults that were not sent may be missing."""
    if isinstance(theirs, dict):
        for name, value in theirs.items():
            if value is not None and (ours.get(name) is not None or DEFAULTS.get(name) != value):
                assert_contains(ours[name], value)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for mine, one in zip(ours, theirs):
            assert_contains(mine, one)
    else:
        assert ours == theirs


@replay38("requests")
def requests(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "op", "args", "client")
    expected = only(case["expected"], "exchanges", "result", "exception", "mro")
    no_excuse(row, REFUSED, NAMES_OPTIONAL)
    exchanges = expected.get("exchanges", [])
    outcome: Any = None
    with bare_session(protocol="0.38") as (server, session):
        session.session_id = "sess-1"
        stage = Exchanges(server, session, exchanges)
        try:
            outcome = operation(stage, given)
        except Exception as error:
            outcome = error
        sent = list(server.requests)
    if row == REFUSED:
        assert isinstance(outcome, ValueError) and not sent
        return
    check_requests(sent, [one["request"] for one in exchanges])
    if row == NAMES_OPTIONAL:
        assert isinstance(outcome, types.SampleResponse), repr(outcome)
        assert [one.sequence_id for one in outcome.sequences] == [None] * len(outcome.sequences)
    elif "exception" in expected:
        assert isinstance(outcome, error_class(expected["exception"])), repr(outcome)
    elif isinstance(outcome, Exception):
        pytest.fail(f"raised {outcome!r}")
    else:
        check_result(outcome, expected["result"])
