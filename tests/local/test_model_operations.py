"""Creation, training and unloading of models."""

import pytest
from server_calls import connect, counted_result, datum, example

from tinkex_sync import errors, types
from tinkex_sync.local import LocalServer


def test_training_reduces_the_loss(wire):
    model = wire.model()
    first = wire.loss(model)
    for _ in range(5):
        wire.learn(model)
    assert wire.loss(model) < first


def test_forward_backward_returns_a_tensor_per_datum_and_metrics(wire):
    output = wire.result(wire.backward(wire.model(), [datum("abc"), datum("abcdef")]))
    assert [len(one["logprobs"]["data"]) for one in output["loss_fn_outputs"]] == [2, 5]
    assert isinstance(output["loss_fn_output_type"], str)
    assert output["metrics"]["loss:sum"] > 0


def test_equal_inputs_give_equal_bytes(wire):
    responses = []
    for _ in range(2):
        model = wire.model()
        for _ in range(3):
            wire.learn(model)
        responses.append(wire.poll(wire.backward(model)).content)
    assert responses[0] == responses[1]


def test_get_info_returns_model_rank_and_tokenizer(wire):
    info = wire.ok("get_info", {"model_id": wire.model(rank=3)})
    assert info["model_data"] == {"arch": "tinkex", "model_name": "tinkex/tiny", "tokenizer_id": "tinkex/tiny"}
    assert (info["is_lora"], info["lora_rank"]) == (True, 3)


def test_unloaded_model_gets_404(wire):
    model = wire.model()
    assert wire.result(wire.ok("unload_model", {"model_id": model})) == {"model_id": model, "type": "unload_model"}
    response = wire.post("optim_step", {"model_id": model, "adam_params": {}, "seq_id": 9})
    assert response.status_code == 404
    assert model in response.json()["detail"]


def test_model_number_of_a_session_identifies_one_model(wire):
    session = wire.session()
    assert wire.model(session, 0) == wire.model(session, 0)
    assert wire.model(session, 1) != wire.model(session, 0)
    body = {"session_id": session, "model_seq_id": 0, "base_model": "tinkex/tiny", "lora_config": {"rank": 9}}
    assert wire.post("create_model", body).status_code == 409


def test_operations_of_a_model_whose_creation_failed_fail(wire):
    future = wire.ok(
        "create_model",
        {"session_id": wire.session(), "base_model": "tinkex/tiny", "lora_config": {"rank": 10**9, "seed": 1}},
    )
    assert wire.result(future)["category"] == "user"
    failed = wire.result(wire.ok("optim_step", {"model_id": future["model_id"], "adam_params": {}, "seq_id": 1}))
    assert failed["category"] == "user"
    assert "not loaded" in failed["error"]


ADAM = types.AdamParams(learning_rate=1e-2)


KEY = "tml-k"


def test_parallel_chunks_train_like_one_request(server_0_38):
    texts = [f"the quick brown fox number {index}" for index in range(7)]

    def trained(service):
        training = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
        losses = []
        for _ in range(3):
            batch = [example(text) for text in texts]
            losses.append(training.forward_backward(batch, "cross_entropy").metrics["loss:sum"])
            training.optim_step(ADAM)
        return losses

    losses, counted = counted_result(server_0_38, trained)
    assert losses == sorted(losses, reverse=True)
    assert counted["protobuf_requests"] == 12
    with LocalServer() as plain, connect(plain, protocol="0.7") as service:
        assert trained(service) == pytest.approx(losses, rel=1e-5)


def test_number_of_a_rejected_request_can_be_used_again(wire_0_38):
    model = wire_0_38.model()
    assert wire_0_38.post("forward_backward", {"model_id": model, "seq_id": 1}).status_code == 422
    assert wire_0_38.result(wire_0_38.backward(model, seq=1))["metrics"]


def test_load_weights_creates_a_model_from_a_checkpoint(wire_0_38):
    session = wire_0_38.session()
    model = wire_0_38.model(session)
    wire_0_38.learn(model)
    path, loss = wire_0_38.save(model, "a"), wire_0_38.loss(model)
    body = {"session_id": session, "model_seq_id": 7, "path": path, "optimizer": True, "user_metadata": {"k": "v"}}
    future = wire_0_38.ok("load_weights", body)
    assert future["model_id"] == f"{session}:train:7"
    assert wire_0_38.ok("load_weights", body)["request_id"] == future["request_id"]
    assert wire_0_38.result(future) == {"path": path, "model_id": future["model_id"], "type": "load_weights"}
    wire_0_38.seq = 0
    assert wire_0_38.loss(future["model_id"]) == loss
    info = wire_0_38.ok("get_info", {"model_id": future["model_id"]})
    assert (info["lora_rank"], info["optimizer_config"]) == (4, {"type": "adamw"})
    assert wire_0_38.get(f"training_runs/{session}:train:7").json()["user_metadata"] == {"k": "v"}
    rejected = wire_0_38.post("load_weights", {**body, "model_seq_id": 8, "base_model": "tinkex/small"})
    assert rejected.status_code == 400
    missing = wire_0_38.post("load_weights", {**body, "model_seq_id": 8, "path": path + "x"})
    assert missing.status_code == 404


def test_failed_operation_raises_request_failed_error_in_the_client(server_0_38):
    with connect(server_0_38) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        with pytest.raises(errors.RequestFailedError, match="logprobs"):
            training.forward_backward([example()], "ppo")
        assert training.forward_backward([example()], "cross_entropy").metrics
