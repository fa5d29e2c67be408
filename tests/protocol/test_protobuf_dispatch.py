"""Training over protobuf: the choice of the wire, the switch to the other, and the order of chunks."""

import threading

import pytest
from scripted_server import Answer, bare_session

from tinkex_sync import errors, types
from tinkex_sync.clients.training import TrainingClient

schema = pytest.importorskip("tinkex_sync.protocol.protobuf_schema")
pytest.importorskip("google.protobuf")

SERIAL = {"fwdbwd_max_chunk_len": 1, "parallel_fwdbwd_chunks": False}
PARALLEL = {"fwdbwd_max_chunk_len": 1, "parallel_fwdbwd_chunks": True}
SPEAKS_JSON_ONLY = Answer(404, {"detail": "Not Found"})


def datums(count):
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints([index, 7]),
            loss_fn_inputs={"target_tokens": [7, 8], "weights": [0.5, 1.0]},
        )
        for index in range(count)
    ]


def parsed(request):
    """Return a request's sequence number, whether it is a forward pass, and the first token of each datum."""
    if isinstance(request.body, bytes):
        content = request.body
        if request.headers.get("content-encoding") == "zstd":
            import zstandard

            content = zstandard.ZstdDecompressor().decompress(content)
        found = schema.message("ForwardBackwardRequest")()
        found.ParseFromString(content)
        first = [int.from_bytes(one.model_input[0].encoded_text.tokens[:4], "little") for one in found.data]
        return found.seq_id, found.forward_only, first
    if "adam_params" in request.body:
        return request.body["seq_id"], None, []
    batch = request.body.get("forward_backward_input") or request.body["forward_input"]
    first = [one["model_input"]["chunks"][0]["tokens"][0] for one in batch["data"]]
    return request.body["seq_id"], request.operation == "forward", first


def packed_output(loss):
    made = schema.message("ForwardBackwardOutput")()
    made.loss_fn_output_type = "x:ArrayRecord"
    made.metrics["loss:sum"] = loss
    return made.SerializeToString()


class Server:
    """A server that accepts operations in order; the operations it rejects are scripted by sequence number."""

    def __init__(self, scripted, config, refuse=()):
        self.scripted, self.refuse = scripted, dict(refuse)
        self._lock = threading.Lock()
        self.numbers = []
        scripted.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        scripted.defaults["retrieve_future"] = self.result
        for name in ("forward", "forward_backward", "optim_step"):
            scripted.defaults[name] = self.take
        if config is not None:
            scripted.script("client/config", Answer(body=config))

    def take(self, request):
        number, _, _ = parsed(request)
        refusals = self.refuse.get(number, [])
        if refusals:
            return refusals.pop(0)
        with self._lock:
            self.numbers.append(number)
        return Answer(body={"request_id": f"req-{number}"})

    def result(self, request):
        if request.headers["x-tinker-request-type"] == "OptimStep":
            return Answer(body={"metrics": {}})
        if "protobuf" in request.headers["accept"]:
            return Answer(packed=packed_output(1.0))
        output = {"loss_fn_output_type": "x", "loss_fn_outputs": [], "metrics": {"loss:sum": 1.0}}
        return Answer(body=output)

    def sent(self):
        names = ("forward", "forward_backward", "optim_step")
        return [one for one in self.scripted.requests if one.operation in names]


def trainer(session):
    session.open()
    return TrainingClient(session, "model-1")


def test_a_server_that_returns_chunk_limits_gets_protobuf_in_chunks_of_that_size():
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, {**SERIAL, "fwdbwd_max_chunk_len": 2})
        training = trainer(session)
        output = training.forward_backward(datums(5), "cross_entropy")
        assert output.metrics == {"loss:sum": 3.0}
        assert [parsed(one) for one in server.sent()] == [(1, False, [0, 1]), (2, False, [2, 3]), (3, False, [4])]
        assert {one.headers["content-type"] for one in server.sent()} == {"application/x-protobuf"}
        training.forward(datums(1), "cross_entropy")
        assert parsed(server.sent()[-1]) == (4, True, [0])
        assert server.sent()[-1].operation == "forward_backward"
        training.optim_step(types.AdamParams())
        accepts = {
            one.headers["x-tinker-request-type"]: one.headers["accept"] for one in scripted.sent("retrieve_future")
        }
        assert accepts == {
            "ForwardBackward": "application/x-protobuf, application/json",
            "Forward": "application/x-protobuf, application/json",
            "OptimStep": "application/json",
        }


