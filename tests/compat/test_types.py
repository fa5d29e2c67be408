"""The pydantic methods of the types: dumping, validating and copying."""

import datetime
import json
import pickle

import pytest

from tinkex_sync.compat import types

PROMPT = types.ModelInput(
    chunks=[
        types.EncodedTextChunk(tokens=[1, 2]),
        types.ImageChunk(data=b"\xff\x00", format="png"),
        types.ImageAssetPointerChunk(format="png", location="x", expected_tokens=3),
    ]
)
TEXT = {"tokens": [1, 2], "type": "encoded_text"}
IMAGE = {"data": "/wA=", "format": "png", "expected_tokens": None, "type": "image"}
POINTER = {"format": "png", "location": "x", "expected_tokens": 3, "type": "image_asset_pointer"}
CHECKPOINT = types.Checkpoint(
    checkpoint_id="a",
    checkpoint_type="training",
    time=datetime.datetime(2025, 1, 1, tzinfo=datetime.timezone.utc),
    tinker_path="b",
)


def test_a_dump_contains_every_field():
    assert PROMPT.model_dump() == {"chunks": [TEXT, IMAGE, POINTER]}
    assert PROMPT.model_dump(mode="json") == PROMPT.model_dump()
    assert json.loads(PROMPT.model_dump_json()) == PROMPT.model_dump()
    datum = types.Datum(model_input=types.ModelInput.from_ints([1]), loss_fn_inputs={"target_tokens": [3]})
    assert '"target_tokens":{"data":[3],"dtype":"int64",' in datum.model_dump_json()
    dumped = json.loads(datum.model_dump_json())
    assert dumped["loss_fn_inputs"]["target_tokens"]["shape"] == [1]
    assert dumped["model_input"] == {"chunks": [{"tokens": [1], "type": "encoded_text"}]}


def test_a_dump_can_exclude_defaults_and_none():
    params = types.SamplingParams(max_tokens=3)
    assert params.model_dump(exclude_none=True) == {"max_tokens": 3, "temperature": 1.0, "top_k": -1, "top_p": 1.0}
    assert params.model_dump(exclude_unset=True) == {"max_tokens": 3}
    assert params.model_dump(exclude_defaults=True) == {"max_tokens": 3}
    assert params.model_dump(include={"seed", "top_k"}) == {"seed": None, "top_k": -1}
    assert params.model_dump(include={"seed", "top_k"}, exclude={"seed"}) == {"top_k": -1}
    inside = PROMPT.model_dump(exclude_unset=True)["chunks"]
    assert inside[:2] == [{"tokens": [1, 2]}, {"data": "/wA=", "format": "png"}]
    with pytest.raises(ValueError, match="python"):
        params.model_dump(mode="yaml")


def test_a_python_dump_keeps_types_that_json_does_not_have():
    failed = types.RequestFailedResponse(error="x", category="user")
    assert failed.model_dump()["category"] is types.RequestErrorCategory.User
    assert type(failed.model_dump(mode="json")["category"]) is str
    assert CHECKPOINT.model_dump()["time"] == CHECKPOINT.time
    assert json.loads(CHECKPOINT.model_dump_json(indent=1))["time"] == "2025-01-01T00:00:00Z"
    assert CHECKPOINT.model_dump_json(indent=1).startswith('{\n "checkpoint_id": "a",\n')
    sample = types.SampleResponse.model_validate({"sequences": [], "topk_prompt_logprobs": [[[1, 2.0]], None]})
    assert sample.model_dump()["topk_prompt_logprobs"] == [[(1, 2.0)], None]
    assert sample.model_dump(mode="json")["topk_prompt_logprobs"] == [[[1, 2.0]], None]


def test_a_dump_can_be_validated_again():
    for value in (PROMPT, CHECKPOINT, types.SamplingParams(stop=["a"], seed=1)):
        cls = type(value)
        assert cls.model_validate(value.model_dump()) == value
        assert cls.model_validate_json(value.model_dump_json()) == value
        assert cls.model_validate(value) is value
        assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(ValueError, match="max_tokens"):
        types.SamplingParams.model_validate({"max_tokens": "many"})
    with pytest.raises(ValueError, match="object"):
        types.SamplingParams.model_validate(["max_tokens"])
    with pytest.raises(ValueError, match="Expecting"):
        types.SamplingParams.model_validate_json("{")


def test_a_copy_with_other_values_is_validated_and_sends_no_further_fields():
    params = types.SamplingParams(max_tokens=3)
    assert params.model_copy(update={"max_tokens": 5}).max_tokens == 5
    assert params.model_copy() == params
    assert params.max_tokens == 3
    for value in (params, PROMPT.chunks[1], types.TensorData(data=[1], dtype="int64"), CHECKPOINT):
        name = "format" if hasattr(value, "format") else next(iter(type(value).model_fields))
        assert value.model_copy(update={name: getattr(value, name)}).to_wire() == value.to_wire()
    null = types.ImageChunk(data=b"1", format="png", expected_tokens=None)
    assert null.model_copy(update={"format": "jpeg"}).to_wire()["expected_tokens"] is None
    deep = PROMPT.model_copy(deep=True)
    assert deep == PROMPT
    assert deep.chunks[0] is not PROMPT.chunks[0]
    with pytest.raises(ValueError, match="max_tokens"):
        params.model_copy(update={"max_tokens": "many"})
    with pytest.raises(ValueError, match="no field 'max_token'"):
        params.model_copy(update={"max_token": 5})


def test_model_fields_describe_the_fields():
    fields = types.AdamParams.model_fields
    assert fields["learning_rate"].default == 1e-4
    assert fields["learning_rate"].annotation is float
    assert list(fields)[:3] == ["learning_rate", "beta1", "beta2"]
    assert types.LoraConfig.model_fields["rank"].is_required()
    assert types.LoraConfig.model_fields["seed"].get_default() is None
    assert types.ImageChunk.model_fields["expected_tokens"].default is None
