"""Estimates read lengths only; the vector files compare them to the official SDK."""

import pytest

from tinkex_sync import types
from tinkex_sync.protocol import byte_estimates


class Unread(list):
    """A list whose elements cannot be read."""

    def __iter__(self):
        raise AssertionError("an element was read")

    __getitem__ = __iter__


def test_only_lengths_are_read() -> None:
    chunk = types.EncodedTextChunk(tokens=[1, 2, 3])
    object.__setattr__(chunk, "tokens", Unread([1, 2, 3]))
    tensor = types.TensorData(data=[1.0], dtype="float32")
    object.__setattr__(tensor, "data", Unread([1.0] * 5))
    datum = types.Datum(loss_fn_inputs={"weights": tensor}, model_input=types.ModelInput(chunks=[chunk]))
    assert byte_estimates.datum_bytes(datum) == 10 * 3 + 10 * 5


@pytest.mark.parametrize(
    ("chunk", "size"),
    [
        (types.EncodedTextChunk(tokens=(1, 2)), 20),
        (types.ImageChunk(data="aGk=", format="png", expected_tokens=900), 2),
        (types.ImageAssetPointerChunk(location="😀é", format="png"), 2),
    ],
)
def test_each_kind_of_chunk_has_its_estimate(chunk, size) -> None:
    assert byte_estimates.chunk_bytes(chunk) == size
    assert byte_estimates.model_input_bytes(types.ModelInput(chunks=[chunk, chunk])) == 2 * size


def test_a_tensor_is_estimated_by_its_number_of_elements() -> None:
    numpy = pytest.importorskip("numpy")
    datum = types.Datum(loss_fn_inputs={"weights": numpy.ones((3, 4))}, model_input=types.ModelInput.empty())
    assert byte_estimates.datum_bytes(datum) == 120
