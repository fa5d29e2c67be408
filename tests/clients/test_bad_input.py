"""Errors for invalid arguments contain the value and the remedy, and nothing is sent."""

import socket
import time

import pytest

from tinkex_sync import (
    APIConnectionError,
    AuthenticationError,
    ConfigError,
    NotFoundError,
    ServiceClient,
    TinkexError,
    types,
)
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.local import LocalServer


def datum(tokens=(1, 2, 3), **inputs):
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(tokens)), loss_fn_inputs=inputs or {"target_tokens": [2, 3, 4]}
    )


def test_a_missing_key_is_a_config_error():
    with pytest.raises(ConfigError, match=r"api_key=.*TINKER_API_KEY"):
        ServiceClient(base_url="http://127.0.0.1:1")


def test_a_wrong_key_is_an_authentication_error():
    with LocalServer(api_key="right") as server, pytest.raises(AuthenticationError, match="TINKER_API_KEY"):
        ServiceClient(base_url=server.base_url, api_key="wrong")


@pytest.mark.parametrize(
    "url, text", [("http://127.0.0.1:1", "cannot be reached"), ("http://no-such-host.invalid", "cannot be reached")]
)
def test_connecting_to_an_unreachable_server_fails_after_15_seconds(url, text):
    clock = ScaledClock(20)
    started = clock.time()
    with pytest.raises(APIConnectionError, match=text) as caught:
        ServiceClient(base_url=url, api_key="k", clock=clock)
    assert url in str(caught.value)
    # The clock runs 20 times as fast, so a delay of one second on a busy machine counts 20.
    assert clock.time() - started < 15 + 25


def test_connecting_to_a_full_server_fails_after_15_seconds():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        clock = ScaledClock(10)
        started = time.monotonic()
        try:
            with pytest.raises(APIConnectionError):
                ServiceClient(base_url=f"http://127.0.0.1:{address[1]}", api_key="k", clock=clock, read_timeout=2)
        finally:
            for filler in fillers:
                filler.close()
        assert time.monotonic() - started < 20


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/x", "http://", ""])
def test_a_base_url_without_scheme_or_host_is_a_config_error(url, monkeypatch):
    monkeypatch.setenv("TINKER_BASE_URL", url or "x")
    with pytest.raises(ConfigError, match="TINKER_BASE_URL"):
        ServiceClient(api_key="k")


def test_a_wrong_path_of_the_right_host_is_reported_with_the_base_url(server):
    with pytest.raises(NotFoundError, match="base_url"):
        ServiceClient(base_url=server.base_url + "/prefix", api_key="local")


def test_an_unknown_model_is_reported_with_the_known_ones(service):
    with pytest.raises(TinkexError, match=r"no-such-model.*tinkex/tiny"):
        service.create_lora_training_client("no-such-model")


@pytest.fixture
def training(service):
    return service.create_lora_training_client("tinkex/tiny", rank=2)


@pytest.mark.parametrize(
    "data, error, text",
    [
        ([], ValueError, "at least one Datum"),
        ([datum(), "text"], TypeError, r"data\[1\].*str"),
        ([datum(target_tokens=[2, 3, 4], weights=[1.0, float("nan"), 1.0])], ValueError, r"weights.*1.*nan"),
        ([datum(target_tokens=[2, 3, 4], weights=[1.0, float("inf"), 1.0])], ValueError, r"weights.*1.*inf"),
    ],
)
def test_invalid_data_is_refused_and_the_client_stays_usable(server, training, data, error, text):
    before = server.stats()["datums_received"]
    with pytest.raises(error, match=text):
        training.forward_backward(data, "cross_entropy")
    assert server.stats()["datums_received"] == before
    assert training.forward_backward([datum()], "cross_entropy").loss_fn_outputs


@pytest.mark.parametrize("inputs", [{"target_tokens": [2, 3]}, {"target_tokens": [2, 3, 4], "weights": [1.0]}])
def test_inputs_of_different_lengths_are_refused_with_both_lengths(training, inputs):
    with pytest.raises((ValueError, TinkexError), match=r"(?s)(2|1).*3|3.*(2|1)"):
        training.forward_backward([datum(**inputs)], "cross_entropy")


def test_an_unknown_loss_is_refused_with_the_known_ones(training):
    with pytest.raises(ValueError, match=r"hinge.*cross_entropy"):
        training.forward_backward([datum()], "hinge")


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": -1.0}, {"beta1": 1.0}, {"eps": 0.0}, {"weight_decay": float("nan")}]
)
def test_adam_parameters_out_of_range_are_refused_by_name(wrong):
    ((name, _),) = wrong.items()
    with pytest.raises(ValueError, match=name):
        types.AdamParams(**wrong)


def test_an_invalid_setting_is_reported_with_its_variable(monkeypatch):
    monkeypatch.setenv("TINKER_TELEMETRY", "perhaps")
    with pytest.raises(ConfigError, match="TINKER_TELEMETRY.*perhaps"):
        ServiceClient(api_key="k", base_url="http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="no_such_setting"):
        ServiceClient(api_key="k", no_such_setting=1)


@pytest.mark.parametrize("timeout", [0, -1, "soon"])
def test_an_invalid_timeout_is_refused(service, timeout):
    with pytest.raises(ValueError, match="timeout"):
        service.get_server_capabilities(timeout=timeout)
