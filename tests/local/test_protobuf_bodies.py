"""Protobuf bodies of protocol 0.38.0."""

import pytest
from image_files import png
from server_calls import Wire, connect, example, post_protobuf

from tinkex_sync import types
from tinkex_sync.local import LocalServer

schema = pytest.importorskip("tinkex_sync.protocol.protobuf_schema")


ADAM = types.AdamParams(learning_rate=1e-2)


PROMPT = types.ModelInput.from_ints(list(b"the quick "))


GREEDY = types.SamplingParams(max_tokens=6, temperature=0.0, seed=1)


@pytest.fixture(scope="module")
def server_of_0_38():
    with LocalServer(protocol="0.38", client_config={"fwdbwd_max_chunk_len": 3}) as server:
        yield server


@pytest.fixture(scope="module")
def both():
    with LocalServer(protocol="both") as server:
        yield server


def batch(count=5):
    return [example(f"the quick brown fox number {index}", weight=0.1) for index in range(count)]


def run(service):
    """Train, save, load and sample. Return all results."""
    training = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    seen = [training.forward(batch(), "cross_entropy").metrics]
    for _ in range(4):
        output = training.forward_backward(batch(), "cross_entropy")
        training.optim_step(ADAM)
        seen.append(output.metrics)
    floats = [float(value) for one in output.loss_fn_outputs for value in types.TensorData.tolist(one["logprobs"])]
    path = training.save_state("first")
    again = service.create_training_client_from_state(path.path)
    seen.append(again.forward(batch(), "cross_entropy").metrics)
    sampler = training.save_weights_and_get_sampling_client()
    response = sampler.sample(PROMPT, 2, GREEDY, include_prompt_logprobs=True, topk_prompt_logprobs=3)
    assert len({one.sequence_id for one in response.sequences}) == 2
    seen.append([(one.stop_reason, one.tokens, one.logprobs) for one in response.sequences])
    seen.append([response.prompt_logprobs, response.topk_prompt_logprobs])
    return seen, floats


def test_run_over_protobuf_and_over_json_gives_equal_bits(both):
    with connect(both) as service:
        packed, packed_floats = run(service)
        assert service.status()["protocol"]["wire"] == "protobuf"
    seen = both.stats()
    assert seen["protobuf_requests"] == 6
    assert seen["protobuf_results"] == 7
    with connect(both, "0.7") as service:
        plain, plain_floats = run(service)
    assert both.stats()["protobuf_requests"] == 6
    assert packed == plain
    losses = [metrics["loss:sum"] for metrics in packed[:5]]
    assert losses[-1] < losses[0]
    # JSON contains the shortest decimal form of a float32, protobuf its bits.
    import numpy

    assert numpy.float32(packed_floats).tobytes() == numpy.float32(plain_floats).tobytes()


def test_client_uses_the_chunk_size_of_the_server(server_of_0_38):
    with connect(server_of_0_38) as service:
        seen, _ = run(service)
        chunks = server_of_0_38.stats()["chunks"]
    assert seen[4]["loss:sum"] < seen[0]["loss:sum"]
    assert [3, 2] * 4 in chunks.values()


def test_compressed_body_is_accepted():
    pytest.importorskip("zstandard")
    client_config = {"proto_compress_fwdbwd": True}
    with LocalServer(protocol="0.38", client_config=client_config) as server, connect(server) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
        training.forward_backward(batch(2), "cross_entropy")
        assert server.stats()["compressed_requests"] == 1


def test_images_and_loss_settings_give_the_same_result_in_both_protocols(both):
    rl = types.Datum(
        model_input=types.ModelInput(
            chunks=[
                types.EncodedTextChunk(tokens=[1, 2]),
                types.ImageChunk(data=png(), format="png", expected_tokens=4),
                types.EncodedTextChunk(tokens=[3]),
            ]
        ),
        loss_fn_inputs={
            "target_tokens": [2, 3, 4, 5, 6, 7, 8],
            "logprobs": [-1.0] * 7,
            "advantages": [0.0, 0.5, -1.0, 0.0, 1.0, 2.0, 3.0],
        },
    )
    found = []
    for protocol in ("0.38", "0.7"):
        with connect(both, protocol) as service:
            training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
            config = {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}
            found.append(training.forward_backward([rl], "ppo", config).metrics)
    assert found[0] == found[1]


def test_sparse_input_is_expanded(both):
    message = schema.message("ForwardBackwardRequest")
    with Wire(both) as wire:
        model = wire.model()
        request = message(model_id=model, seq_id=1, loss_fn="cross_entropy", forward_only=True)
        one = request.data.add()
        one.model_input.add().encoded_text.tokens = b"\1\0\0\0\2\0\0\0"
        targets = one.loss_fn_inputs["target_tokens"]
        targets.dtype, targets.shape[:] = 2, [1, 2]
        targets.sparse_csr.values = (9).to_bytes(8, "little")
        targets.sparse_csr.crow_indices = bytes(8) + (1).to_bytes(8, "little")
        targets.sparse_csr.col_indices = (1).to_bytes(8, "little")
        response = post_protobuf(wire, request)
        # The models accept one target per position. The error names the shape, so the indices were read.
        assert "shape [1, 2] for 2 numbers" in wire.result(response.json())["error"]
        targets.sparse_csr.col_indices = (2).to_bytes(8, "little")
        rejected = post_protobuf(wire, request)
        assert rejected.status_code == 422
        assert "sparse indices" in rejected.json()["detail"]


def test_error_states_why_a_body_cannot_be_decoded(both):
    message = schema.message("ForwardBackwardRequest")
    with Wire(both) as wire:
        cases = [
            (b"\xff\xff", {}, 400, "not a ForwardBackwardRequest"),
            (b"\xff\xff", {"Content-Encoding": "br"}, 415, "'br'"),
            (b"\xff\xff", {"Content-Encoding": "zstd"}, 400, "zstd"),
            (message(model_id="m", seq_id=0), {}, 422, "seq_id"),
        ]
        bad = message(model_id="m", seq_id=1)
        bad.data.add().model_input.add().dmel.dmel = b"x"
        cases.append((bad, {}, 422, "dmel"))
        short = message(model_id="m", seq_id=1)
        short.data.add().model_input.add().encoded_text.tokens = b"123"
        cases.append((short, {}, 422, "3 bytes"))
        huge = message(model_id="m", seq_id=1)
        tensor = huge.data.add().loss_fn_inputs["target_tokens"]
        tensor.dtype, tensor.shape[:] = 2, [1, 2**50]
        tensor.sparse_csr.crow_indices = bytes(16)
        cases.append((huge, {}, 422, "more than"))
        for body, headers, status, message in cases:
            response = post_protobuf(wire, body, **headers)
            assert response.status_code == status, response.text
            assert message in response.json()["detail"]
