"""Custom loss functions, with numpy and, if it is installed, with torch."""

import sys
import threading

import numpy
import pytest
from scripted_server import Answer, bare_session

from tinkex_sync import (
    APIResponseValidationError,
    DeadlineExceeded,
    MissingExtraError,
    ServiceClient,
    TrainingClient,
    types,
)
from tinkex_sync.local import LocalServer

TEXT = b"a loss of one's own"


def datum(length=6, **inputs):
    tokens = list(TEXT[:length])
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (length - 1), **inputs},
    )


def cross_entropy(data, logprobs):
    """Return the loss that the server computes as "cross_entropy", its gradient, and a metric."""
    weights = [one.loss_fn_inputs["weights"].to_numpy() for one in data]
    loss = -sum(float((w * lp).sum()) for w, lp in zip(weights, logprobs))
    return loss, [-w for w in weights], {"mine:sum": loss}


@pytest.fixture
def scripted():
    """Return (server, client). Results of passes are scripted by each test."""
    with bare_session() as (server, session):
        server.defaults["forward"] = Answer(body={"request_id": "f"})
        server.defaults["forward_backward"] = Answer(body={"request_id": "b"})
        yield server, TrainingClient(session, "m:train:0")


def outputs(*lengths):
    """Return the result of a forward pass, with log probabilities -1, -2 and so on for datums of these lengths."""
    made = [{"logprobs": {"data": [-1.0 - k for k in range(n)], "dtype": "float32", "shape": [n]}} for n in lengths]
    return Answer(body={"loss_fn_output_type": "cross_entropy", "loss_fn_outputs": made, "metrics": {"loss:sum": 1.0}})


def test_a_custom_cross_entropy_trains_exactly_as_the_servers_does(service):
    learned = []
    for custom in (False, True):
        client = service.create_lora_training_client(
            service.get_server_capabilities().supported_models[0].model_name, rank=4, seed=7
        )
        for _ in range(3):
            if custom:
                client.forward_backward_custom([datum(6), datum(9)], cross_entropy, backend="numpy")
            else:
                client.forward_backward([datum(6), datum(9)], "cross_entropy")
            client.optim_step(types.AdamParams(learning_rate=1e-2))
        learned.append(client.forward([datum(6)], "cross_entropy").loss_fn_outputs[0]["logprobs"].tolist())
    assert learned[0] == learned[1]


def test_the_weights_are_minus_the_gradient_and_the_losss_metrics_win_on_conflicts(scripted):
    server, client = scripted
    server.script("retrieve_future", outputs(5, 3), outputs(5, 3))
    threads = []

    def loss(data, logprobs):
        threads.append(threading.current_thread())
        return 0.5, [lp * 2 for lp in logprobs], {"loss:sum": numpy.float32(3.0), "n": 2}

    output = client.forward_backward_custom([datum(6), datum(4)], loss, backend="numpy")
    assert output.metrics == {"loss:sum": 3.0, "n": 2}
    assert threads == [threading.current_thread()]
    first, second = server.sent("forward")[0].body, server.sent("forward_backward")[0].body
    assert second["seq_id"] == first["seq_id"] + 1
    sent = [one["loss_fn_inputs"] for one in second["forward_backward_input"]["data"]]
    assert [one["weights"]["data"] for one in sent] == [[2.0, 4.0, 6.0, 8.0, 10.0], [2.0, 4.0, 6.0]]
    assert sent[1]["target_tokens"]["data"] == list(TEXT[1:4])


def test_the_submitted_form_returns_the_future_of_the_second_pass(scripted):
    server, client = scripted
    free = threading.Event()
    server.script("retrieve_future", outputs(5))
    second = outputs(5)
    second.hold = lambda: free.wait(20.0)
    server.script("retrieve_future", second)
    future = client.submit_forward_backward_custom([datum(6)], cross_entropy, backend="numpy")
    assert not future.done()
    free.set()
    assert future.result(20.0).metrics["mine:sum"] == 15.0


def test_inputs_for_the_loss_function_are_not_sent(scripted):
    server, client = scripted
    server.script("retrieve_future", outputs(5), outputs(5))
    mask, labels = numpy.array([0, 1, 1, 0, 1], dtype="float32"), numpy.full(8, 0.125, dtype="float32")
    seen = []

    def loss(data, logprobs):
        seen.append({key: tensor.tolist() for key, tensor in data[0].loss_fn_inputs.items()})
        return 0.0, [-mask], {}

    client.forward_backward_custom([datum(6, mask=mask, labels=labels)], loss, backend="numpy")
    assert seen[0]["mask"] == mask.tolist()
    assert seen[0]["labels"] == labels.tolist()
    bodies = (
        server.sent("forward")[0].body["forward_input"],
        server.sent("forward_backward")[0].body["forward_backward_input"],
    )
    for body in bodies:
        assert sorted(body["data"][0]["loss_fn_inputs"]) == ["target_tokens", "weights"]


