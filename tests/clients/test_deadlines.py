"""Timeouts in every phase: the attributes of the error, and the state of the operation."""

import concurrent.futures
import threading
import time

import pytest
from imitations import ADAM, HATCHERY, PARAMS, Imitation, client, datums, prompt, training

from tinkex_sync import APIConnectionError, DeadlineExceeded, TinkexError
from tinkex_sync.concurrency.clock import ScaledClock

pytestmark = pytest.mark.usefixtures("no_threads_left")

BUSY = (503, "busy", {"Retry-After": "50"})
REFUSED = (429, {"queue_state": "paused_rate_limit", "detail": "slow down"}, {"Retry-After": "50"})


@pytest.fixture
def server():
    with Imitation(HATCHERY) as running:
        yield running


@pytest.fixture
def service(server):
    made = client(server)
    yield made
    made.close()


@pytest.fixture
def sampler(service):
    return service.create_sampling_client(base_model="base")


def deadline_error(function, least=0.2):
    """Return the error of a call, which must be raised after ``least`` seconds and at most one second later."""
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        function()
    assert least <= time.monotonic() - started < least + 1
    return caught.value


def facts(error):
    return error.phase, error.sent


def until(condition):
    ends, tick = time.monotonic() + 20, threading.Event()
    while not condition():
        assert time.monotonic() < ends, "the condition did not become true within 20 s"
        tick.wait(0.005)


def test_the_error_is_an_instance_of_three_timeout_classes(server, sampler):
    server.ready.clear()
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.2))
    for kind in (TinkexError, TimeoutError, concurrent.futures.TimeoutError):
        assert isinstance(error, kind)


def test_timeout_while_polling(server, sampler):
    server.ready.clear()
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.2))
    assert facts(error) == ("polling", "yes")
    assert error.request_id in server.accepted_operations
    assert error.request_id in str(error)


def test_timeout_while_polling_contains_the_last_queue_state(server, sampler):
    server.ready.clear()
    server.hold = 0.05
    server.queued_limit = 0
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.5), 0.5)
    assert facts(error) == ("polling", "yes")
    assert error.queue_state == "paused_capacity"
    assert "paused_capacity" in str(error)


def test_timeout_while_polls_fail_has_the_phase_polling(server, sampler):
    server.script["retrieve_future"] = [BUSY]
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.2))
    assert facts(error) == ("polling", "yes")


def test_timeout_in_the_throttle_before_anything_was_sent(server):
    with client(server, max_dispatches=1) as service:
        sampler = service.create_sampling_client(base_model="base")
        server.script["asample"] = ["silent"]
        first = threading.Thread(target=lambda: pytest.raises(TinkexError, sampler.sample, prompt(), 1, PARAMS))
        first.start()
        server.until(lambda: server.requests_to("asample"))
        error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.2))
        assert facts(error) == ("throttled", "no")
        assert "nothing was sent" in str(error)
        service.close()
        first.join(5)
    assert len(server.requests_to("asample")) == 1


def test_timeout_in_the_throttle_after_a_429(server, sampler):
    server.script["asample"] = [REFUSED]
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.3), 0.3)
    assert facts(error) == ("throttled", "no")
    assert error.queue_state == "paused_rate_limit"


def test_timeout_while_the_request_has_no_response(server, sampler):
    server.script["asample"] = ["silent"]
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.3), 0.3)
    assert facts(error) == ("sending", "unknown")
    assert error.request_id is None


@pytest.mark.parametrize("endpoint", ["asample", "retrieve_future"])
def test_timeout_while_the_response_arrives_byte_by_byte(server, sampler, endpoint):
    server.script[endpoint] = ["drip"]
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.3), 0.3)
    assert facts(error) == (("sending", "unknown") if endpoint == "asample" else ("polling", "yes"))


def test_timeout_while_waiting_for_a_retry(server, sampler):
    server.script["asample"] = [BUSY]
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.3), 0.3)
    assert facts(error) == ("retrying", "unknown")


def test_timeout_of_a_rest_call(server, service):
    server.script["get_server_capabilities"] = ["silent"]
    error = deadline_error(lambda: service.get_server_capabilities(timeout=0.2))
    assert facts(error) == ("sending", "unknown")


def test_timeout_of_a_model_creation(server, service):
    server.ready.clear()
    error = deadline_error(lambda: service.create_lora_training_client("base", timeout=0.2))
    # This server creates the model before it responds to the POST request.
    assert facts(error) == ("sending", "unknown")
    assert "create_lora_training_client" in str(error)


def test_the_setting_applies_to_calls_without_a_timeout(server):
    server.script["get_server_capabilities"] = ["silent"]
    with client(server, timeout=0.2) as service:
        deadline_error(service.get_server_capabilities)
        # An infinite timeout replaces the setting.
        server.script["get_server_capabilities"] = []
        assert service.get_server_capabilities(timeout=float("inf"))


