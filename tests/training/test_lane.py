"""The lane of a model: operations of many threads are dispatched in the order of submission."""

import itertools
import threading
import time

import pytest
from imitations import ADAM, datum, datums, training

from tinkex_sync import ClosedError, DeadlineExceeded


def test_operations_keep_the_order_of_their_thread_and_their_chunks_stay_together(imitation, model):
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
    rows = imitation.requests_to("forward_backward", "optim_step")
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


def test_the_lanes_of_two_models_do_not_wait_for_each_other(imitation, imitation_service):
    slow, quick = training(imitation_service), training(imitation_service)
    imitation.script["forward"] = [(503, "busy", {"Retry-After": "1.5"})]
    held = slow.submit_forward(datums(1), "cross_entropy")
    imitation.until(lambda: any(row[0] == "forward" for row in imitation.arrived))
    began = time.monotonic()
    assert quick.optim_step(ADAM, timeout=20)
    assert time.monotonic() - began < 1
    assert slow.get_info(timeout=20)
    assert not held.done()


def test_an_operation_that_was_sent_cannot_be_withdrawn(imitation, model):
    imitation.ready.clear()
    future = model.submit_forward(datums(1), "cross_entropy")
    imitation.until(lambda: imitation.polls == 1)
    assert not future.cancel()
    assert future.request_id in imitation.accepted_operations
    with pytest.raises(DeadlineExceeded):
        future.result(0.05)
    assert not future.done()
    imitation.ready.set()
    assert future.result(20).loss_fn_outputs


BUSY = (503, "busy", {"Retry-After": "0.4"})


def test_the_timeout_of_a_submitted_operation_withdraws_it_while_it_is_unsent(imitation, model):
    imitation.script["training"] = [BUSY]
    head = model.submit_optim_step(ADAM)
    imitation.until(lambda: any(row[0] == "optim_step" for row in imitation.arrived))
    future = model.submit_save_state("one", timeout=0.05)
    with pytest.raises(DeadlineExceeded) as caught:
        future.result(20)
    assert caught.value.sent == "no"
    assert not future.cancel()
    head.result(20)
    model.optim_step(ADAM, timeout=20)
    assert imitation.numbers() == [(1, "optim_step"), (2, "optim_step")]


def test_the_timeout_of_a_submitted_operation_fails_it_after_it_was_sent(imitation, model):
    imitation.ready.clear()
    future = model.submit_save_state("one", timeout=0.5)
    with pytest.raises(DeadlineExceeded) as caught:
        future.result(20)
    assert caught.value.sent == "yes"
    imitation.ready.set()


def test_operations_of_a_closed_client_fail(imitation_service, model):
    imitation_service.close()
    with pytest.raises(ClosedError):
        model.submit_optim_step(ADAM)
