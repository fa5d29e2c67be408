"""Sessions, sampling sessions and capabilities: encoded bodies and decoded responses."""

import pytest
from wire_bodies import assert_encoded

from tinkex_sync import APIResponseValidationError, types


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (
            types.CreateSamplingSessionRequest("s", 2, base_model="b"),
            {"session_id": "s", "sampling_session_seq_id": 2, "base_model": "b", "model_path": None},
        ),
        (
            types.CreateSessionRequest(tags=["a"], user_metadata={}, sdk_version="0.7.0"),
            {"tags": ["a"], "user_metadata": {}, "sdk_version": "0.7.0"},
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
            types.CreateSessionRequest([], None, "0.38.0", project_id="p"),
            {"tags": [], "user_metadata": None, "sdk_version": "0.38.0", "project_id": "p"},
        ),
        (types.FinishSessionRequest(types.FinishReason("success")), {"reason": {"type": "success"}, "detail": None}),
        (types.AssignSessionProjectRequest("p"), {"project_id": "p"}),
        (types.JoinSamplingSessionRequest("s"), {"sampling_session_id": "s"}),
        (types.SessionHeartbeatRequest("s"), {"session_id": "s"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_fields_of_0_38_only_where_they_are_set(request_, body) -> None:
    assert_encoded(request_, body)


def test_messages_of_a_created_session_are_none_if_the_server_sends_none() -> None:
    created = types.CreateSessionResponse.from_wire({"session_id": "s", "warning_message": "old"})
    assert (created.session_id, created.warning_message, created.error_message) == ("s", "old", None)


def test_a_health_response_other_than_ok_is_refused() -> None:
    assert types.HealthResponse.from_wire({"status": "ok"}).status == "ok"
    with pytest.raises(APIResponseValidationError, match="status"):
        types.HealthResponse.from_wire({"status": "degraded"})


def test_supported_models_keep_only_the_fields_that_the_server_sent() -> None:
    body = {"supported_models": [{"model_name": "a"}, {"model_name": "b", "max_context_length": 32768}]}
    capabilities = types.GetServerCapabilitiesResponse.from_wire(body)
    assert capabilities.to_wire() == body
    assert capabilities.supported_models[0].max_context_length is None