@pytest.mark.parametrize("protocol", ["0.7", "0.38"])
def test_a_loss_function_with_inputs_of_its_own_works_on_the_embedded_server(protocol):
    if protocol == "0.38":
        pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")
    mask = numpy.array([0, 0, 1, 1, 1], dtype="float32")

    def loss(data, logprobs):
        masks = [one.loss_fn_inputs["mask"].to_numpy() for one in data]
        return -sum(float((m * lp).sum()) for m, lp in zip(masks, logprobs)), [-m for m in masks], {}

    with (
        LocalServer(protocol=protocol) as server,
        ServiceClient(base_url=server.base_url, api_key="tml-test-key", protocol=protocol) as service,
    ):
        client = service.create_lora_training_client("tinkex/tiny", rank=4, seed=1)
        client.forward_backward_custom([datum(6, mask=mask)], loss, backend="numpy")
        client.optim_step(types.AdamParams())
        custom = client.forward([datum(6)], "cross_entropy").metrics
        client = service.create_lora_training_client("tinkex/tiny", rank=4, seed=1)
        client.forward_backward([datum(6, weights=mask)], "cross_entropy")
        client.optim_step(types.AdamParams())
        assert custom == client.forward([datum(6)], "cross_entropy").metrics


def test_k_targets_per_position_give_the_loss_function_arrays_of_that_shape(scripted):
    server, client = scripted
    made = {"data": [-1.0, -2.0, -3.0, -4.0], "dtype": "float32", "shape": [2, 2]}
    body = {"loss_fn_output_type": "x", "loss_fn_outputs": [{"logprobs": made}], "metrics": {}}
    server.script("retrieve_future", Answer(body=body), Answer(body=body))
    pairs = types.Datum(types.ModelInput.from_ints([1, 2]), {"target_tokens": [[2, 3], [3, 4]]})
    client.forward_backward_custom([pairs], lambda data, lp: (0.0, lp, {}), backend="numpy")
    sent = server.sent("forward_backward")[0].body["forward_backward_input"]["data"][0]["loss_fn_inputs"]
    assert sent["target_tokens"] == {"data": [2, 3, 3, 4], "dtype": "int64", "shape": [2, 2]}
    assert sent["weights"] == {"data": [1.0, 2.0, 3.0, 4.0], "dtype": "float32", "shape": [2, 2]}


BAD = {
    "missing": (lambda d, lp: (0.0, [None], {}), ValueError, "No gradient computed for logprob tensor 0"),
    "too few": (lambda d, lp: (0.0, [], {}), ValueError, "one gradient array per datum: 1, not 0"),
    "shape": (lambda d, lp: (0.0, [lp[0][:2]], {}), ValueError, r"data\[0\] must have shape \(5,\)"),
    "not finite": (lambda d, lp: (0.0, [lp[0] * numpy.nan], {}), ValueError, r"nan at data\[0\], logprob 0"),
    "not scalar": (lambda d, lp: (lp[0], lp, {}), ValueError, "one number"),
    "two values": (lambda d, lp: (0.0, {}), ValueError, r"must return \(loss, gradients, metrics\)"),
    "nothing": (lambda d, lp: None, TypeError, "not NoneType"),
    "metrics": (lambda d, lp: (0.0, lp, 1), TypeError, "dict of numbers, not int"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_result_of_the_loss_function_is_an_error_and_no_gradient_is_sent(scripted, name):
    server, client = scripted
    server.script("retrieve_future", outputs(5))
    loss, error, text = BAD[name]
    with pytest.raises(error, match=text):
        client.forward_backward_custom([datum(6)], loss, backend="numpy")
    assert server.sent("forward_backward") == []


def test_fewer_outputs_than_datums_is_an_error_with_both_numbers(scripted):
    server, client = scripted
    server.script("retrieve_future", outputs(5))
    with pytest.raises(APIResponseValidationError, match="2 datums came back with 1 outputs"):
        client.forward_backward_custom([datum(6), datum(6)], cross_entropy, backend="numpy")
    assert server.sent("forward_backward") == []


def test_no_gradient_is_sent_if_the_timeout_passes_in_the_loss_function(scripted):
    server, client = scripted
    server.script("retrieve_future", outputs(5))

    def slow(data, logprobs):
        threading.Event().wait(0.6)
        return cross_entropy(data, logprobs)

    with pytest.raises(DeadlineExceeded) as caught:
        client.forward_backward_custom([datum(6)], slow, backend="numpy", timeout=0.5)
    assert caught.value.sent == "no"
    assert server.sent("forward_backward") == []


def test_invalid_arguments_are_rejected_before_anything_is_sent(scripted):
    server, client = scripted
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        client.forward_backward_custom([datum()], "cross_entropy")
    with pytest.raises(ValueError, match="backend must be"):
        client.forward_backward_custom([datum()], cross_entropy, backend="jax")
    assert server.requests == []


def test_the_error_for_a_missing_library_names_the_extra_before_anything_is_sent(scripted, monkeypatch):
    server, client = scripted
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinkex-sync\[torch\]".*backend="numpy"'):
        client.forward_backward_custom([datum()], cross_entropy, backend="torch")
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinkex-sync\[torch\]", or pip install numpy'):
        client.forward_backward_custom([datum()], cross_entropy)
    assert server.requests == []


def test_torch_differentiates_in_no_grad_and_inference_mode(scripted):
    torch = pytest.importorskip("torch", reason="torch is not in this environment")
    server, client = scripted
    for mode in (torch.no_grad, torch.inference_mode):
        server.clear()
        server.script("retrieve_future", outputs(5), outputs(5))
        with mode():
            output = client.forward_backward_custom(
                [datum(6)], lambda data, lp: (lp[0].pow(2).sum(), {"x": lp[0].sum()})
            )
        assert output.metrics["x"] == -15.0
        sent = server.sent("forward_backward")[0].body["forward_backward_input"]["data"][0]["loss_fn_inputs"]
        assert sent["weights"]["data"] == [2.0, 4.0, 6.0, 8.0, 10.0]