def test_the_future_of_a_sample_fails_at_its_timeout(server, sampler):
    server.ready.clear()
    future = sampler.submit_sample(prompt(), 1, PARAMS, timeout=0.3)
    error = future.exception(10)
    assert isinstance(error, DeadlineExceeded)
    assert facts(error) == ("polling", "yes")


def test_the_timeout_of_result_ends_only_the_wait(server, sampler):
    server.ready.clear()
    future = sampler.submit_sample(prompt(7, 8), 1, PARAMS)
    server.until(lambda: server.polls == 1)
    error = deadline_error(lambda: future.result(0.2))
    assert facts(error) == ("polling", "yes")
    assert error.request_id == future.request_id
    error = deadline_error(lambda: future.exception(0.2))
    server.ready.set()
    assert future.result(10).sequences[0].tokens == [8, 7]


def test_an_accepted_training_operation_continues_after_the_timeout_of_its_wait(server, service):
    model = training(service)
    server.ready.clear()
    error = deadline_error(lambda: model.forward_backward(datums(1), "cross_entropy", timeout=0.3), 0.3)
    assert facts(error) == ("polling", "yes")
    assert error.request_id is not None
    server.ready.set()
    model.optim_step(ADAM)
    assert server.numbers() == [(1, "forward_backward"), (2, "optim_step")]


def test_a_queued_training_operation_is_withdrawn_and_uses_no_number(server, service):
    model = training(service)
    server.script["training"] = ["silent"]
    head = model.submit_forward_backward(datums(1), "cross_entropy")
    server.until(lambda: server.requests_to("forward_backward"))
    for operation in (
        lambda: model.optim_step(ADAM, timeout=0.2),
        lambda: model.save_state("one", timeout=0.2),
        lambda: model.forward(datums(1), "cross_entropy", timeout=0.2),
        lambda: model.train_step(datums(1), "cross_entropy", ADAM, timeout=0.2),
    ):
        assert facts(deadline_error(operation)) == ("queued", "no")
    service.close()
    assert head.exception(5) is not None
    assert server.numbers() == []


def test_numbers_continue_without_a_gap_after_a_withdrawal(server):
    with client(server, clock=ScaledClock(20)) as service:
        model = training(service)
        # The server refuses the first for about 20 s of the clock; the later ones time out meanwhile.
        server.script["training"] = [(503, "busy", {"Retry-After": "20"})]
        head = model.submit_forward_backward(datums(1), "cross_entropy")
        server.until(lambda: server.requests_to("forward_backward"))
        for _ in range(3):
            with pytest.raises(DeadlineExceeded) as caught:
                model.optim_step(ADAM, timeout=2.0)
            assert facts(caught.value) == ("queued", "no")
        head.result(20)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "forward_backward"), (2, "optim_step")]


def test_the_timeout_of_a_train_step_withdraws_only_unsent_operations(server, service):
    model = training(service)
    server.script["training"] = [BUSY]
    error = deadline_error(lambda: model.train_step(datums(1), "cross_entropy", ADAM, timeout=0.3), 0.3)
    assert facts(error) == ("retrying", "unknown")
    assert [call.operation for call in service.session.open_calls()] == ["forward_backward"]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "soon"])
def test_an_invalid_timeout_is_refused_before_anything_is_sent(server, service, sampler, timeout):
    model = training(service)
    count = len(server.arrived)
    for call in (
        lambda: sampler.sample(prompt(), 1, PARAMS, timeout=timeout),
        lambda: sampler.submit_sample(prompt(), 1, PARAMS, timeout=timeout),
        lambda: service.get_server_capabilities(timeout=timeout),
        lambda: model.optim_step(ADAM, timeout=timeout),
        lambda: model.train_step(datums(1), "cross_entropy", ADAM, timeout=timeout),
    ):
        with pytest.raises(ValueError, match="timeout must be a positive number"):
            call()
    model.optim_step(ADAM)
    assert [row[0] for row in server.arrived[count:] if row[0] != "session_heartbeat"] == [
        "optim_step",
        "retrieve_future",
    ]


@pytest.mark.parametrize("form", ["sample", "submit_sample", "train_step", "get_server_capabilities"])
def test_the_error_names_the_last_failure(server, service, sampler, form):
    model = training(service)
    server.stop()
    calls = {
        "sample": lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.4),
        "submit_sample": lambda: sampler.submit_sample(prompt(), 1, PARAMS, timeout=0.4).result(),
        "train_step": lambda: model.train_step(datums(1), "cross_entropy", ADAM, timeout=0.4),
        "get_server_capabilities": lambda: service.get_server_capabilities(timeout=0.4),
    }
    error = deadline_error(calls[form], least=0.4)
    assert error.phase == "retrying"
    assert isinstance(error.__cause__, APIConnectionError)
    assert "the last request failed: Connection error." in str(error)
    assert "refused" in str(error)


def test_a_poll_without_a_result_is_no_failure(server, sampler):
    server.ready.clear()
    error = deadline_error(lambda: sampler.sample(prompt(), 1, PARAMS, timeout=0.4), least=0.4)
    assert error.phase == "polling"
    assert "failed" not in str(error)
