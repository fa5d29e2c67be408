"""The configuration of a server of protocol 0.38.0, and bearer tokens."""

import pytest
from wire_bodies import assert_encoded

from tinkex_sync import APIResponseValidationError, types


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (types.ServerConfigRequest("0.38.0"), {"sdk_version": "0.38.0"}),
        (types.DynamicConfigRequest("0.38.0"), {"sdk_version": "0.38.0"}),
        (types.AuthTokenRequest(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_fields_of_0_38_only_where_they_are_set(request_, body) -> None:
    assert_encoded(request_, body)


def test_a_configuration_that_the_server_does_not_send_is_none() -> None:
    config = types.ServerConfigResponse.from_wire({"fwdbwd_max_chunk_len": 8, "unknown": {}})
    assert config.model_dump(exclude_none=True) == {"fwdbwd_max_chunk_len": 8}


def test_a_dynamic_configuration_has_defaults_for_each_setting() -> None:
    config = types.DynamicConfigResponse.from_wire({})
    assert (config.refresh_interval_sec, config.sample_cancel_enabled) == (300, False)
    assert types.DynamicConfigResponse.from_wire({"sample_cancel_enabled": True}).sample_cancel_enabled


def test_the_repr_of_a_token_response_hides_the_token() -> None:
    response = types.AuthTokenResponse.from_wire({"jwt": "secret-token"})
    assert response.jwt == "secret-token"
    assert "secret-token" not in repr(response)


def test_a_token_response_without_a_token_is_refused() -> None:
    with pytest.raises(APIResponseValidationError, match="jwt"):
        types.AuthTokenResponse.from_wire({})
