"""The future that submitted operations return: waiting, cancelling, and errors that are never read."""

import concurrent.futures
import gc
import logging
import threading

import pytest
from imitations import ADAM, NEITHER, Imitation, client, datums, training
from scripted_server import bare_session

from tinkex_sync import DeadlineExceeded, TinkexError
from tinkex_sync.futures import Future, fail_at_deadline, wait_until
from tinkex_sync.plugins.events import Source


@pytest.fixture
def session():
    with bare_session() as (_, session):
        yield session


def make_future(session):
    return Future(session, session.begin(Source("training", "model-1", "sess-1"), "optim_step"))


@pytest.fixture
def model():
    with Imitation(NEITHER) as server, client(server, max_chunk_datums=2, drain=0) as service:
        yield training(service)


def test_futures_work_with_wait_as_completed_and_callbacks_of_the_standard_library(model):
    futures = [model.submit_optim_step(ADAM) for _ in range(4)]
    done, pending = concurrent.futures.wait(futures, timeout=20)
    assert (len(done), len(pending)) == (4, 0)
    assert {one.result().metrics for one in concurrent.futures.as_completed(futures)} == {None}
    called = threading.Event()
    model.submit_optim_step(ADAM).add_done_callback(lambda _: called.set())
    assert called.wait(20)


def test_a_callback_that_blocks_or_raises_does_not_affect_other_operations(model):
    free = threading.Event()
    model.submit_optim_step(ADAM).add_done_callback(lambda _: free.wait(20))
    model.submit_optim_step(ADAM).add_done_callback(lambda _: 1 / 0)
    try:
        assert model.train_step(datums(3), "cross_entropy", ADAM, timeout=10)
    finally:
        free.set()


def test_an_unread_error_is_logged_once_when_the_future_is_dropped(session, caplog):
    with caplog.at_level(logging.ERROR, logger="tinkex_sync.futures"):
        future = make_future(session)
        future.set_exception(TinkexError("boom"))
        del future
        gc.collect()
    assert [record.getMessage() for record in caplog.records] == [
        "Unread error: operation=optim_step error=TinkexError: boom"
    ]


@pytest.mark.parametrize("read", ["result", "exception", "abandon"])
def test_an_error_that_was_read_or_abandoned_is_not_logged(session, caplog, read):
    future = make_future(session)
    future.set_exception(TinkexError("boom"))
    if read == "result":
        with pytest.raises(TinkexError):
            future.result(1)
    else:
        getattr(future, read)()
    del future
    gc.collect()
    assert caplog.records == []


def test_an_operation_begins_once_and_then_cannot_be_withdrawn(session):
    future = make_future(session)
    assert future.begin()
    assert not future.begin()
    assert not future.cancel()
    withdrawn = make_future(session)
    assert withdrawn.cancel() and not withdrawn.begin()
    assert session.open_calls() == [future.call]


def test_a_running_operation_is_cancelled_on_the_server_if_that_is_supported(session):
    future = make_future(session)
    future.begin()
    future.cancel_remote = lambda: False
    assert not future.cancel()
    future.cancel_remote = lambda: True
    assert future.cancel()
    assert future.cancelled()
    future.set_result(1)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)


def test_the_first_outcome_is_final(session):
    future = make_future(session)
    future.set_result(1)
    future.set_exception(TinkexError("late"))
    future.set_result(2)
    assert future.result(0) == 1


def test_a_timeout_of_result_leaves_the_operation_running(session):
    future = make_future(session)
    with pytest.raises(DeadlineExceeded):
        future.result(0.01)
    assert not future.done()


def test_at_its_deadline_a_future_fails_and_an_unsent_operation_is_withdrawn(session):
    unsent, sent = make_future(session), make_future(session)
    sent.begin()
    for future in (unsent, sent):
        fail_at_deadline(session, future, session.clock.time() + 0.05)
    for future, state in ((unsent, "no"), (sent, "unknown")):
        error = future.exception(20)
        assert isinstance(error, DeadlineExceeded) and error.sent == state
    assert not unsent.begin()


def test_waiting_until_a_deadline_withdraws_an_unsent_operation(session):
    future = make_future(session)
    with pytest.raises(DeadlineExceeded) as caught:
        wait_until(session, future, session.clock.time() + 0.05)
    assert caught.value.sent == "no"
    assert future.cancelled() and session.open_calls() == []


@pytest.mark.parametrize("outcome", ["result", "error"])
def test_a_function_resolves_the_future_and_ends_its_call(session, outcome):
    future = make_future(session)
    future.resolve_by(lambda: 3 if outcome == "result" else 1 / 0)
    assert session.open_calls() == []
    if outcome == "result":
        assert future.result(0) == 3
    else:
        assert isinstance(future.exception(0), ZeroDivisionError)


def test_callbacks_of_an_operation_that_a_lane_fails_run_in_a_worker(session):
    future, names, called = make_future(session), [], threading.Event()
    future.add_done_callback(lambda _: (names.append(threading.current_thread().name), called.set()))
    future.fail_in_worker(TinkexError("boom"))
    assert called.wait(20) and session.open_calls() == []
    assert isinstance(future.exception(0), TinkexError)
    assert names[0].startswith("tinkex-work-")
