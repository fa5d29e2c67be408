"""The training client: operations blocking and submitted, in order from many threads, with timeouts, withdrawn."""

import concurrent.futures
import itertools
import threading
import time

import pytest
from imitations import ADAM, NEITHER, Imitation, client, datum, datums, training

from tinkex_sync import DeadlineExceeded, RequestFailedError, WithdrawnError, types
from tinkex_sync.concurrency.clock import ScaledClock

BUSY = (503, "busy", {"Retry-After": "0.4"})


@pytest.fixture
def server():
    with Imitation(NEITHER) as running:
        yield running


@pytest.fixture
def service(server):
    # What a test leaves unsent is not waited for.
    with client(server, max_chunk_datums=2, drain=0) as made:
        yield made


@pytest.fixture
def model(service):
    return training(service)


PATH = "tinker://model-1/weights/one"
#: Operation: its arguments, and what goes over the wire for it.
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
    "save_weights_and_get_sampling_client": (
        ("one",),
        ["save_weights_for_sampler", "create_sampling_session"],
    ),
    "create_sampling_client": ((PATH,), ["create_sampling_session"]),
    "get_info": ((), ["get_info"]),
}
#: They take a turn in the lane.
NUMBERED = [name for name in OPERATIONS if name not in ("create_sampling_client", "get_info")]


def result(future):
    """Of one future, or of the pair of a train step."""
    if isinstance(future, tuple):
        return [one.result(20) for one in future]
    return future.result(20)


def shown(value):
    """Comparable: clients have no equality, and train steps come as a pair or as one."""
    if hasattr(value, "forward_backward"):
        return [value.forward_backward, value.optim_step]
    return type(value) if hasattr(value, "sample") else value


def wire(server, since):
    rows = [row for row in server.arrived[since:] if row[0] not in ("retrieve_future", "session_heartbeat")]
    return [row[0] for row in rows], [
        {name: value for name, value in row[3].items() if not name.endswith("seq_id")} for row in rows
    ]


def test_every_operation_is_here(model):
    there = {name[len("submit_") :] for name in dir(model) if name.startswith("submit_")}
    # These have tests of their own: the one calls the caller, the other reads files.
    assert there - {"forward_backward_custom", "get_tokenizer"} == set(OPERATIONS)
    assert all(callable(getattr(model, name)) for name in there)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_blocking_and_submitted_are_the_same(server, model, operation):
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
def test_a_timeout_is_kept_and_leaves_the_client_usable(server, model, operation):
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
        # Accepted; on a busy machine its first poll may not have begun.
        assert caught.value.phase in ("polling", "sending")
        assert caught.value.sent == "yes"
    server.script.clear()
    server.ready.set()
    assert model.optim_step(ADAM, timeout=20)


@pytest.mark.parametrize("operation", NUMBERED)
def test_what_waits_in_the_lane_is_withdrawn_by_its_timeout_or_by_cancel(server, model, operation):
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


def test_a_future_that_was_sent_cannot_be_withdrawn(server, model):
    server.ready.clear()
    future = model.submit_forward(datums(1), "cross_entropy")
    server.until(lambda: server.polls == 1)
    assert not future.cancel()
    assert future.request_id in server._promises
    with pytest.raises(DeadlineExceeded):
        future.result(0.05)
    assert not future.done()
    server.ready.set()
    assert future.result(20).loss_fn_outputs


def test_withdrawing_a_backward_pass_withdraws_its_step(server, model):
    server.script["training"] = [BUSY]
    head = model.submit_optim_step(ADAM)
    server.until(lambda: any(row[0] == "optim_step" for row in server.arrived))
    backward, step = model.submit_train_step(datums(3), "cross_entropy", ADAM)
    assert backward.cancel()
    head.result(20)
    with pytest.raises(WithdrawnError, match="backward pass was not accepted"):
        step.result(20)
    assert server.numbers() == [(1, "optim_step")]


