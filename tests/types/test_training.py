"""Training: encoded bodies, refused parameters and hidden secrets."""

import math

import pytest
from wire_bodies import assert_encoded

from tinkex_sync import APIResponseValidationError, types
from tinkex_sync.protocol import json_wire

LORA = {"rank": 8, "seed": None, "train_unembed": True, "train_mlp": True, "train_attn": True}


@pytest.mark.parametrize(
    ("request_", "body"),
    [
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
                "lora_config": {"rank": 8, "seed": 1, "train_unembed": True, "train_mlp": True, "train_attn": True},
            },
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
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_the_0_7_fields_in_wire_order_without_type(request_, body) -> None:
    assert_encoded(request_, body)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
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
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_fields_of_0_38_only_where_they_are_set(request_, body) -> None:
    assert_encoded(request_, body)


def test_a_dimuon_step_is_sent_as_optimizer_params_without_adam_params() -> None:
    request = types.OptimStepRequest(None, "m", 3, optimizer_params=types.DimuonParams(1e-4))
    assert json_wire.encode(request) == (
        b'{"model_id":"m","optimizer_params":{"type":"dimuon","learning_rate":0.0001,"grad_clip_norm":0.0,"beta1":0.9},'
        b'"seq_id":3}'
    )


def test_the_repr_of_a_request_hides_the_weights_access_token() -> None:
    assert "secret" not in repr(types.LoadWeightsRequest("m", "p", True, "secret"))
    assert "secret" not in repr(types.CreateModelFromWeightsRequest("s", 1, "p", True, weights_access_token="secret"))


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
    assert list(params.to_wire()) == ["learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"]
    assert all(type(value) is float for value in params.to_wire().values())


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="cross_entropy.*'nll'"):
        types.ForwardBackwardInput(data=[], loss_fn="nll")  # type: ignore[arg-type]


def test_metrics_that_arrive_as_null_are_nan() -> None:
    body = {"loss_fn_output_type": "x", "loss_fn_outputs": [], "metrics": {"loss:sum": None, "n": 1}}
    metrics = types.ForwardBackwardOutput.from_wire(body).metrics
    assert math.isnan(metrics["loss:sum"])
    assert metrics["n"] == 1.0
    assert math.isnan(types.OptimStepResponse.from_wire({"metrics": {"grad_norm": None}}).metrics["grad_norm"])
    assert types.OptimStepResponse.from_wire({"metrics": None}).metrics is None
    with pytest.raises(APIResponseValidationError, match=r"metrics\.n: must be a number"):
        types.OptimStepResponse.from_wire({"metrics": {"n": "x"}})
