"""Replay of requests: the requests of each operation in order, and its result.

Operations are called through ``tinkex_sync.compat`` with the recorded arguments. The recording continues its counters
(of models, samplers and operations) from case to case. Each replay reads their values from the recorded requests.
"""

import dataclasses
import itertools
import json
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, List, Optional
from urllib.parse import quote

import pytest
from scripted_server import API, Answer, Request, ScriptedServer

import tinkex_sync.compat as tinker
from tinkex_sync import SamplingClient, TrainingClient, errors, types
from tinkex_sync.compat.sampling import SamplingClient as OfficialSampling
from tinkex_sync.compat.training import TrainingClient as OfficialTraining
from tinkex_sync.http.request import Request as OurRequest
from tinkex_sync.types.wire import Wire

from .registry import error_class, no_excuse, not_understood, only, replay
from .replay_datums import make_chunk

KEY = "tml-test-key"
VARIABLES = ("TINKER_API_KEY", "TINKER_TAGS", "CLOUDFLARE_ACCESS_CLIENT_ID", "CLOUDFLARE_ACCESS_CLIENT_SECRET")
#: Headers that are compared. Row 18 excludes those that identify the client.
HEADERS = ("accept", "content-type", "x-api-key", "cf-access-client-id", "cf-access-client-secret", "x-extra")
COUNTERS = ("model_seq_id", "sampling_session_seq_id")
SESSION = Answer(body={"type": "create_session", "session_id": "sess-1"})


def make_input(spec: Dict[str, Any]) -> types.ModelInput:
    only(spec, "from_ints", "chunks")
    if "from_ints" in spec:
        return types.ModelInput.from_ints(spec["from_ints"])
    return types.ModelInput(chunks=[make_chunk(one) for one in spec["chunks"]])


def make_datum(spec: Dict[str, Any]) -> types.Datum:
    only(spec, "model_input", "loss_fn_inputs")
    return types.Datum(model_input=make_input(spec["model_input"]), loss_fn_inputs=spec["loss_fn_inputs"])


def sampling_params(spec: Dict[str, Any]) -> types.SamplingParams:
    known = set(vars(types.SamplingParams()))
    # Unknown fields are ignored in responses. In arguments of a user they raise TypeError.
    return types.SamplingParams(**{name: value for name, value in spec.items() if name in known})


#: Constructors of arguments from their recorded form. Other arguments are passed unchanged.
ARGUMENTS: Dict[str, Callable[[Any], Any]] = {
    "data": lambda specs: [make_datum(spec) for spec in specs],
    "adam_params": lambda spec: types.AdamParams(**spec),
    "prompt": make_input,
    "sampling_params": sampling_params,
}
TRAINING = {
    *("forward", "forward_backward", "optim_step", "save_state", "load_state", "load_state_with_optimizer"),
    *("save_weights_for_sampler", "save_weights_and_get_sampling_client", "get_info"),
}
SAMPLING = {"sample", "compute_logprobs"}
SERVICE = {
    *("get_server_capabilities", "create_lora_training_client", "create_sampling_client"),
    *("create_training_client_from_state", "create_training_client_from_state_with_optimizer"),
}


class Client:
    """A compat service client and a server that returns the recorded responses in order."""

    def __init__(self, server: ScriptedServer, exchanges: List[Dict[str, Any]]) -> None:
        self.server = server
        self.bodies = [one["request"]["body"] or {} for one in exchanges]
        self.service = tinker.ServiceClient(base_url=server.base_url)
        server.clear()
        script(server, exchanges)
        self.session = self.service.holder.session
        for name in COUNTERS:
            first = self.first(name)
            if first is not None:
                self.session._counters[name] = itertools.count(first)

    def first(self, name: str, default: Any = None) -> Any:
        return next((body[name] for body in self.bodies if name in body), default)

    def training(self) -> OfficialTraining:
        model = self.first("model_id", "model-1")
        core = TrainingClient(self.session, model, first_seq_id=self.first("seq_id", 1))
        return OfficialTraining.from_native(self.service.holder, core)

    def sampling(self) -> OfficialSampling:
        core = SamplingClient(self.session, self.first("sampling_session_id", "sess-1:sample:0"))
        core._context = dataclasses.replace(core._context, seq_ids=itertools.count(self.first("seq_id", 0)))
        return OfficialSampling.from_native(self.service.holder, core)

    def call(self, op: str, args: Dict[str, Any]) -> Any:
        made = {name: ARGUMENTS.get(name, lambda value: value)(value) for name, value in args.items()}
        owner, _, name = op.rpartition(".")
        if op in TRAINING or owner == "training":
            result = getattr(self.training(), name)(**made)
        elif op in SAMPLING:
            result = getattr(self.sampling(), name)(**made)
        elif op in SERVICE:
            result = getattr(self.service, name)(**made)
        elif owner == "rest":
            result = getattr(self.service.create_rest_client(), name)(**made)
        elif owner.startswith("AsyncTinker."):
            return self.resource(owner.partition(".")[2], name, made)
        elif op == "heartbeat":
            return self.session.call(OurRequest("session_heartbeat", {"session_id": self.session.session_id})) and None
        else:
            return not_understood(f"operation {op}")
        return result.result(30) if hasattr(result, "result") else result

    def resource(self, resource: str, name: str, args: Dict[str, Any]) -> Any:
        """Call an endpoint that the official low-level client has as a resource method."""
        if (resource, name) == ("service", "health_check"):
            return self.session.call(OurRequest("healthz"))
        if (resource, name) == ("models", "unload"):
            only(args, "model_id", "idempotency_key")
            key = args.pop("idempotency_key", None)
            return self.session.call(OurRequest("unload_model", args, **({"idempotency_key": key} if key else {})))
        return not_understood(f"resource {resource}.{name}")


