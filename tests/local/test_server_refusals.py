"""What the embedded server refuses, and how it says so."""

import pytest
from server_calls import Wire

from tinkex_sync.local import LocalServer


@pytest.fixture(scope="module")
def server():
    with LocalServer() as running:
        yield running


@pytest.fixture
def wire(server):
    with Wire(server) as client:
        yield client


def test_an_operation_that_fails_is_the_users_fault_and_says_why(wire):
    failed = wire.result(wire.backward(wire.model(), loss_fn="ppo"))
    assert failed["category"] == "user"
    assert "logprobs" in failed["error"]


def test_a_model_that_cannot_be_made_fails_and_stays_failed(wire):
    promise = wire.ok(
        "create_model",
        {
            "session_id": wire.session(),
            "base_model": "tinkex/tiny",
            "lora_config": {"rank": 10**9, "seed": 1},
        },
    )
    assert wire.result(promise)["category"] == "user"
    failed = wire.result(
        wire.ok("optim_step", {"model_id": promise["model_id"], "adam_params": {}, "seq_id": 1})
    )
    assert failed["category"] == "user"
    assert "not loaded" in failed["error"]


def test_what_does_not_exist_is_404_with_a_detail(server, wire):
    for answer in (
        wire.get("nonsense"),
        wire.http.post(f"{server.base_url}/elsewhere", json={}, timeout=10),
        wire.get("sessions/none"),
        wire.get("samplers/none"),
        wire.get("training_runs/none"),
        wire.get("training_runs/none/checkpoints"),
        wire.post("retrieve_future", {"request_id": "none"}),
        wire.post("get_info", {"model_id": "none"}),
        wire.post("weights_info", {"tinker_path": "tinker://none/weights/x"}),
        wire.post("asample", wire.sample_body("none", 0)),
    ):
        assert answer.status_code == 404, answer.text
        assert "none" in answer.json()["detail"] or "no such endpoint" in answer.json()["detail"]


def test_a_wrong_method_is_405_with_a_detail(wire):
    answer = wire.get("asample")
    assert answer.status_code == 405
    assert answer.json()["detail"]


@pytest.mark.parametrize("path", ["create_model", "create_sampling_session"])
def test_an_unknown_base_model_is_named_beside_those_there_are(wire, path):
    body = {"session_id": wire.session(), "base_model": "no/such", "sampling_session_seq_id": 0}
    answer = wire.post(path, body)
    assert answer.status_code == 400
    assert "'no/such'" in answer.json()["detail"]
    assert "tinkex/tiny" in answer.json()["detail"]


BAD = [
    ("create_model", {"base_model": "tinkex/tiny"}, "session_id"),
    ("create_model", {"session_id": "S", "base_model": 3}, "base_model"),
    (
        "create_model",
        {"session_id": "S", "base_model": "tinkex/tiny", "lora_config": {"rank": 0}},
        "lora_config.rank",
    ),
    ("create_model", {"session_id": "S", "base_model": "tinkex/tiny", "lora_config": 7}, "lora_config"),
    ("create_session", {"tags": "x"}, "tags"),
    ("create_sampling_session", {"session_id": "S", "base_model": "tinkex/tiny"}, "sampling_session_seq_id"),
    ("create_sampling_session", {"session_id": "S", "sampling_session_seq_id": 0}, "base_model"),
    ("create_sampling_session", {"session_id": "S", "sampling_session_seq_id": 0, "model_path": "x"}, "'x'"),
    ("forward_backward", {"model_id": "M", "seq_id": 1}, "forward_backward_input"),
    ("forward", {"model_id": "M", "forward_input": {"data": [], "loss_fn": "ppo"}}, "forward_input.data"),
    ("forward", {"model_id": "M", "forward_input": {"data": [{}], "loss_fn": "x"}}, "forward_input.loss_fn"),
    ("forward", {"model_id": "M", "forward_input": {"data": [3], "loss_fn": "ppo"}}, "forward_input.data[0]"),
    (
        "forward",
        {"model_id": "M", "forward_input": {"data": [{"loss_fn_inputs": {}}], "loss_fn": "ppo"}},
        "forward_input.data[0].model_input",
    ),
    ("optim_step", {"model_id": "M", "adam_params": {"beta1": "x"}}, "adam_params.beta1"),
    ("optim_step", {"model_id": "M", "adam_params": {}, "seq_id": "1"}, "seq_id"),
    ("optim_step", {"model_id": "M", "adam_params": {}, "seq_id": True}, "seq_id"),
    ("save_weights", {"model_id": "M", "path": "../x"}, "path"),
    ("save_weights_for_sampler", {"model_id": "M"}, "sampling_session_seq_id"),
    ("load_weights", {"model_id": "M", "path": "tinker://a/weights/b", "optimizer": 1}, "optimizer"),
    ("asample", {"base_model": "tinkex/tiny"}, "prompt"),
    ("asample", {"base_model": "tinkex/tiny", "prompt": {"chunks": []}}, "prompt.chunks"),
    ("asample", {"base_model": "tinkex/tiny", "prompt": {"chunks": [{}]}, "num_samples": 0}, "num_samples"),
    ("retrieve_future", {}, "request_id"),
    ("weights_info", {"tinker_path": "tinker://x"}, "tinker://x"),
]


@pytest.mark.parametrize(("path", "body", "named"), BAD)
def test_a_bad_body_is_refused_with_the_name_of_the_field(wire, path, body, named):
    ids = {"S": wire.session, "M": wire.model}
    real = {
        key: ids[value]() if isinstance(value, str) and value in ids else value for key, value in body.items()
    }
    answer = wire.post(path, real)
    assert answer.status_code in (400, 422), answer.text
    assert named in answer.json()["detail"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"request_id": NaN}', b'{"request_id": 1e999}', b'{"a": Infinity}', b"\xff"]
)
def test_what_is_not_json_is_refused(wire, data):
    answer = wire.http.post(f"{wire.root}/api/v1/retrieve_future", data=data, timeout=10)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["detail"]


def test_json_that_is_no_object_is_refused(wire):
    assert wire.post("create_session", [1]).status_code == 422
