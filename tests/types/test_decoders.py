"""Strict decoders: accepted spellings, refused values, and the place of an error."""

from datetime import datetime, timedelta, timezone

import pytest

from tinkex_sync import types

RUN = {
    "training_run_id": "r",
    "base_model": "b",
    "model_owner": "o",
    "is_lora": True,
    "last_request_time": "2025-01-02T03:04:05Z",
}


def test_a_bool_in_a_list_of_ints_becomes_an_int() -> None:
    sequence = types.SampledSequence(stop_reason="stop", tokens=[True, 2])
    assert [type(token) for token in sequence.tokens] == [int, int]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2025-01-02T03:04:05Z", datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)),
        ("2025-01-02 03:04:05.25", datetime(2025, 1, 2, 3, 4, 5, 250000, tzinfo=timezone.utc)),
        ("2025-01-02T03:04:05.123456789+02:00", datetime(2025, 1, 2, 1, 4, 5, 123456, tzinfo=timezone.utc)),
        ("2025-01-02", datetime(2025, 1, 2, tzinfo=timezone.utc)),
        (1735787045, datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)),
    ],
)
def test_times_are_decoded_from_every_common_spelling_and_are_utc_without_a_zone(written, meant) -> None:
    run = types.TrainingRun.from_wire({**RUN, "last_request_time": written})
    assert run.last_request_time == meant
    assert run.last_request_time.tzinfo is not None


def test_times_are_encoded_as_iso_8601_with_z_for_utc() -> None:
    checkpoint = types.Checkpoint("c", "training", datetime(2025, 1, 2, tzinfo=timezone.utc), "p")
    assert checkpoint.to_wire()["time"] == "2025-01-02T00:00:00Z"
    east = datetime(2025, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert types.Checkpoint("c", "training", east, "p").to_wire()["time"] == "2025-01-02T00:00:00+02:00"


@pytest.mark.parametrize(
    ("spelled", "meant"), [("false", False), ("TRUE", True), ("off", False), (1, True), (0.0, False), ("y", True)]
)
def test_bools_are_decoded_from_their_usual_spellings(spelled, meant) -> None:
    decoded = types.WeightsInfoResponse.from_wire({"base_model": "b", "is_lora": spelled})
    assert decoded.is_lora is meant


@pytest.mark.parametrize(("spelled", "meant"), [(2.0, 2), ("2", 2), (b"-3", -3), ("4.0", 4), (True, 1)])
def test_ints_are_decoded_from_spellings_that_lose_nothing(spelled, meant) -> None:
    decoded = types.SamplingParams(seed=spelled).seed
    assert (decoded, type(decoded)) == (meant, int)


@pytest.mark.parametrize("refused", [2.5, "2.5", "two", "", None, [1], float("inf"), "²"])
def test_a_value_that_is_no_whole_number_is_refused_with_its_spelling(refused) -> None:
    with pytest.raises(ValueError, match=r"^SamplingParams\.top_k: must be a whole number") as caught:
        types.SamplingParams(top_k=refused)
    assert repr(refused) in str(caught.value)


@pytest.mark.parametrize(("spelled", "meant"), [(1, 1.0), ("1.5", 1.5), (b"1e-3", 0.001)])
def test_floats_are_decoded_from_ints_and_numeric_text(spelled, meant) -> None:
    decoded = types.SamplingParams(top_p=spelled).top_p
    assert (decoded, type(decoded)) == (meant, float)


def test_bytes_are_decoded_as_text_only_if_they_are_utf_8() -> None:
    assert types.WeightsInfoRequest("tinker://é".encode()).tinker_path == "tinker://é"
    with pytest.raises(ValueError, match="must be a string"):
        types.WeightsInfoRequest(b"\xff")


def test_a_decoded_value_may_be_decoded_again_with_the_same_result() -> None:
    run = types.TrainingRun.from_wire(RUN)
    assert types.TrainingRun(**{name: getattr(run, name) for name in types.TrainingRun.model_fields}) == run


def test_a_long_value_is_shortened_in_the_error() -> None:
    with pytest.raises(ValueError) as caught:
        types.SamplingParams(top_k="x" * 10_000)
    assert len(str(caught.value)) < 160
    assert str(caught.value).endswith("...")
