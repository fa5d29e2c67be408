"""Checkpoints and training runs: encoded bodies, decoded listings and ``tinker://`` paths."""

import pytest
from wire_bodies import assert_encoded

from tinkex_sync import types


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (types.WeightsInfoRequest("p"), {"tinker_path": "p"}),
        (types.SetCheckpointTtlRequest(None), {"ttl_seconds": None}),
        (
            types.CopyWeightsRequest("p", session_id="s", model_seq_id=2),
            {"source_path": "p", "session_id": "s", "model_seq_id": 2},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_fields_of_0_38_only_where_they_are_set(request_, body) -> None:
    assert_encoded(request_, body)


@pytest.mark.parametrize(
    ("path", "kind"), [("tinker://r/weights/x", "training"), ("tinker://r/sampler_weights/x", "sampler")]
)
def test_checkpoint_paths_are_split_into_run_and_checkpoint(path, kind) -> None:
    parsed = types.ParsedCheckpointTinkerPath.from_tinker_path(path)
    assert (parsed.training_run_id, parsed.checkpoint_type) == ("r", kind)
    assert f"tinker://r/{parsed.checkpoint_id}" == path


@pytest.mark.parametrize(
    "path", ["r/weights/x", "tinker://r/weights", "tinker://r/weights/x/y", "tinker://r/other/x", "tinker://r/x"]
)
def test_a_path_without_exactly_run_kind_and_name_is_refused(path) -> None:
    with pytest.raises(ValueError, match=f"Invalid tinker path: {path}"):
        types.ParsedCheckpointTinkerPath.from_tinker_path(path)


def test_a_listing_of_one_run_has_no_cursor() -> None:
    checkpoint = {"checkpoint_id": "weights/x", "checkpoint_type": "training", "time": None, "tinker_path": "p"}
    listed = types.CheckpointsListResponse.from_wire({"checkpoints": [checkpoint]})
    assert listed.cursor is None
    assert (listed.checkpoints[0].size_bytes, listed.checkpoints[0].public) == (None, False)


def test_expiry_times_are_utc() -> None:
    urls = types.ExternalWeightsUrlsResponse.from_wire({"urls": {"a": "u"}, "expires": "2025-01-02 03:04:05"})
    assert urls.expires.isoformat() == "2025-01-02T03:04:05+00:00"
