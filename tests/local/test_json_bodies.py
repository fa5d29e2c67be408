"""Errors in JSON bodies."""

import pytest

BAD = [
    ("create_model", {"base_model": "tinkex/tiny"}, "session_id"),
    ("create_model", {"session_id": "S", "base_model": 3}, "base_model"),
    ("create_model", {"session_id": "S", "base_model": "tinkex/tiny", "lora_config": {"rank": 0}}, "lora_config.rank"),
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
def test_error_names_the_invalid_field(wire, path, body, named):
    ids = {"S": wire.session, "M": wire.model}
    real = {key: ids[value]() if isinstance(value, str) and value in ids else value for key, value in body.items()}
    response = wire.post(path, real)
    assert response.status_code in (400, 422), response.text
    assert named in response.json()["detail"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"request_id": NaN}', b'{"request_id": 1e999}', b'{"a": Infinity}', b"\xff"]
)
def test_invalid_json_gets_400(wire, data):
    response = wire.http.post(f"{wire.root}/api/v1/retrieve_future", data=data, timeout=10)
    assert response.status_code == 400
    assert "JSON" in response.json()["detail"]


def test_json_that_is_not_an_object_gets_422(wire):
    assert wire.post("create_session", [1]).status_code == 422