def test_bodies_are_compressed_if_the_configuration_requires_it():
    pytest.importorskip("zstandard")
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, {**SERIAL, "proto_compress_fwdbwd": True})
        trainer(session).forward_backward(datums(1), "cross_entropy")
        assert server.sent()[0].headers["content-encoding"] == "zstd"
        assert parsed(server.sent()[0]) == (1, False, [0])


def test_a_415_switches_the_wire_once_with_the_same_seq_id():
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, {}, {1: [Answer(415, {"detail": "protobuf only"})]})
        training = trainer(session)
        assert session.capabilities.wire.name == "json"
        training.forward_backward(datums(1), "cross_entropy")
        training.forward_backward(datums(1), "cross_entropy")
        sent = server.sent()
        assert [parsed(one)[0] for one in sent] == [1, 1, 2]
        assert [isinstance(one.body, bytes) for one in sent] == [False, True, True]
        assert len({one.headers["x-idempotency-key"] for one in sent}) == 3


def test_forward_without_an_endpoint_is_sent_as_forward_backward_without_gradients():
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, {})
        scripted.defaults["forward"] = SPEAKS_JSON_ONLY
        trainer(session).forward(datums(1), "cross_entropy")
        assert [one.operation for one in server.sent()] == ["forward", "forward_backward"]
        assert parsed(server.sent()[-1]) == (1, True, [0])


def test_a_batch_refused_as_protobuf_is_sent_as_json():
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, SERIAL, {1: [Answer(415, {"detail": "json only"})]})
        trainer(session).forward_backward(datums(1), "cross_entropy")
        assert [isinstance(one.body, bytes) for one in server.sent()] == [True, False]


def test_a_batch_refused_on_both_wires_is_an_error_and_its_seq_id_stays_free():
    refusals = [Answer(415, {"detail": "no"}), Answer(415, {"detail": "no"})]
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, SERIAL, {1: refusals})
        training = trainer(session)
        with pytest.raises(errors.APIStatusError) as refused:
            training.forward_backward(datums(1), "cross_entropy")
        assert refused.value.status_code == 415
        training.optim_step(types.AdamParams())
        assert server.numbers == [1]


def test_parallel_chunks_are_sent_concurrently_and_the_first_one_last():
    gate = threading.Barrier(3, timeout=20)

    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, PARALLEL)
        take = server.take

        def together(request):
            # The response waits for all other chunks, which proves that they were sent concurrently.
            answer = take(request)
            if parsed(request)[0] in (2, 3, 4):
                answer.hold = gate.wait
            return answer

        scripted.defaults["forward_backward"] = together
        training = trainer(session)
        output = training.train_step(datums(4), "cross_entropy", types.AdamParams())
        assert output.forward_backward.metrics == {"loss:sum": 4.0}
        assert sorted(server.numbers[:3]) == [2, 3, 4]
        assert server.numbers[3:] == [1, 5]


def test_results_of_parallel_chunks_are_in_the_order_of_the_datums():
    with bare_session(protocol="auto") as (scripted, session):
        Server(scripted, PARALLEL)

        def result(request):
            number = int(request.body["request_id"].partition("-")[2])
            output = {"logprobs": {"data": [-float(number)], "dtype": "float32", "shape": [1]}}
            return Answer(
                body={"loss_fn_output_type": "x", "loss_fn_outputs": [output], "metrics": {"loss:sum": float(number)}}
            )

        scripted.defaults["retrieve_future"] = result
        output = trainer(session).forward_backward(datums(9), "cross_entropy")
        assert [one["logprobs"].data[0] for one in output.loss_fn_outputs] == [-float(n) for n in range(1, 10)]


