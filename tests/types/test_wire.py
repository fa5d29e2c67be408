"""Rules of all wire types, and the gaps of dataclasses-json that their decoders close."""

import dataclasses
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import List, Literal, Optional, Union

import pytest
from dataclasses_json import DataClassJsonMixin

from tinkex_sync import types
from tinkex_sync.errors import APIResponseValidationError
from tinkex_sync.types import wire

PUBLIC = [getattr(types, name) for name in types.__all__]
WIRE_TYPES = [kind for kind in PUBLIC if isinstance(kind, type) and issubclass(kind, wire.Wire)]

RUN = {
    "training_run_id": "r",
    "base_model": "b",
    "model_owner": "o",
    "is_lora": True,
    "last_request_time": "2025-01-02T03:04:05Z",
}


@pytest.mark.parametrize("kind", WIRE_TYPES, ids=lambda kind: kind.__name__)
def test_every_type_is_a_frozen_dataclass_with_a_strict_decoder_for_each_field(kind) -> None:
    assert issubclass(kind, DataClassJsonMixin)
    assert kind.__dataclass_params__.frozen
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("), "a docstring of its own"
    for field in dataclasses.fields(kind):
        own = field.metadata["dataclasses_json"]
        assert own["decoder"] and own["encoder"]


def test_only_one_module_imports_dataclasses_json() -> None:
    package = Path(types.__file__).parents[1]
    found = [path for path in package.rglob("*.py") if "dataclasses_json" in path.read_text()]
    assert [path.name for path in found] == ["wire.py"]


@pytest.mark.parametrize("kind", [types.TrainingRun, types.CreateModelRequest, types.CheckpointsListResponse])
def test_types_off_the_hot_paths_are_coded_by_dataclasses_json(kind) -> None:
    assert issubclass(kind, wire.Wire)
    assert not issubclass(kind, wire.FastWire)


def test_all_public_names_of_the_protocol_exist() -> None:
    # The names of tinker.types in the official SDK 0.7.0, and four names that the official SDK has in submodules
    names = """
    AdamParams Checkpoint CheckpointArchiveUrlResponse CheckpointType CheckpointsListResponse
    CreateModelRequest CreateModelResponse CreateSamplingSessionRequest CreateSamplingSessionResponse
    CreateSessionRequest CreateSessionResponse Cursor Datum EncodedTextChunk EventType ForwardBackwardInput
    ForwardBackwardOutput ForwardBackwardRequest ForwardRequest FutureRetrieveRequest FutureRetrieveResponse
    GetInfoRequest GetInfoResponse GetSamplerResponse GetServerCapabilitiesResponse GetSessionResponse
    HealthResponse ImageAssetPointerChunk ImageChunk ListSessionsResponse LoadWeightsRequest LoadWeightsResponse
    LoraConfig LossFnInputs LossFnOutput LossFnType ModelData ModelID ModelInput ModelInputChunk OptimStepRequest
    OptimStepResponse ParsedCheckpointTinkerPath RequestErrorCategory RequestFailedResponse RequestID
    SampleRequest SampleResponse SampledSequence SamplingParams SaveWeightsForSamplerRequest
    SaveWeightsForSamplerResponse SaveWeightsForSamplerResponseInternal SaveWeightsRequest SaveWeightsResponse
    SessionEndEvent SessionHeartbeatRequest SessionHeartbeatResponse SessionStartEvent Severity StopReason
    SupportedModel TelemetryBatch TelemetryEvent TelemetryResponse TelemetrySendRequest TensorData TensorDtype
    TrainingRun TrainingRunsResponse UnhandledExceptionEvent UnloadModelRequest UnloadModelResponse
    UntypedAPIFuture WeightsInfoResponse TryAgainResponse GenericEvent QueueState
    """
    since_0_38 = """AdamOptimizerConfig AuthTokenResponse CopyWeightsResponse DimuonOptimizerConfig DimuonParams
    DynamicConfigResponse ExternalWeightsUrlsResponse JoinSamplingSessionResponse
    OptimParams OptimizerConfig PromptAltTokens SaveWeightsExternalResponse ServerConfigResponse
    AssignSessionProjectRequest AuthTokenRequest CancelFutureRequest CopyWeightsRequest
    CreateModelFromWeightsRequest DynamicConfigRequest FinishReason FinishSessionRequest FuturesRetrieveRequest
    FuturesTarget JoinSamplingSessionRequest SaveWeightsExternalRequest ServerConfigRequest
    SetCheckpointTtlRequest TopkLogprobs"""
    ours = "WeightsInfoRequest"  # names for which the official SDK has no class
    assert {*names.split(), *since_0_38.split(), *ours.split()} == set(types.__all__), "add new names to a list above"


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        (types.SampleResponse, {"sequences": [{"stop_reason": "stop", "tokens": [1, "x"]}]}, "sequences[0].tokens"),
        (types.SampleResponse, {"sequences": [{"stop_reason": "stop", "tokens": None}]}, "sequences[0].tokens"),
        (types.SampleResponse, {"sequences": [{"stop_reason": "eos", "tokens": []}]}, "sequences[0].stop_reason"),
        (types.SampleResponse, {"sequences": [{"stop_reason": "stop"}]}, "sequences[0].tokens"),
        (types.SampleResponse, {"sequences": [{}, 5]}, "sequences[0].stop_reason"),
        (types.SampleResponse, {"sequences": {}}, "sequences"),
        (types.SampleResponse, {"sequences": [], "topk_prompt_logprobs": [None, [[1]]]}, "topk_prompt_logprobs[1]"),
        (types.SampleResponse, {"sequences": [], "prompt_logprobs": [None, "x"]}, "prompt_logprobs"),
        (types.ModelInput, {"chunks": [{"tokens": [1]}, {"format": "png"}]}, "chunks[1]"),
        (types.ModelInput, {"chunks": [{"tokens": [1.5]}]}, "chunks[0].tokens"),
        (types.TrainingRun, {**RUN, "last_request_time": "yesterday"}, "last_request_time"),
        (types.TrainingRun, {**RUN, "last_checkpoint": {"checkpoint_id": "x"}}, "last_checkpoint.checkpoint_type"),
        (types.TrainingRun, {**RUN, "is_lora": "maybe"}, "is_lora"),
        (types.OptimStepResponse, {"metrics": {"a": "x"}}, "metrics.a"),
        (types.OptimStepResponse, None, ""),
        (types.OptimStepResponse, [1], ""),
        (
            types.ForwardBackwardOutput,
            {
                "loss_fn_output_type": "t",
                "metrics": {},
                "loss_fn_outputs": [{}, {"lp": {"data": [None], "dtype": "float32"}}],
            },
            "loss_fn_outputs[1].lp.data",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_path(kind, body, path) -> None:
    with pytest.raises(APIResponseValidationError) as caught:
        kind.from_wire(body)
    assert caught.value.path == path
    assert path in str(caught.value)
    assert caught.value.body == body


def test_unknown_keys_are_ignored_at_every_depth() -> None:
    checkpoint = {"checkpoint_id": "c", "checkpoint_type": "training", "time": None, "tinker_path": "p", "new": [1]}
    run = types.TrainingRun.from_wire({**RUN, "new": {}, "last_checkpoint": checkpoint})
    assert run.last_checkpoint is not None
    assert run.last_checkpoint.time is None


def test_fields_cannot_be_assigned() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        types.ModelInput.empty().chunks = []  # type: ignore[misc]


def test_pickle_keeps_the_values_and_the_body() -> None:
    image = types.ImageChunk(data=b"x", format="png", expected_tokens=None)
    again = pickle.loads(pickle.dumps(image))
    assert again == image
    assert again.to_wire() == image.to_wire()


def test_the_repr_of_long_data_is_short() -> None:
    response = types.SampleResponse(
        sequences=[types.SampledSequence("stop", list(range(100_000)), [0.5] * 100_000)], prompt_logprobs=[None] * 5000
    )
    chunk = types.ImageChunk(data=bytes(100_000), format="png")
    assert len(repr(response)) < 600
    assert "100000 in all" in repr(response)
    assert len(repr(chunk)) < 100
    assert str(response) == repr(response)


def test_to_json_and_from_json_follow_the_same_rules() -> None:
    params = types.SamplingParams(max_tokens=5, stop=["a"])
    assert types.SamplingParams.from_json(params.to_json()) == params
    image = types.ImageChunk(data=b"\xff\x00", format="png")
    assert types.ImageChunk.from_json(image.to_json()) == image


# Each test pins a gap of dataclasses-json, which a new release may change, and the strict behaviour of our types.


@dataclass
class _Flag(DataClassJsonMixin):
    on: bool


@dataclass
class _A(DataClassJsonMixin):
    x: int


@dataclass
class _B(DataClassJsonMixin):
    x: int


@dataclass
class _Either(DataClassJsonMixin):
    one: Union[_A, _B]


@dataclass
class _Mode(DataClassJsonMixin):
    mode: Literal["a", "b"]
    note: Optional[str] = None
    items: Optional[List[int]] = None


def test_the_string_false_is_false() -> None:
    assert _Flag.from_dict({"on": "false"}).on is True
    assert types.WeightsInfoResponse.from_wire({"base_model": "b", "is_lora": "false"}).is_lora is False


def test_a_union_is_decoded_by_its_keys() -> None:
    assert isinstance(_Either.from_dict({"one": {"x": 1, "type": "_B"}}).one, _A)
    read = types.ModelInput.from_wire({"chunks": [{"format": "png", "location": "l"}, {"format": "png", "data": ""}]})
    assert [type(chunk) for chunk in read.chunks] == [types.ImageAssetPointerChunk, types.ImageChunk]


def test_null_for_a_required_field_is_refused() -> None:
    with pytest.warns(RuntimeWarning):
        assert _Flag.from_dict({"on": None}).on is None
    with pytest.raises(APIResponseValidationError):
        types.WeightsInfoResponse.from_wire({"base_model": "b", "is_lora": None})


def test_an_unknown_literal_is_refused() -> None:
    assert _Mode.from_dict({"mode": "c"}).mode == "c"
    with pytest.raises(APIResponseValidationError):
        types.HealthResponse.from_wire({"status": "sick"})


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(KeyError):
        _Flag.from_dict({})
    with pytest.raises(APIResponseValidationError):
        types.WeightsInfoResponse.from_wire({})