def script(server: ScriptedServer, exchanges: List[Dict[str, Any]]) -> None:
    for one in exchanges:
        answer = one["response"]
        body, text = answer["body"], None
        if isinstance(body, str):
            body, text = None, body
        path = one["request"]["path"].partition(API)[2]
        given = Answer(answer["status"], body, text=text, headers=answer.get("headers", {}))
        server.script(path, server.noted(given) if path == "session_heartbeat" else given)


@replay("requests")
def requests(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "op", "args", "env", "server", "note")
    expected = only(case["expected"], "exchanges", "returned", "raised", "message")
    no_excuse(row, 1, 2, 6, 8, 12, 13, 14, 16, 18, 19, 20)
    exchanges = expected.get("exchanges", [])
    args = dict(given.get("args", {}))
    if given["op"] == "telemetry flush":
        assert row in (None, 12)
        reported(exchanges)
        return
    with pytest.MonkeyPatch.context() as patch, ScriptedServer() as server:
        environment(patch, given.get("env", {}))
        server.defaults["create_session"] = SESSION
        outcome: Any = None
        service = None
        try:
            if given["op"] == "ServiceClient":
                script(server, exchanges)
                if "base_url" in args:
                    args["base_url"] = args["base_url"].replace("<base>", server.base_url)
                service = outcome = tinker.ServiceClient(**{"base_url": server.base_url, **args})
            else:
                world = Client(server, exchanges)
                service = world.service
                if row == 14:
                    saved_by_name(world, args)
                    return
                outcome = world.call(given["op"], args)
        except Exception as error:
            outcome = error
        finally:
            if service is not None:
                service.holder.close()
        check_outcome(outcome, expected, row)
        if row == 16 and exchanges:
            check_row_16(server.requests, given)
            return
        recorded = [one["request"] for one in exchanges]
        check_requests(server.requests, recorded, KEY if row != 2 else args["api_key"])


def environment(patch: pytest.MonkeyPatch, changes: Dict[str, Optional[str]]) -> None:
    patch.setenv("TINKER_API_KEY", KEY)
    patch.setenv("TINKEX_SYNC_PROTOCOL", "0.7")
    for name, value in changes.items():
        if name not in VARIABLES:
            not_understood(f"variable {name}")
        if value is None:
            patch.delenv(name, raising=False)
        else:
            patch.setenv(name, value)


def check_requests(ours: List[Request], recorded: List[Dict[str, Any]], key: str) -> None:
    assert [(one.method, one.path, one.query) for one in ours] == [
        (one["method"], one["path"], one["query"]) for one in recorded
    ]
    for mine, theirs in zip(ours, recorded):
        assert filled(mine.body) == filled(theirs["body"])
        for name in HEADERS:
            reference = theirs["headers"].get(name)
            if isinstance(reference, list):
                reference = ", ".join(reference)
            if name == "content-type" and mine.body is None:
                continue  # There is no content.
            assert mine.headers.get(name) == (key if name == "x-api-key" else reference), name
        ids = theirs["headers"].get("x-idempotency-key"), mine.headers.get("x-idempotency-key")
        assert (ids[0] is None) == (ids[1] is None)
        if ids[0] not in (None, "<any>"):
            assert ids[1] == ids[0]
        tagged = {name: value for name, value in mine.headers.items() if name.startswith("x-tinker-")}
        reference = {name: value for name, value in theirs["headers"].items() if name.startswith("x-tinker-")}
        assert {
            name: reference[name] if reference.get(name) == "<any>" else value for name, value in tagged.items()
        } == reference


def filled(body: Any) -> Any:
    """Rows 1 and 20: return a body with all defaults and without optional empty fields."""
    if not isinstance(body, dict):
        return body
    made = dict(body)
    for name, kind in (("adam_params", types.AdamParams), ("sampling_params", types.SamplingParams)):
        if name in made:
            written = {one: value for one, value in made[name].items() if value is not None}
            made[name] = {**kind().to_wire(), **written}
    if "lora_config" in made:
        made["lora_config"] = {one: value for one, value in made["lora_config"].items() if value is not None}
    if "user_metadata" in made:
        made["user_metadata"] = made["user_metadata"] or {}
    return made