@pytest.mark.parametrize(
    ("refused", "used", "accepted", "missing"),
    [
        # In the middle and at the front a forward pass uses the free number. At the end the number is used again.
        (2, [1, 2, 3, 4, 5], ((0, 1), (2, 4)), ((1, 2),)),
        (1, [1, 2, 3, 4, 5], ((1, 4),), ((0, 1),)),
        (4, [1, 2, 3, 4], ((0, 3),), ((3, 4),)),
    ],
)
def test_a_refused_parallel_chunk_leaves_no_gap_in_the_seq_ids(refused, used, accepted, missing):
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, PARALLEL, {refused: [Answer(400, {"detail": "bad datum"})]})
        training = trainer(session)
        backward, step = training.submit_train_step(datums(4), "cross_entropy", types.AdamParams())
        with pytest.raises(errors.PartialBatchError, match="bad datum") as partial:
            backward.result(20)
        assert partial.value.accepted_ranges == accepted
        assert partial.value.refused_ranges == missing
        with pytest.raises(errors.WithdrawnError):
            step.result(20)
        training.optim_step(types.AdamParams())
        assert sorted(server.numbers) == used
        fillers = [parsed(one) for one in server.sent() if parsed(one)[1]]
        assert len(fillers) == (0 if refused == 4 else 1)


def test_no_seq_id_is_used_if_all_chunks_are_refused():
    refusals = {number: [Answer(400, {"detail": "bad"})] for number in (1, 2, 3)}
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, PARALLEL, refusals)
        training = trainer(session)
        with pytest.raises(errors.BadRequestError):
            training.forward_backward(datums(3), "cross_entropy")
        training.optim_step(types.AdamParams())
        assert server.numbers == [1]


def test_the_bytes_of_parallel_chunks_in_flight_are_limited():
    inside, most, lock = [0], [0], threading.Lock()

    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, {**PARALLEL, "fwdbwd_dispatch_bytes_semaphore_size": 1})
        take = server.take

        def counted(request):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            answer = take(request)
            leave = threading.Event()

            def hold():
                leave.wait(0.02)
                with lock:
                    inside[0] -= 1

            answer.hold = hold
            return answer

        scripted.defaults["forward_backward"] = counted
        trainer(session).forward_backward(datums(5), "cross_entropy")
        assert most[0] == 1


@pytest.fixture
def no_protobuf(monkeypatch):
    def missing(name):
        raise schema.missing_extra("protobuf")

    monkeypatch.setattr("tinkex_sync.protocol.protobuf_writer.message", missing)
    monkeypatch.setattr("tinkex_sync.protocol.protobuf_schema.reads_protobuf", lambda: False)


JSON_REFUSED = Answer(415, {"detail": "Content-Type must be application/x-protobuf"})


@pytest.mark.parametrize("operation", ["forward", "forward_backward"])
def test_without_the_extra_a_server_that_accepts_json_gets_json(no_protobuf, operation):
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, SERIAL)
        output = getattr(trainer(session), operation)(datums(1), "cross_entropy")
        assert output.metrics == {"loss:sum": 1.0}
        assert [one.operation for one in server.sent()] == [operation]
        assert session.capabilities.wire.name == "protobuf"


@pytest.mark.parametrize("operation", ["forward", "forward_backward"])
def test_without_the_extra_a_server_that_requires_protobuf_raises_with_the_package_to_install(no_protobuf, operation):
    refusal = JSON_REFUSED if operation == "forward_backward" else Answer(404, {"detail": "Not Found"})
    with bare_session(protocol="auto") as (scripted, session):
        server = Server(scripted, SERIAL, {1: [refusal]})
        client = trainer(session)
        for _ in range(2):
            with pytest.raises(errors.MissingExtraError, match=r"tinkex-sync\[proto\]"):
                getattr(client, operation)(datums(1), "cross_entropy")
        assert [one.operation for one in server.sent()] == [operation]  # it is not sent again
    with bare_session(protocol="0.38") as (scripted, session):
        server = Server(scripted, SERIAL)
        with pytest.raises(errors.MissingExtraError, match=r"tinkex-sync\[proto\]"):
            getattr(trainer(session), operation)(datums(1), "cross_entropy")
        assert not server.sent()
