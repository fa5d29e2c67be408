"""The order of operations, and failed operations."""

import threading

from server_calls import datum

from tinkex_sync.local.runner import ModelQueue


def test_operations_of_a_model_run_in_the_order_of_arrival(wire):
    model = wire.model()
    futures = [step for _ in range(10) for step in (wire.backward(model), wire.step(model, learning_rate=3e-3))]
    losses = [wire.result(future)["metrics"]["loss:sum"] for future in futures[::2]]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 10


def test_ordered_operations_run_in_the_order_of_their_numbers(server_0_38, wire_0_38):
    model = wire_0_38.model()
    late = wire_0_38.send("optim_step", model, {"adam_params": {"learning_rate": 0.01}}, seq=3)
    middle = wire_0_38.backward(model, seq=2)
    body = {"request_id": late["request_id"]}
    assert wire_0_38.post("retrieve_future", body, **{"x-stainless-read-timeout": "0.2"}).status_code == 408
    first = wire_0_38.backward(model, [datum("something else")], seq=1)
    assert wire_0_38.result(late)["metrics"]["step:max"] == 1
    losses = [wire_0_38.result(future)["metrics"]["loss:sum"] for future in (first, middle)]

    serial = wire_0_38.model(number=1)
    again = [wire_0_38.backward(serial, [datum("something else")], seq=1), wire_0_38.backward(serial, seq=2)]
    assert [wire_0_38.result(future)["metrics"]["loss:sum"] for future in again] == losses


def test_failed_operation_returns_category_user_and_the_reason(wire):
    failed = wire.result(wire.backward(wire.model(), loss_fn="ppo"))
    assert failed["category"] == "user"
    assert "logprobs" in failed["error"]


def run_all(queue, numbers):
    """Submit one job per number while no job can run. Return the order in which the jobs ran."""
    order, blocked, finished = [], threading.Event(), threading.Event()
    queue.submit(blocked.wait)
    for number in numbers:
        queue.submit(lambda number=number: order.append(number), number)
    blocked.set()
    queue.submit(finished.set)
    assert finished.wait(10)
    return order


def test_ordered_queue_runs_jobs_in_the_order_of_their_numbers():
    assert run_all(ModelQueue("ordered", ordered=True), [3, 1, 2]) == [1, 2, 3]


def test_ordered_queue_runs_a_job_with_a_passed_number_on_arrival():
    assert run_all(ModelQueue("ordered", ordered=True), [1, 2, 1]) == [1, 2, 1]


def test_unordered_queue_runs_jobs_in_the_order_of_arrival():
    assert run_all(ModelQueue("unordered"), [3, 1, 2]) == [3, 1, 2]
