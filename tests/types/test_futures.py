"""Server futures: encoded polls, and decoding of unfinished and failed operations."""

from datetime import datetime, timezone

import pytest
from wire_bodies import assert_encoded

from tinkex_sync import APIResponseValidationError, types

NOW = datetime(2025, 1, 2, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
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
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_fields_of_0_38_only_where_they_are_set(request_, body) -> None:
    assert_encoded(request_, body)


def test_unknown_queue_states_are_decoded_as_unknown() -> None:
    response = types.TryAgainResponse.from_wire({"queue_state": "paused_for_tea", "queue_state_reason": "tea"})
    assert response.queue_state is types.QueueState.UNKNOWN
    assert response.queue_state_reason == "tea"
    assert types.TryAgainResponse.from_wire({"queue_state": "active"}).queue_state == "active"
    assert types.QueueState(None) is types.QueueState.UNKNOWN


def test_failed_responses_of_any_shape_are_decoded() -> None:
    failed = types.RequestFailedResponse.from_wire({"error": {"a": 1}, "category": "user_error"})
    assert failed.error == "{'a': 1}"
    assert failed.category is types.RequestErrorCategory.Unknown
    assert types.RequestFailedResponse.from_wire({"error": "e", "category": "user"}).category == "user"


def test_an_accepted_operation_is_known_by_its_request_id() -> None:
    accepted = types.UntypedAPIFuture.from_wire({"request_id": "r", "model_id": "m", "sample_sequence_ids": ["a"]})
    assert (accepted.request_id, accepted.model_id, accepted.sample_sequence_ids) == ("r", "m", ["a"])
    with pytest.raises(APIResponseValidationError, match="request_id"):
        types.UntypedAPIFuture.from_wire({})


def test_an_unfinished_operation_without_keys_has_an_unknown_queue_state() -> None:
    response = types.TryAgainResponse.from_wire({})
    assert (response.queue_state, response.request_id) == (types.QueueState.UNKNOWN, None)
    assert str(types.QueueState.PAUSED_CAPACITY) == "paused_capacity"
