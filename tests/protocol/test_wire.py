"""The two wires: how each encodes batches, requests results and decodes them."""

import json

import pytest

from tinkex_sync import types
from tinkex_sync.errors import APIResponseValidationError
from tinkex_sync.protocol.wire import JsonWire, ProtobufWire

DATUM = types.Datum(model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})
BATCH = types.ForwardBackwardInput([DATUM], "cross_entropy")


@pytest.fixture
def protobuf():
    return pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")


@pytest.mark.parametrize("operation", ["forward", "forward_backward"])
def test_json_has_an_endpoint_for_each_operation(operation):
    body = JsonWire().encode_batch(operation, BATCH, "m", 3)
    assert (body.endpoint, dict(body.headers), body.wire) == (operation, {}, "json")
    sent = json.loads(body.content)
    assert (sent["model_id"], sent["seq_id"]) == ("m", 3)
    assert len(sent[f"{operation}_input"]["data"]) == 1


@pytest.mark.parametrize("operation", ["forward", "forward_backward"])
def test_protobuf_has_one_endpoint_with_a_flag_for_forward_passes(protobuf, operation):
    from tinkex_sync.protocol.protobuf_schema import message

    body = ProtobufWire().encode_batch(operation, BATCH, "m", 3)
    assert (body.endpoint, body.wire) == ("forward_backward", "protobuf")
    assert dict(body.headers) == {"Content-Type": "application/x-protobuf"}
    sent = message("ForwardBackwardRequest").FromString(body.content)
    assert (sent.model_id, sent.seq_id, sent.forward_only) == ("m", 3, operation == "forward")


def test_a_compressed_batch_is_named_as_zstd(protobuf):
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not in this environment")
    plain = ProtobufWire().encode_batch("forward_backward", BATCH, "m", 3)
    compressed = ProtobufWire(is_compressed=True).encode_batch("forward_backward", BATCH, "m", 3)
    assert compressed.headers["Content-Encoding"] == "zstd"
    assert zstandard.ZstdDecompressor().decompress(compressed.content) == plain.content


def test_json_refuses_a_non_finite_loss_input_with_its_index_in_the_callers_batch():
    bad = types.Datum(model_input=types.ModelInput.from_ints([1]), loss_fn_inputs={"weights": [float("nan")]})
    with pytest.raises(ValueError, match=r"datum 7: loss_fn_inputs\['weights'\]\[0\] is nan"):
        JsonWire().encode_batch("forward", types.ForwardBackwardInput([bad], "ppo"), "m", 1, first_index=7)


def test_protobuf_refuses_a_value_beyond_its_type_with_its_index_in_the_callers_batch(protobuf):
    bad = types.Datum(model_input=types.ModelInput.from_ints([2**31]), loss_fn_inputs={})
    with pytest.raises(OverflowError, match="datum 7: model_input.*2147483648"):
        ProtobufWire().encode_batch("forward", types.ForwardBackwardInput([bad], "ppo"), "m", 1, first_index=7)


def test_results_are_requested_as_protobuf_only_where_they_have_that_form(protobuf):
    assert JsonWire().accept_header(types.SampleResponse) == {}
    assert ProtobufWire().accept_header(types.OptimStepResponse) == {}
    accepted = ProtobufWire().accept_header(types.SampleResponse)["Accept"]
    assert accepted == "application/x-protobuf, application/json"


@pytest.mark.parametrize("wire", [JsonWire(), ProtobufWire()], ids=["json", "protobuf"])
def test_a_result_is_decoded_by_its_content_type(wire, protobuf):
    body = b'{"sequences": []}'
    assert wire.decode_result(body, "application/json", 200, types.SampleResponse) == {"sequences": []}
    decoded = wire.decode_result(b"", "application/x-protobuf", 200, types.SampleResponse)
    assert decoded.sequences == []
    with pytest.raises(APIResponseValidationError):
        wire.decode_result(b"<html>", "text/html", 200, types.SampleResponse)


def test_an_estimate_grows_with_the_tokens_of_a_datum():
    long = types.Datum(model_input=types.ModelInput.from_ints([1] * 1000), loss_fn_inputs={})
    for wire in (JsonWire(), ProtobufWire()):
        assert wire.estimate_datum_bytes(long) >= 1000 > wire.estimate_datum_bytes(DATUM) > 0


@pytest.mark.parametrize("wire", [JsonWire(), ProtobufWire()], ids=["json", "protobuf"])
def test_results_of_chunks_are_merged_in_order(wire):
    def output(index):
        tensor = types.TensorData(data=[float(index)], dtype="float32", shape=[1])
        return types.ForwardBackwardOutput(
            loss_fn_output_type="x", loss_fn_outputs=[{"logprobs": tensor}], metrics={"loss:sum": 1.0}
        )

    merged = wire.merge_results([output(1), output(2)])
    assert [one["logprobs"].data for one in merged.loss_fn_outputs] == [[1.0], [2.0]]
    assert merged.metrics == {"loss:sum": 2.0}
