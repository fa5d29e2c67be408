"""The public methods of the training client: both forms of each operation, timeouts and cancellation."""

import concurrent.futures
import time

import pytest
from imitations import ADAM, NEITHER, Imitation, client, datums, training

from tinkex_sync import DeadlineExceeded

BUSY = (503, "busy", {"Retry-After": "0.4"})


@pytest.fixture
def server():
    with Imitation(NEITHER) as running:
        yield running


@pytest.fixture
def service(server):
    # Closing does not wait for operations that a test leaves unsent.
    with client(server, max_chunk_datums=2, drain=0) as made:
        yield made


@pytest.fixture
def model(service):
    return training(service)


PATH = "tinker://model-1/weights/one"
#: The arguments of each operation, and the endpoints of its requests.
OPERATIONS = {
    "forward": ((datums(3), "cross_entropy"), ["forward"] * 2),
    "forward_backward": ((datums(3), "ppo", {"clip_low_threshold": 0.8}), ["forward_backward"] * 2),
    "optim_step": ((ADAM,), ["optim_step"]),
    "train_step": ((datums(3), "cross_entropy", ADAM), ["forward_backward"] * 2 + ["optim_step"]),
    "save_state": (("one",), ["save_weights"]),
    "load_state": ((PATH,), ["load_weights"]),
    "load_state_with_optimizer": ((PATH,), ["load_weights"]),
    "save_weights_for_sampler": (("one",), ["save_weights_for_sampler"]),
    "save_weights_external": (("one",), ["save_weights_external"]),
    "save_weights_and_get_sampling_client": (("one",), ["save_weights_for_sampler", "create_sampling_session"]),
    "create_sampling_client": ((PATH,), ["create_sampling_session"]),
    "get_info": ((), ["get_info"]),
}
#: The operations that the lane dispatches.
NUMBERED = [name for name in OPERATIONS if name not in ("create_sampling_client", "get_info")]


def result(future):
    """Return the result of one future, or of the pair of a train step."""
    if isinstance(future, tuple):
        return [one.result(20) for one in future]
    return future.result(20)


def shown(value):
    """Return a comparable value: clients have no equality, and a train step returns a pair or one object."""
    if hasattr(value, "forward_backward"):
        return [value.forward_backward, value.optim_step]
    return type(value) if hasattr(value, "sample") else value


def wire(server, since):
    """Return the endpoints and the bodies of the requests since number ``since``."""
    rows = [row for row in server.arrived[since:] if row[0] not in ("retrieve_future", "session_heartbeat")]
    return [row[0] for row in rows], [
        {name: value for name, value in row[3].items() if not name.endswith("seq_id")} for row in rows
    ]


def test_every_operation_is_tested(model):
    there = {name[len("submit_") :] for name in dir(model) if name.startswith("submit_")}
    # These have tests of their own: one calls the caller's function, the other reads files.
    assert there - {"forward_backward_custom", "get_tokenizer"} == set(OPERATIONS)
    assert all(callable(getattr(model, name)) for name in there)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_both_forms_send_the_same_requests_and_return_the_same_result(server, model, operation):
    arguments, endpoints = OPERATIONS[operation]
    start = len(server.arrived)
    blocking = getattr(model, operation)(*arguments, timeout=20)
    middle = len(server.arrived)
    submitted = result(getattr(model, f"submit_{operation}")(*arguments))
    assert shown(blocking) == shown(submitted)
    assert wire(server, start)[0] == endpoints * 2
    first, second = wire(server, start)[1][: len(endpoints)], wire(server, middle)[1]
    assert first == second


@pytest.mark.parametrize("operation", [*NUMBERED, "get_info", "create_sampling_client"])
def test_a_timeout_ends_the_wait_and_leaves_the_client_usable(server, model, operation):
    arguments, _ = OPERATIONS[operation]
    server.ready.clear()
    for endpoint in ("get_info", "create_sampling_session"):
        server.script[endpoint] = ["silent"]
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        getattr(model, operation)(*arguments, timeout=0.4)
    assert time.monotonic() - began < 2
    assert operation.partition("_")[0] in str(caught.value) or operation == "train_step"
    if operation in ("get_info", "create_sampling_client"):
        assert (caught.value.phase, caught.value.sent) == ("sending", "unknown")
    else:
        # Accepted; on a busy machine its first poll may not have started.
        assert caught.value.phase in ("polling", "sending")
        assert caught.value.sent == "yes"
    server.script.clear()
    server.ready.set()
    assert model.optim_step(ADAM, timeout=20)


@pytest.mark.parametrize("operation", NUMBERED)
def test_an_operation_that_waits_in_the_lane_is_withdrawn_by_its_timeout_or_by_cancel(server, model, operation):
    arguments, _ = OPERATIONS[operation]
    server.script["training"] = [BUSY]
    head = model.submit_optim_step(ADAM)
    server.until(lambda: any(row[0] == "optim_step" for row in server.arrived))
    with pytest.raises(DeadlineExceeded) as caught:
        getattr(model, operation)(*arguments, timeout=0.05)
    assert (caught.value.phase, caught.value.sent) == ("queued", "no")
    waiting = getattr(model, f"submit_{operation}")(*arguments)
    for future in waiting if isinstance(waiting, tuple) else (waiting,):
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(0)
    assert not head.cancel()
    assert head.result(20)
    model.optim_step(ADAM, timeout=20)
    assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]


def test_a_result_can_be_fetched_by_its_request_id_after_a_timeout(server, service, model):
    server.ready.clear()
    with pytest.raises(DeadlineExceeded) as caught:
        model.save_state("one", timeout=0.5)
    server.ready.set()
    assert service.resume_future(caught.value.request_id, "save_state").path.endswith("/one")


@pytest.mark.parametrize("timeout", [0, -1, "1", float("nan")])
def test_an_invalid_timeout_is_rejected_before_anything_is_sent(server, model, timeout):
    count = len(server.arrived)
    for name, (arguments, _) in OPERATIONS.items():
        with pytest.raises(ValueError, match="timeout must be a positive number"):
            getattr(model, name)(*arguments, timeout=timeout)
    assert not [row for row in server.arrived[count:] if row[0] != "session_heartbeat"]
