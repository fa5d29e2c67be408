"""The bodies of all requests, and decoding of futures and events."""

import math
from datetime import datetime, timezone

import pytest

from tinkex_sync import types
from tinkex_sync.protocol import json_wire

NOW = datetime(2025, 1, 2, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (types.SamplingParams(), {"temperature": 1.0, "top_k": -1, "top_p": 1.0}),
        (
            types.SamplingParams(max_tokens=None, stop=[1], temperature=0),
            {"stop": [1], "temperature": 0.0, "top_k": -1, "top_p": 1.0},
        ),
        (
            types.LoraConfig(rank=8),
            {"rank": 8, "seed": None, "train_unembed": True, "train_mlp": True, "train_attn": True},
        ),
        (
            types.CreateModelRequest("s", 0, "b", None, types.LoraConfig(rank=8, seed=1)),
            {
                "session_id": "s",
                "model_seq_id": 0,
                "base_model": "b",
                "user_metadata": {},
                "lora_config": {
                    "rank": 8,
                    "seed": 1,
                    "train_unembed": True,
                    "train_mlp": True,
                    "train_attn": True,
                },
            },
        ),
        (
            types.CreateSamplingSessionRequest("s", 2, base_model="b"),
            {"session_id": "s", "sampling_session_seq_id": 2, "base_model": "b", "model_path": None},
        ),
        (
            types.CreateSessionRequest(tags=["a"], user_metadata={}, sdk_version="0.7.0"),
            {"tags": ["a"], "user_metadata": {}, "sdk_version": "0.7.0"},
        ),
        (types.SaveWeightsRequest("m", "n", seq_id=7), {"model_id": "m", "path": "n", "seq_id": 7}),
        (
            types.SaveWeightsForSamplerRequest("m", sampling_session_seq_id=0, seq_id=1),
            {"model_id": "m", "sampling_session_seq_id": 0, "seq_id": 1},
        ),
        (
            types.LoadWeightsRequest("m", "tinker://r/weights/x", False, seq_id=8),
            {"model_id": "m", "path": "tinker://r/weights/x", "optimizer": False, "seq_id": 8},
        ),
        (
            types.ForwardRequest(types.ForwardBackwardInput([], "cross_entropy"), "m", 1),
            {
                "forward_input": {"data": [], "loss_fn": "cross_entropy", "loss_fn_config": None},
                "model_id": "m",
                "seq_id": 1,
            },
        ),
        (
            types.SampleRequest(
                num_samples=2,
                prompt=types.ModelInput.from_ints([1]),
                sampling_params=types.SamplingParams(),
                sampling_session_id="x",
                seq_id=0,
                prompt_logprobs=False,
            ),
            {
                "num_samples": 2,
                "prompt": {"chunks": [{"tokens": [1]}]},
                "sampling_params": {"temperature": 1.0, "top_k": -1, "top_p": 1.0},
                "sampling_session_id": "x",
                "seq_id": 0,
                "prompt_logprobs": False,
                "topk_prompt_logprobs": 0,
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_the_0_7_fields_in_wire_order_without_type(request_, body) -> None:
    assert list(request_.to_wire().items()) == list(body.items())
    assert json_wire.encode(request_) == json_wire.encode(body)
    assert type(request_).from_wire(body) == request_


LORA = {"rank": 8, "seed": None, "train_unembed": True, "train_mlp": True, "train_attn": True}


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (
            types.CreateSessionRequest([], None, "0.38.0", project_id="p"),
            {"tags": [], "user_metadata": None, "sdk_version": "0.38.0", "project_id": "p"},
        ),
        (
            types.FinishSessionRequest(types.FinishReason("success")),
            {"reason": {"type": "success"}, "detail": None},
        ),
        (types.AssignSessionProjectRequest("p"), {"project_id": "p"}),
        (types.JoinSamplingSessionRequest("s"), {"sampling_session_id": "s"}),
        (types.ServerConfigRequest("0.38.0"), {"sdk_version": "0.38.0"}),
        (types.DynamicConfigRequest("0.38.0"), {"sdk_version": "0.38.0"}),
        (types.AuthTokenRequest(), {}),
        (
            types.CreateModelRequest("s", 0, "b", {}, types.LoraConfig(8), types.DimuonOptimizerConfig()),
            {
                "session_id": "s",
                "model_seq_id": 0,
                "base_model": "b",
                "user_metadata": {},
                "lora_config": LORA,
                "optimizer_config": {"type": "dimuon", "version": 1},
            },
        ),
        (
            types.CreateModelFromWeightsRequest("s", 1, "tinker://r/weights/x", True),
            {"session_id": "s", "model_seq_id": 1, "path": "tinker://r/weights/x", "optimizer": True},
        ),
        (
            types.CreateModelFromWeightsRequest(
                "s", 1, "p", False, "b", {"a": "b"}, types.AdamOptimizerConfig(), "token"
            ),
            {
                "session_id": "s",
                "model_seq_id": 1,
                "path": "p",
                "optimizer": False,
                "base_model": "b",
                "user_metadata": {"a": "b"},
                "optimizer_config": {"type": "adamw"},
                "weights_access_token": "token",
            },
        ),
        (
            types.SaveWeightsRequest("m", "n", 3600, {"a": "b"}, True, 7),
            {
                "model_id": "m",
                "path": "n",
                "ttl_seconds": 3600,
                "user_metadata": {"a": "b"},
                "overwrite": True,
                "seq_id": 7,
            },
        ),
        (
            types.SaveWeightsForSamplerRequest("m", sampling_session_seq_id=0, kind="inflight", seq_id=1),
            {"model_id": "m", "sampling_session_seq_id": 0, "kind": "inflight", "seq_id": 1},
        ),
        (
            types.SaveWeightsExternalRequest("m", "n", None, ["age1"], 2),
            {"model_id": "m", "path": "n", "age_encryption_recipients": ["age1"], "seq_id": 2},
        ),
        (
            types.LoadWeightsRequest("m", "p", True, "token", 4),
            {"model_id": "m", "path": "p", "optimizer": True, "weights_access_token": "token", "seq_id": 4},
        ),
        (types.GetInfoRequest("m"), {"model_id": "m"}),
        (types.UnloadModelRequest("m"), {"model_id": "m"}),
        (types.WeightsInfoRequest("p"), {"tinker_path": "p"}),
        (types.SetCheckpointTtlRequest(None), {"ttl_seconds": None}),
        (
            types.CopyWeightsRequest("p", session_id="s", model_seq_id=2),
            {"source_path": "p", "session_id": "s", "model_seq_id": 2},
        ),
        (types.FutureRetrieveRequest("r"), {"request_id": "r"}),
        (types.FutureRetrieveRequest("r", False), {"request_id": "r", "allow_metadata_only": False}),
        (
            types.FuturesRetrieveRequest(types.FuturesTarget("s", 0), 5, None, ["r"]),
            {
                "target": {"type": "sampling_session", "sampling_session_id": "s", "cloned_sampler_id": 0},
                "prev_cursor": 5,
                "retrieved_request_ids": ["r"],
            },
        ),
        (types.CancelFutureRequest("r"), {"request_id": "r"}),
        (types.SessionHeartbeatRequest("s"), {"session_id": "s"}),
        (
            types.TelemetrySendRequest([], "Linux", "0.38.0", "s", "u"),
            {
                "events": [],
                "platform": "Linux",
                "sdk_version": "0.38.0",
                "session_id": "s",
                "process_uuid": "u",
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_fields_of_0_38_only_where_they_are_set(request_, body) -> None:
    sent = request_.to_wire()
    assert list(sent.items()) == list(body.items())
    assert json_wire.encode(request_) == json_wire.encode(body)
    assert type(request_).from_wire(body) == request_


def test_a_dimuon_step_is_sent_as_optimizer_params_without_adam_params() -> None:
    request = types.OptimStepRequest(None, "m", 3, optimizer_params=types.DimuonParams(1e-4))
    assert json_wire.encode(request) == (
        b'{"model_id":"m","optimizer_params":{"type":"dimuon","learning_rate":0.0001,"grad_clip_norm":0.0,"beta1":0.9},'
        b'"seq_id":3}'
    )


def test_the_repr_of_a_request_hides_the_weights_access_token() -> None:
    assert "secret" not in repr(types.LoadWeightsRequest("m", "p", True, "secret"))
    assert "secret" not in repr(
        types.CreateModelFromWeightsRequest("s", 1, "p", True, weights_access_token="secret")
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1e-9),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("beta1", 1.0),
        ("beta1", -0.1),
        ("beta2", 1.5),
        ("eps", 0.0),
        ("weight_decay", -1.0),
        ("grad_clip_norm", -1.0),
        ("grad_clip_norm", math.inf),
    ],
)
def test_adam_params_out_of_range_name_the_field_and_the_value(name, value) -> None:
    with pytest.raises(ValueError) as caught:
        types.AdamParams(**{name: value})
    assert f"AdamParams.{name}" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_adam_params_at_their_limits_are_accepted() -> None:
    params = types.AdamParams(learning_rate=0, beta1=0, beta2=0.999999, eps=5e-324)
    assert list(params.to_wire()) == [
        "learning_rate",
        "beta1",
        "beta2",
        "eps",
        "weight_decay",
        "grad_clip_norm",
    ]
    assert all(type(value) is float for value in params.to_wire().values())


@pytest.mark.parametrize("name", ["max_token", "temprature"])
def test_a_misspelled_argument_is_refused(name) -> None:
    with pytest.raises(TypeError, match=name):
        types.SamplingParams(**{name: 1})


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="cross_entropy.*'nll'"):
        types.ForwardBackwardInput(data=[], loss_fn="nll")  # type: ignore[arg-type]


def test_unknown_queue_states_are_decoded_as_unknown() -> None:
    reply = types.TryAgainResponse.from_wire({"queue_state": "paused_for_tea", "queue_state_reason": "tea"})
    assert reply.queue_state is types.QueueState.UNKNOWN
    assert reply.queue_state_reason == "tea"
    assert types.TryAgainResponse.from_wire({"queue_state": "active"}).queue_state == "active"
    assert types.QueueState(None) is types.QueueState.UNKNOWN


def test_failed_responses_of_any_shape_are_decoded() -> None:
    failed = types.RequestFailedResponse.from_wire({"error": {"a": 1}, "category": "user_error"})
    assert failed.error == "{'a': 1}"
    assert failed.category is types.RequestErrorCategory.Unknown
    assert types.RequestFailedResponse.from_wire({"error": "e", "category": "user"}).category == "user"


@pytest.mark.parametrize(
    "event",
    [
        types.SessionStartEvent("SESSION_START", "e", 0, "INFO", NOW),
        types.SessionEndEvent("0:00:01", "SESSION_END", "e", 1, "INFO", NOW),
        types.UnhandledExceptionEvent("m", "ValueError", "UNHANDLED_EXCEPTION", "e", 2, "ERROR", NOW),
        types.GenericEvent("GENERIC_EVENT", "e", "name", 3, "WARNING", NOW, {"a": [1]}),
    ],
    ids=lambda event: event.event,
)
def test_events_keep_their_class_through_a_batch(event) -> None:
    batch = types.TelemetrySendRequest([event], "Linux", "0.7.0", "s")
    body = batch.to_wire()
    assert types.TelemetrySendRequest.from_wire(body) == batch
    assert body["events"][0]["timestamp"] == "2025-01-02T00:00:00Z"
    assert ("traceback" in body["events"][0]) == isinstance(event, types.UnhandledExceptionEvent)


@pytest.mark.parametrize(
    ("path", "kind"), [("tinker://r/weights/x", "training"), ("tinker://r/sampler_weights/x", "sampler")]
)
def test_checkpoint_paths_are_split_into_run_and_checkpoint(path, kind) -> None:
    parsed = types.ParsedCheckpointTinkerPath.from_tinker_path(path)
    assert (parsed.training_run_id, parsed.checkpoint_type) == ("r", kind)
    assert f"tinker://r/{parsed.checkpoint_id}" == path
