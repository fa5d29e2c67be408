"""What requests put on the wire, and what futures and events read from it."""

import math
from datetime import datetime, timezone

import pytest

from tinkex_sync import types

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
        (types.SaveWeightsRequest("m", "n", 7), {"model_id": "m", "path": "n", "seq_id": 7}),
        (
            types.SaveWeightsForSamplerRequest("m", sampling_session_seq_id=0, seq_id=1),
            {"model_id": "m", "sampling_session_seq_id": 0, "seq_id": 1},
        ),
        (
            types.LoadWeightsRequest("m", "tinker://r/weights/x", False, 8),
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
def test_bodies_in_wire_order_without_type_tags(request_, body) -> None:
    assert list(request_.to_wire().items()) == list(body.items())
    assert type(request_).from_wire(body) == request_


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


def test_adam_params_at_the_edges_are_fine() -> None:
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


def test_queue_states_we_do_not_know_read_as_unknown() -> None:
    reply = types.TryAgainResponse.from_wire({"queue_state": "paused_for_tea", "queue_state_reason": "tea"})
    assert reply.queue_state is types.QueueState.UNKNOWN
    assert reply.queue_state_reason == "tea"
    assert types.TryAgainResponse.from_wire({"queue_state": "active"}).queue_state == "active"
    assert types.QueueState(None) is types.QueueState.UNKNOWN


def test_failures_of_any_shape_are_read() -> None:
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
def test_events_travel_in_batches_and_keep_their_kind(event) -> None:
    batch = types.TelemetrySendRequest([event], "Linux", "0.7.0", "s")
    body = batch.to_wire()
    assert types.TelemetrySendRequest.from_wire(body) == batch
    assert body["events"][0]["timestamp"] == "2025-01-02T00:00:00Z"
    assert ("traceback" in body["events"][0]) == isinstance(event, types.UnhandledExceptionEvent)


@pytest.mark.parametrize(
    ("path", "kind"), [("tinker://r/weights/x", "training"), ("tinker://r/sampler_weights/x", "sampler")]
)
def test_paths_come_apart(path, kind) -> None:
    parsed = types.ParsedCheckpointTinkerPath.from_tinker_path(path)
    assert (parsed.training_run_id, parsed.checkpoint_type) == ("r", kind)
    assert f"tinker://r/{parsed.checkpoint_id}" == path