def plain(value: Any) -> Any:
    if isinstance(value, Wire):
        return {name: plain(inner) for name, inner in vars(value).items()}
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return getattr(value, "value", value)


def check_outcome(outcome: Any, expected: Dict[str, Any], row: Optional[int]) -> None:
    if row == 19:
        # Both a redirect and a JSON body give the URL of the archive. The expiry has a time zone.
        assert_archive(outcome, expected)
        return
    if "raised" in expected:
        assert isinstance(outcome, Exception), repr(outcome)
        if row == 16:
            assert isinstance(outcome, errors.APIStatusError)
            return
        assert isinstance(outcome, error_class(expected["raised"])), repr(outcome)
        if expected.get("message", "").startswith("Error code"):
            assert str(outcome).startswith(expected["message"])
        return
    if isinstance(outcome, Exception):
        raise outcome
    returned = expected.get("returned")
    if isinstance(returned, dict) and "$class" in returned:
        assert type(outcome).__name__ == returned["$class"]
        check_fields(plain(outcome), {name: value for name, value in returned.items() if name != "$class"})
    else:
        assert plain(outcome) == returned


def check_fields(ours: Any, theirs: Dict[str, Any]) -> None:
    """Assert that a result contains the recorded fields. Fields of protocol 0.38.0 may be present and empty."""
    for name, value in theirs.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            assert len(ours[name]) == len(value)
            for mine, one in zip(ours[name], value):
                check_fields(mine, one)
        elif isinstance(value, dict):
            check_fields(ours[name], value)
        elif name == "expires":
            assert_expires(ours[name], value)
        else:
            assert ours[name] == value, name


def assert_expires(ours: str, theirs: str) -> None:
    if theirs.startswith("<now + 15 min"):
        left = datetime.fromisoformat(ours.replace("Z", "+00:00")) - datetime.now(timezone.utc)
        assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    else:
        assert ours.endswith("Z") and ours.rstrip("Z") == theirs.rstrip("Z")


def assert_archive(outcome: Any, expected: Dict[str, Any]) -> None:
    if isinstance(outcome, types.CheckpointArchiveUrlResponse):
        assert outcome.url and outcome.expires.tzinfo is not None
        if "returned" in expected:
            assert outcome.url == expected["returned"]["url"]
        return
    # A response without a URL raises an APIError.
    assert "raised" in expected and isinstance(outcome, errors.APIError), repr(outcome)


def check_row_16(sent: List[Request], given: Dict[str, Any]) -> None:
    """Assert that empty tags are omitted and that parts of a path are quoted."""
    if given.get("env", {}).get("TINKER_TAGS") is not None:
        assert sent[0].body["tags"] == []
        return
    parts = [quote(str(value), safe=":/") for value in given["args"].values()]
    raw = [quote(str(value), safe=":") for value in given["args"].values()]
    assert not sent[0].query
    assert any(part in sent[0].raw_path for part in (*parts, *raw)), sent[0].raw_path


def saved_by_name(world: Client, args: Dict[str, Any]) -> None:
    """Row 14: assert that weights are saved under the given name and that the sampler uses them."""
    server, name = world.server, args["name"]
    server.clear()
    path = f"tinker://model-1/sampler_weights/{name}"
    server.script("save_weights_for_sampler", Answer(body={"request_id": "req-1"}))
    server.script("retrieve_future", Answer(body={"type": "save_weights_for_sampler", "path": path}))
    server.script("create_sampling_session", Answer(body={"sampling_session_id": "sess-1:sample:9"}))
    outcome = world.call("save_weights_and_get_sampling_client", args)
    assert type(outcome).__name__ == "SamplingClient"
    assert server.sent("save_weights_for_sampler")[0].body["path"] == name
    assert server.sent("create_sampling_session")[0].body["model_path"] == path
    world.service.holder.close()


def reported(exchanges: List[Dict[str, Any]]) -> None:
    """Row 12: assert that telemetry sends the recorded keys once it is turned on."""
    with pytest.MonkeyPatch.context() as patch, ScriptedServer() as server:
        environment(patch, {})
        server.defaults["create_session"] = SESSION
        server.defaults["telemetry"] = Answer(body={"status": "accepted"})
        service = tinker.ServiceClient(base_url=server.base_url, telemetry=True)
        service.holder.close()
        (sent,) = server.sent("telemetry")
    recorded = exchanges[0]["request"]
    assert (sent.method, sent.path) == (recorded["method"], recorded["path"])
    assert set(sent.body) == set(recorded["body"])
    first = recorded["body"]["events"][0]
    assert sent.body["events"][0]["event"] == first["event"]
    assert set(sent.body["events"][0]) == set(first)
    assert json.dumps(sent.body["session_id"]) == json.dumps("sess-1")