def test_results_are_merged_in_the_order_of_the_chunks(server, model):
    """Whatever order they come in."""

    def tagged(number):
        logprobs = {"data": [-float(number)], "dtype": "float32", "shape": [1]}
        return (
            200,
            {
                "loss_fn_output_type": "ArrayRecord",
                "loss_fn_outputs": [{"logprobs": logprobs}],
                "metrics": {"loss:sum": number, "loss:mean": number, "clock:max": number},
            },
        )

    order = threading.Condition()
    seen = []
    handle = server.handle

    def reversed_polls(endpoint, body):
        if endpoint != "retrieve_future":
            return handle(endpoint, body)
        number = server._promises[body["request_id"]].number
        with order:
            # The last chunk is answered first.
            assert order.wait_for(lambda: number == 5 - len(seen), 20)
            seen.append(number)
            order.notify_all()
        return tagged(number)

    server.handle = reversed_polls
    whole = model.forward(datums(9), "cross_entropy", timeout=30)
    assert seen == [5, 4, 3, 2, 1]
    assert [one["logprobs"].data[0] for one in whole.loss_fn_outputs] == [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert whole.metrics == {"loss:sum": 15.0, "loss:mean": 3.0, "clock:max": 5.0}


def test_a_chunk_that_fails_is_named_and_the_others_do_not_hide_it(server, model):
    server.fails.add(2)
    with pytest.raises(RequestFailedError, match=r"it failed.*\(datums 2 to 3\)"):
        model.forward_backward(datums(5), "cross_entropy", timeout=20)
    assert model.optim_step(ADAM, timeout=20)
    assert [number for number, _ in server.numbers()] == [1, 2, 3, 4]


def test_data_may_be_drawn_from_any_iterable_and_is_drawn_before_anything_is_sent(server, model):
    def drawn():
        yield datum(1)
        assert not server.requests_to("forward")
        yield datum(2)

    assert len(model.forward(drawn(), "cross_entropy", timeout=20).loss_fn_outputs) == 2

    def broken():
        yield datum(1)
        raise LookupError("no more data")

    with pytest.raises(LookupError, match="no more data"):
        model.forward(broken(), "cross_entropy")
    assert len(server.requests_to("forward")) == 1


def test_operations_of_many_threads_keep_the_order_of_each_and_the_chunks_of_one_together(server, model):
    threads, each = 8, 6
    submitted = threading.Barrier(threads)
    futures = [[] for _ in range(threads)]

    def submit(thread):
        submitted.wait(10)
        for step in range(each):
            data = [datum(100 * thread + step + 1)] * 3
            futures[thread].append(model.submit_train_step(data, "cross_entropy", ADAM))

    workers = [threading.Thread(target=submit, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    for backward, step in itertools.chain.from_iterable(futures):
        assert len(backward.result(30).loss_fn_outputs) == 3
        assert step.result(30)
    rows = server.requests_to("forward_backward", "optim_step")
    assert [number for _, number, _, _ in rows] == list(range(1, 3 * threads * each + 1))
    owners = []
    for first, second, third in zip(*[iter(rows)] * 3):
        assert [row[0] for row in (first, second, third)] == ["forward_backward"] * 2 + ["optim_step"]
        starts = {
            one["model_input"]["chunks"][0]["tokens"][0]
            for row in (first, second)
            for one in row[3]["forward_backward_input"]["data"]
        }
        assert len(starts) == 1
        owners.append(starts.pop())
    for thread in range(threads):
        mine = [owner for owner in owners if (owner - 1) // 100 == thread]
        assert mine == [100 * thread + step + 1 for step in range(each)]


def test_models_do_not_wait_for_each_other(server, service):
    slow, quick = training(service), training(service)
    server.script["forward"] = [(503, "busy", {"Retry-After": "1.5"})]
    held = slow.submit_forward(datums(1), "cross_entropy")
    server.until(lambda: any(row[0] == "forward" for row in server.arrived))
    began = time.monotonic()
    assert quick.optim_step(ADAM, timeout=20)
    assert time.monotonic() - began < 1
    assert slow.get_info(timeout=20)
    assert not held.done()


def test_futures_work_with_what_the_standard_library_has(server, model):
    futures = [model.submit_optim_step(ADAM) for _ in range(4)]
    done, pending = concurrent.futures.wait(futures, timeout=20)
    assert (len(done), len(pending)) == (4, 0)
    assert {one.result().metrics for one in concurrent.futures.as_completed(futures)} == {None}
    called = threading.Event()
    model.submit_optim_step(ADAM).add_done_callback(lambda _: called.set())
    assert called.wait(20)


def test_a_callback_that_blocks_or_raises_stops_nobody(server, model, caplog):
    free = threading.Event()
    model.submit_optim_step(ADAM).add_done_callback(lambda _: free.wait(20))
    model.submit_optim_step(ADAM).add_done_callback(lambda _: 1 / 0)
    try:
        assert model.train_step(datums(3), "cross_entropy", ADAM, timeout=10)
    finally:
        free.set()


def test_an_interrupted_wait_can_be_taken_up_by_id(server, service, model):
    server.ready.clear()
    with pytest.raises(DeadlineExceeded) as caught:
        model.save_state("one", timeout=0.5)
    server.ready.set()
    assert service.resume_future(caught.value.request_id, "save_state").path.endswith("/one")


@pytest.mark.parametrize("timeout", [0, -1, "1", float("nan")])
def test_a_wrong_timeout_is_refused_before_anything_is_sent(server, model, timeout):
    count = len(server.arrived)
    for name, (arguments, _) in OPERATIONS.items():
        with pytest.raises(ValueError, match="timeout must be a positive number"):
            getattr(model, name)(*arguments, timeout=timeout)
    assert not [row for row in server.arrived[count:] if row[0] != "session_heartbeat"]


def test_a_train_step_is_one_result_of_both(server):
    with client(server, clock=ScaledClock(20)) as service:
        step = training(service).train_step(datums(2), "cross_entropy", types.AdamParams())
    assert step.metrics == {"loss:sum": 1.0}
    assert step.loss_fn_outputs is step.forward_backward.loss_fn_outputs
    assert step.optim_step.metrics is None
