"""Results in protobuf are decoded to wire types, and damaged ones are refused."""

import struct

import pytest

pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")

from tinkex_sync import types  # noqa: E402
from tinkex_sync.errors import APIResponseValidationError  # noqa: E402
from tinkex_sync.protocol.protobuf_reader import decode  # noqa: E402
from tinkex_sync.protocol.protobuf_schema import message  # noqa: E402


def output(**column):
    parsed = message("ForwardBackwardOutput")()
    record = parsed.loss_fn_outputs.add(num_datums=column.pop("count", 1))
    field = record.fields["x"]
    field.data, field.dtype = column.pop("data", b"\0" * 8), column.pop("dtype", 1)
    field.offsets = struct.pack("<2q", *column.pop("offsets", (0, 8)))
    field.trailing_shape.extend(column.pop("trailing", ()))
    assert not column
    return parsed.SerializeToString()


def test_bfloat16_is_the_upper_half_of_a_float32():
    result = decode(output(data=struct.pack("<f", -1.5)[2:], dtype=4, offsets=(0, 2)), types.ForwardBackwardOutput)
    assert result.loss_fn_outputs[0]["x"].data == [-1.5]
    response = message("SampleResponse")()
    response.target_prompt_logprobs.dense = struct.pack("<f", -1.5)[2:]
    response.target_prompt_logprobs.dtype = 4
    assert decode(response.SerializeToString(), types.SampleResponse).target_prompt_logprobs.data == [-1.5]


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (output(offsets=(0, 12)), "loss_fn_outputs[0].fields['x'].offsets[0]"),
        (output(offsets=(8, 0)), "loss_fn_outputs[0].fields['x'].offsets[0]"),
        (output(offsets=(0, 7)), "loss_fn_outputs[0].fields['x'].data"),
        (output(trailing=[3]), "loss_fn_outputs[0].fields['x'].offsets[0]"),
        (output(dtype=9), "loss_fn_outputs[0].fields['x'].dtype"),
        (output(count=2), "loss_fn_outputs[0].fields['x']"),
        (output(count=-1), "loss_fn_outputs[0].num_datums"),
        (output()[:-1], ""),
    ],
)
def test_a_damaged_response_is_refused_with_its_place(content, path):
    with pytest.raises(APIResponseValidationError) as caught:
        decode(content, types.ForwardBackwardOutput)
    assert caught.value.path == path


def ints(*values):
    return struct.pack(f"<{len(values)}i", *values)


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def sampled(**changes):
    """Return an encoded response with one completion of two tokens."""
    parsed = message("SampleResponse")()
    sequence = parsed.sequences.add(tokens=ints(5, 6), logprobs=floats(-0.5, -1.0), stop_reason=1)
    for name, value in changes.items():
        setattr(sequence if hasattr(sequence, name) else parsed, name, value)
    return parsed.SerializeToString()


def test_a_completion_has_its_tokens_log_probabilities_and_stop_reason():
    (sequence,) = decode(sampled(), types.SampleResponse).sequences
    assert sequence == types.SampledSequence(stop_reason="length", tokens=[5, 6], logprobs=[-0.5, -1.0])
    (without,) = decode(sampled(logprobs=b"", stop_reason=0), types.SampleResponse).sequences
    assert (without.logprobs, without.stop_reason) == (None, "stop")


def test_log_probabilities_of_the_prompt_are_none_where_they_are_nan():
    response = decode(sampled(prompt_logprobs=floats(float("nan"), -0.5)), types.SampleResponse)
    assert response.prompt_logprobs == [None, -0.5]
    assert decode(sampled(), types.SampleResponse).prompt_logprobs is None


def test_padding_of_top_k_rows_is_removed_and_a_row_of_padding_is_none():
    parsed = message("SampleResponse")()
    table = parsed.topk_prompt_logprobs
    table.k, table.length = 2, 3
    table.token_ids = ints(0, 0, 5, 0, 6, 7)
    table.logprobs = floats(-99999.0, -99999.0, -0.5, -99999.0, -0.5, -1.0)
    response = decode(parsed.SerializeToString(), types.SampleResponse)
    assert response.topk_prompt_logprobs == [None, [(5, -0.5)], [(6, -0.5), (7, -1.0)]]


def test_the_tensors_of_a_batch_are_divided_among_its_datums():
    parsed = message("ForwardBackwardOutput")(loss_fn_output_type="x:ArrayRecord")
    parsed.metrics["loss:sum"] = 1.5
    record = parsed.loss_fn_outputs.add(num_datums=2)
    field = record.fields["logprobs"]
    field.data, field.dtype = floats(1, 2, 3, 4, 5, 6), 1
    field.offsets = struct.pack("<3q", 0, 16, 24)
    field.trailing_shape.append(2)
    result = decode(parsed.SerializeToString(), types.ForwardBackwardOutput)
    assert [one["logprobs"].tolist() for one in result.loss_fn_outputs] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert (result.loss_fn_output_type, result.metrics) == ("ArrayRecord", {"loss:sum": 1.5})


def test_a_sparse_tensor_keeps_its_indices_and_reads_as_a_full_matrix():
    parsed = message("SampleResponse")()
    tensor = parsed.target_prompt_logprobs
    tensor.dtype, tensor.shape[:] = 1, [2, 3]
    tensor.sparse_csr.values = floats(1.5, 2.5)
    tensor.sparse_csr.crow_indices = struct.pack("<3q", 0, 1, 2)
    tensor.sparse_csr.col_indices = struct.pack("<2q", 2, 0)
    read = decode(parsed.SerializeToString(), types.SampleResponse).target_prompt_logprobs
    assert read.tolist() == [[0.0, 0.0, 1.5], [2.5, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (lambda: sampled(stop_reason=9), "sequences[0].stop_reason"),
        (lambda: sampled(tokens=b"123"), "sequences[0].tokens"),
        (lambda: sampled(logprobs=b"1"), "sequences[0].logprobs"),
        (lambda: sampled(prompt_logprobs=b"12345"), "prompt_logprobs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_sample_is_refused_with_its_place(content, path):
    with pytest.raises(APIResponseValidationError) as caught:
        decode(content(), types.SampleResponse, 200)
    assert (caught.value.path, caught.value.status_code) == (path, 200)


def test_a_result_that_has_no_protobuf_form_is_refused():
    with pytest.raises(APIResponseValidationError, match="OptimStepResponse can only be decoded from JSON"):
        decode(b"", types.OptimStepResponse)
