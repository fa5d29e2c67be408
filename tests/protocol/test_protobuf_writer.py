"""Requests that we encode as protobuf are decoded by the protobuf package."""

import array
import struct

import pytest

pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")
zstandard = pytest.importorskip("zstandard", reason="zstandard is not in this environment")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tinkex_sync import types  # noqa: E402
from tinkex_sync.protocol.protobuf_schema import message  # noqa: E402
from tinkex_sync.protocol.protobuf_writer import compress, encode_forward_backward  # noqa: E402

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(max_size=150).filter(lambda text: "\ud800" not in text)


def datum(tokens=(1,), **inputs):
    return types.Datum(model_input=types.ModelInput.from_ints(list(tokens)), loss_fn_inputs=inputs)


def read(content):
    return message("ForwardBackwardRequest").FromString(content)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(INT32, max_size=200), st.lists(INT64, max_size=40)), max_size=4),
    TEXTS,
    st.integers(0, 2**31 - 1),
    st.dictionaries(TEXTS, st.one_of(st.floats(allow_nan=False), TEXTS), max_size=3),
    st.booleans(),
)
def test_an_encoded_request_is_decoded_by_the_protobuf_package(rows, name, seq_id, config, forward_only):
    data = [datum(tokens, target_tokens=targets) for tokens, targets in rows]
    parsed = read(encode_forward_backward(data, name, config, name, seq_id, forward_only=forward_only))
    assert (parsed.model_id, parsed.loss_fn, parsed.seq_id) == (name, name, seq_id)
    assert parsed.forward_only == forward_only
    numbers = {key: value for key, value in config.items() if not isinstance(value, str)}
    assert dict(parsed.loss_fn_config) == numbers
    assert {key: getattr(v, v.WhichOneof("value")) for key, v in parsed.loss_fn_config_v2.items()} == config
    assert len(parsed.data) == len(rows)
    for one, (tokens, targets) in zip(parsed.data, rows):
        assert one.model_input[0].encoded_text.tokens == array.array("i", tokens).tobytes()
        tensor = one.loss_fn_inputs["target_tokens"]
        assert (tensor.dense, list(tensor.shape)) == (array.array("q", targets).tobytes(), [len(targets)])


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (datum([1, 2**31]), OverflowError, r"datum 5: model_input.chunks\[0\].tokens\[1\] is 2147483648"),
        (datum(target_tokens=[1, 2**63]), OverflowError, r"datum 5: loss_fn_inputs\['target_tokens'\]\[1\]"),
        (datum(weights=[0.5, 1e39]), OverflowError, r"\['weights'\]\[1\] is 1e\+39"),
        (datum(weights=types.TensorData(data=[1.0], dtype="float32", shape=[2])), ValueError, "do not fit"),
        (
            datum(weights=types.TensorData(data=[1.0], dtype="float32", shape=[1, 2], sparse_crow_indices=[0, 1])),
            ValueError,
            "no sparse_col_indices",
        ),
    ],
)
def test_a_value_that_cannot_be_sent_is_refused_with_its_place(bad, error, words):
    with pytest.raises(error, match=words):
        encode_forward_backward([bad], "ppo", None, "m", 1, first_index=5)


def test_an_array_is_sent_as_the_dtype_of_its_tensor():
    numpy = pytest.importorskip("numpy")
    given = [numpy.arange(6, dtype="float64").reshape(2, 3).T, numpy.array([], dtype="float32")]
    parsed = read(encode_forward_backward([datum(a=each) for each in given], "ppo", None, "m", 1))
    first, second = (one.loss_fn_inputs["a"] for one in parsed.data)
    assert struct.unpack("<6f", first.dense) == (0, 3, 1, 4, 2, 5)
    assert list(first.shape) == [3, 2]
    assert second.HasField("dense") and list(second.shape) == [0]


def test_a_zstd_frame_has_its_size_and_no_checksum():
    content = encode_forward_backward([datum(range(1000))], "ppo", None, "m", 1)
    frame = compress(content)
    parameters = zstandard.get_frame_parameters(frame)
    assert (parameters.content_size, parameters.has_checksum) == (len(content), False)
    assert zstandard.ZstdDecompressor().decompress(frame) == content
