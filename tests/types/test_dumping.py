"""Dumps of wire types as plain dicts."""

import numpy as np

from tinkex_sync import types

RUN = {
    "training_run_id": "r",
    "base_model": "b",
    "model_owner": "o",
    "is_lora": True,
    "last_request_time": "2025-01-02T03:04:05Z",
}


def test_a_dump_has_every_field_of_0_7_in_declared_order() -> None:
    run = types.TrainingRun.from_wire(RUN).model_dump()
    assert list(run)[:5] == ["training_run_id", "base_model", "model_owner", "is_lora", "corrupted"]
    assert run["lora_rank"] is None
    assert str(run["last_request_time"]) == "2025-01-02 03:04:05+00:00"


def test_fields_of_0_38_are_dumped_only_if_they_are_set() -> None:
    request = types.SaveWeightsRequest("m", "name")
    assert "ttl_seconds" not in request.model_dump()
    assert types.SaveWeightsRequest("m", "name", 60).model_dump()["ttl_seconds"] == 60


def test_arrays_are_dumped_as_lists_and_bytes_as_base64() -> None:
    tensor = types.TensorData(data=np.float32([1, 2]), dtype="float32")
    assert tensor.model_dump()["data"] == [1.0, 2.0]
    assert types.ImageChunk(data=b"\xff\x00", format="png").model_dump()["data"] == "/wA="


def test_excluded_fields_are_left_out_at_every_depth() -> None:
    dumped = types.TrainingRun.from_wire(RUN).model_dump(exclude_defaults=True, exclude_none=True)
    assert set(dumped) == set(RUN)
    response = types.TrainingRunsResponse([types.TrainingRun.from_wire(RUN)], types.Cursor(0, 1, 1))
    (inside,) = response.model_dump(exclude_none=True)["training_runs"]
    assert "lora_rank" not in inside


def test_a_field_that_is_null_only_if_none_was_passed_has_the_default_none() -> None:
    described = types.ImageChunk.model_fields["expected_tokens"]
    assert (described.is_required(), described.get_default()) == (False, None)
    assert types.ImageChunk.model_fields["data"].is_required()
