"""The table of endpoints agrees with the policies, the settings and the types that it names."""

from dataclasses import fields

import pytest

from tinkex_sync.config import RETRY_POLICIES, Config
from tinkex_sync.http.endpoints import ENDPOINTS, OPERATIONS
from tinkex_sync.http.retry import make_policies
from tinkex_sync.types import UntypedAPIFuture
from tinkex_sync.types.wire import Wire


@pytest.mark.parametrize("row", ENDPOINTS.values(), ids=ENDPOINTS)
def test_a_row_names_a_policy_a_setting_and_types_that_exist(row):
    assert row.policy is None or row.policy in make_policies(Config())
    if isinstance(row.read_timeout, str):
        assert isinstance(getattr(Config(), row.read_timeout), float)
    for named in (row.response_type, row.result_type):
        assert named is None or issubclass(named, Wire)


def test_every_policy_has_a_user_and_can_be_changed():
    assert set(make_policies(Config())) == set(RETRY_POLICIES)
    used = {row.policy for row in ENDPOINTS.values()} - {None}
    # Polls apply their policy themselves, because their table of failures decides first.
    assert used | {"poll"} == set(RETRY_POLICIES)


def test_the_policy_of_samples_is_that_of_their_endpoint():
    assert ENDPOINTS["asample"].policy == "sampling"


def test_operations_are_the_endpoints_that_return_a_server_future():
    assert set(OPERATIONS) == {name for name, row in ENDPOINTS.items() if row.response_type is UntypedAPIFuture}
    assert OPERATIONS["asample"].request_type == "Sample"
    assert OPERATIONS["save_weights_for_sampler"].request_type == "SaveWeightsForSampler"


def test_values_in_a_path_are_quoted_and_checkpoint_paths_keep_their_slashes():
    row = ENDPOINTS["checkpoint_archive"]
    assert row.url(run="a/b c", checkpoint_path="weights/x y") == (
        "/api/v1/training_runs/a%2Fb%20c/checkpoints/weights/x%20y/archive"
    )
    assert ENDPOINTS["sampler"].url(sampler="m:sample:0") == "/api/v1/samplers/m:sample:0"


def test_every_setting_for_a_read_timeout_is_documented_as_one():
    names = {row.read_timeout for row in ENDPOINTS.values() if isinstance(row.read_timeout, str)}
    assert names <= {field.name for field in fields(Config)}
    assert names == {"read_timeout", "submit_timeout", "heartbeat_timeout", "poll_timeout"}
