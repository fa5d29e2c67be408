"""The embedded server speaking today's protocol to our own client: detection, bodies, results, refusals."""

import pytest
import requests
from server_calls import Wire, datum

from tinkex_sync import Config, ServiceClient, errors, types
from tinkex_sync.local import Faults, LocalServer

schema = pytest.importorskip("tinkex_sync.protocol.protobuf_schema")
pytest.importorskip("google.protobuf")

ADAM = types.AdamParams(learning_rate=1e-2)
PROMPT = types.ModelInput.from_ints(list(b"the quick "))
GREEDY = types.SamplingParams(max_tokens=6, temperature=0.0, seed=1)


@pytest.fixture(scope="module")
def modern():
    with LocalServer(protocol="0.38", client_config={"fwdbwd_max_chunk_len": 3}) as server:
        yield server


@pytest.fixture(scope="module")
def both():
    with LocalServer(protocol="both") as server:
        yield server


def client(server, spoken="auto", **settings):
    settings = {"api_key": "tml-k", "base_url": server.base_url, "protocol": spoken, **settings}
    return ServiceClient(config=Config(**settings))


def batch(count=5):
    texts = [f"the quick brown fox number {index}" for index in range(count)]
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(list(text.encode())[:-1]),
            loss_fn_inputs={"target_tokens": list(text.encode())[1:], "weights": [0.1] * (len(text) - 1)},
        )
        for text in texts
    ]


def run(service):
    """Train, save, load and sample; everything that came back."""
    training = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    seen = [training.forward(batch(), "cross_entropy").metrics]
    for _ in range(4):
        output = training.forward_backward(batch(), "cross_entropy")
        training.optim_step(ADAM)
        seen.append(output.metrics)
    floats = [
        float(value) for one in output.loss_fn_outputs for value in types.TensorData.tolist(one["logprobs"])
    ]
    path = training.save_state("first")
    again = service.create_training_client_from_state(path.path)
    seen.append(again.forward(batch(), "cross_entropy").metrics)
    sampler = training.save_weights_and_get_sampling_client()
    reply = sampler.sample(PROMPT, 2, GREEDY, include_prompt_logprobs=True, topk_prompt_logprobs=3)
    assert len({one.sequence_id for one in reply.sequences}) == 2
    seen.append([(one.stop_reason, one.tokens, one.logprobs) for one in reply.sequences])
    seen.append([reply.prompt_logprobs, reply.topk_prompt_logprobs])
    return seen, floats


def test_a_whole_run_is_the_same_over_protobuf_and_over_json_bit_for_bit(both):
    with client(both) as service:
        packed, packed_floats = run(service)
        assert service.status()["protocol"]["wire"] == "protobuf"
    seen = both.stats()
    assert seen["protobuf_requests"] == 6
    assert seen["protobuf_results"] == 7
    with client(both, "0.7") as service:
        plain, plain_floats = run(service)
    assert both.stats()["protobuf_requests"] == 6
    assert packed == plain
    losses = [metrics["loss:sum"] for metrics in packed[:5]]
    assert losses[-1] < losses[0]
    # JSON has the shortest decimals of a float32, protobuf its bits.
    import numpy

    assert numpy.float32(packed_floats).tobytes() == numpy.float32(plain_floats).tobytes()


def test_a_server_of_protobuf_only_is_trained_in_the_chunks_it_announces(modern):
    with client(modern) as service:
        seen, _ = run(service)
        chunks = modern.stats()["chunks"]
    assert seen[4]["loss:sum"] < seen[0]["loss:sum"]
    assert [3, 2] * 4 in chunks.values()


def test_a_client_that_was_not_told_finds_out_by_the_refusal_and_uses_the_number_once():
    silent = dict.fromkeys(("fwdbwd_max_chunk_len", "proto_compress_fwdbwd", "parallel_fwdbwd_chunks"))
    with LocalServer(protocol="0.38", client_config=silent) as server, client(server) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
        training.forward_backward(batch(1), "cross_entropy")
        training.optim_step(ADAM)
        counted = server.stats()["requests"]["/api/v1/forward_backward"]
        assert counted == {"415": 1, "200": 1}
        assert service.status()["protocol"]["wire"] == "protobuf"


