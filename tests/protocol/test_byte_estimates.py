"""Estimates are ints, cost no look at the data, and equal the official SDK's (see the vector files)."""

import pytest

from tinkex_sync import types
from tinkex_sync.protocol import byte_estimates


class Unread(list):
    """A list that may be counted but not looked into."""

    def __iter__(self):
        raise AssertionError("looked into")

    __getitem__ = __iter__


def test_nothing_but_lengths_is_read() -> None:
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
def test_each_kind_of_chunk(chunk, size) -> None:
    assert byte_estimates.chunk_bytes(chunk) == size
    assert byte_estimates.model_input_bytes(types.ModelInput(chunks=[chunk, chunk])) == 2 * size


def test_a_tensor_counts_over_all_its_dimensions() -> None:
    numpy = pytest.importorskip("numpy")
    datum = types.Datum(loss_fn_inputs={"weights": numpy.ones((3, 4))}, model_input=types.ModelInput.empty())
    assert byte_estimates.datum_bytes(datum) == 120