def test_a_forward_pass_alone_finds_out_by_the_missing_endpoint():
    with LocalServer(protocol="0.38") as server:
        server.set_faults(Faults(fail_first={"client": [404]}))
        with client(server) as service:
            training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
            training.forward(batch(1), "cross_entropy")
        assert server.stats()["requests"]["/api/v1/forward"] == {"404": 1}


def test_compressed_bodies_are_taken():
    pytest.importorskip("zstandard")
    client_config = {"proto_compress_fwdbwd": True}
    with LocalServer(protocol="0.38", client_config=client_config) as server, client(server) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
        training.forward_backward(batch(2), "cross_entropy")
        assert server.stats()["compressed_requests"] == 1


def test_all_kinds_of_inputs_arrive(both):
    rl = types.Datum(
        model_input=types.ModelInput(
            chunks=[
                types.EncodedTextChunk(tokens=[1, 2]),
                types.ImageChunk(data=b"\x89PNG not really", format="png", expected_tokens=4),
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
    for spoken in ("0.38", "0.7"):
        with client(both, spoken) as service:
            training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
            config = {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}
            found.append(training.forward_backward([rl], "ppo", config).metrics)
    assert found[0] == found[1]


def test_a_sparse_input_counts_as_the_dense_one_it_stands_for(both):
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
        answer = post(wire, request)
        # These models take one target per position: the refusal names the shape, so the indices were read.
        assert "shape [1, 2] for 2 numbers" in wire.result(answer.json())["error"]
        targets.sparse_csr.col_indices = (2).to_bytes(8, "little")
        refused = post(wire, request)
        assert refused.status_code == 422
        assert "sparse indices" in refused.json()["detail"]


def post(wire, request, **headers):
    body = request if isinstance(request, bytes) else request.SerializeToString()
    headers = {"Content-Type": "application/x-protobuf", **headers}
    return requests.post(f"{wire.root}/api/v1/forward_backward", body, headers=headers, timeout=60)


def test_what_is_no_request_is_refused_with_the_reason(both):
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
        for body, headers, status, words in cases:
            answer = post(wire, body, **headers)
            assert answer.status_code == status, answer.text
            assert words in answer.json()["detail"]


def test_a_server_of_the_old_protocol_refuses_protobuf_and_asks_nothing():
    with LocalServer() as server, Wire(server) as wire:
        assert post(wire, b"").status_code == 415
        assert wire.post("client/config", {}).status_code == 404
        with client(server, "0.38") as service, pytest.raises(errors.TinkexError):
            service.create_lora_training_client("tinkex/tiny", rank=2).forward_backward(
                batch(1), "cross_entropy"
            )


def test_results_come_as_json_to_those_who_ask_for_nothing_else(modern):
    with Wire(modern) as wire:
        sampler = wire.sampler(wire.session())
        promise = wire.sample(sampler, 0, num_samples=2).json()
        assert len(set(promise["sample_sequence_ids"])) == 2
        assert wire.result(promise)["type"] == "sample"


def test_a_large_result_is_told_by_its_size_first():
    with LocalServer(protocol="both", metadata_threshold=100) as server:
        with client(server) as service:
            training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
            assert len(training.forward_backward(batch(), "cross_entropy").loss_fn_outputs) == 5
        assert server.stats()["metadata_answers"] == 1
        with Wire(server) as wire:
            promise = wire.backward(wire.model(), [datum("x" * 50)])
            wire.result(promise)
            body = {"request_id": promise["request_id"], "allow_metadata_only": True}
            told = wire.ok("retrieve_future", body)
            assert told["status"] == "complete_metadata"
            assert told["response_payload_size"] == len(wire.poll(promise).content)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": "0.8"}, "protocol must be one of"),
        ({"client_config": {"fwdbwd": 1}}, "unknown key 'fwdbwd'"),
        ({"client_config": {"fwdbwd_max_chunk_len": True}}, "must be int, not True"),
        ({"token_lifetime": 0}, "token_lifetime"),
        ({"metadata_threshold": -1}, "metadata_threshold"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, words):
    with pytest.raises(ValueError, match=words):
        LocalServer(**settings)
