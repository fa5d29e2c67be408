"""Outcomes of operations on a server that compares numbers at execution and does not count failed operations."""

import threading

import pytest
from imitations import ADAM, HATCHERY, LATE, SKYRL, Imitation, client, datums, training
from scripted_server import bare_session

from tinkex_sync import ClosedError, ConflictError, NotFoundError, OutcomeUnknownError, RequestFailedError
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.errors import status_error
from tinkex_sync.training.sequence_numbers import OperationOutcomes, expects_lower_number


@pytest.fixture
def server():
    with Imitation(LATE) as running:
        yield running


@pytest.fixture
def model(server):
    with client(server, clock=ScaledClock(100), max_chunk_datums=2) as service:
        yield training(service)


def sent(server, *endpoints):
    return [(endpoint, number) for endpoint, number, _, _ in server.requests_to(*endpoints)]


def test_without_failures_every_request_is_sent_once_under_the_next_number(server, model):
    model.train_step(datums(5), "cross_entropy", ADAM)
    model.save_state("one")
    assert [number for number, _ in server.numbers()] == [1, 2, 3, 4, 5]
    assert len(server.requests_to("forward_backward", "optim_step", "save_weights")) == 5


def test_after_a_failure_the_next_operation_is_sent_again_under_its_number_and_later_ones_once(server, model):
    model.optim_step(ADAM)
    server.fails.add(2)
    with pytest.raises(NotFoundError, match="it failed"):
        model.forward_backward(datums(1), "cross_entropy")
    model.optim_step(ADAM)
    assert sent(server, "optim_step") == [("optim_step", 1), ("optim_step", 3), ("optim_step", 2)]
    keys = {key for _, _, key, _ in server.requests_to("optim_step")}
    assert len(keys) == 3
    # The server has shown that failures use up no number, so later requests have the right number immediately.
    model.save_state("one")
    model.optim_step(ADAM)
    assert sent(server, "save_weights") == [("save_weights", 3)]
    assert server.numbers() == [(1, "optim_step"), (2, "optim_step"), (3, "save_weights"), (4, "optim_step")]


def test_operations_after_several_failures_use_the_first_free_number(server, model):
    for _ in range(3):
        server.fails.add(1)
        with pytest.raises(NotFoundError, match="it failed"):
            model.save_state("one")
    model.optim_step(ADAM)
    model.optim_step(ADAM)
    assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]


def test_operations_in_progress_behind_a_failure_keep_their_order(server, model):
    server.fails.add(2)
    backward, step = model.submit_train_step(datums(5), "cross_entropy", ADAM)
    more = [
        model.submit_save_state("one"),
        model.submit_optim_step(ADAM),
        model.submit_load_state("tinker://m/weights/n"),
    ]
    with pytest.raises(NotFoundError, match=r"it failed.*\(datums 2 to 3\)"):
        backward.result(30)
    for future in [step, *more]:
        future.result(30)
    assert server.numbers() == [
        (1, "forward_backward"),
        (2, "forward_backward"),
        (3, "optim_step"),
        (4, "save_weights"),
        (5, "optim_step"),
        (6, "load_weights"),
    ]


def test_a_lost_response_ends_in_an_unknown_outcome(server, model):
    server.script["optim_step"] = ["after"]
    with pytest.raises(OutcomeUnknownError, match="expected 2, got 1") as caught:
        model.optim_step(ADAM)
    assert caught.value.seq_id == 1
    assert isinstance(caught.value.__cause__, ConflictError)
    model.optim_step(ADAM)
    assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]


def test_a_request_that_never_arrived_is_sent_again(server, model):
    server.script["training"] = ["before", None, "before"]
    model.train_step(datums(3), "cross_entropy", ADAM)
    assert [number for number, _ in server.numbers()] == [1, 2, 3]


def test_a_conflict_about_something_else_is_raised_without_a_second_request(server, model):
    server.script["retrieve_future"] = [(409, {"detail": "tensors must have the same shape"})]
    with pytest.raises(ConflictError, match="the same shape"):
        model.optim_step(ADAM)
    assert len(server.requests_to("optim_step")) == 1


@pytest.mark.parametrize("column", [SKYRL, HATCHERY], ids=["SkyRL", "Hatchery"])
def test_servers_that_count_failed_operations_get_every_request_once(column):
    with Imitation(column) as server, client(server) as service:
        model = training(service)
        server.fails.add(1)
        with pytest.raises(Exception, match="it failed"):
            model.optim_step(ADAM)
        for _ in range(3):
            model.optim_step(ADAM)
        assert sent(server, "optim_step") == [("optim_step", number) for number in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("error", "lower"),
    [
        (status_error(409, body={"detail": "Sequence conflict: expected 2, got 4."}), True),
        (RequestFailedError("Request failed: expected sequence id 3 but got 4 (request 7)"), True),
        (status_error(409, body={"detail": "Sequence conflict: expected 5, got 4."}), False),
        (status_error(409, body={"detail": "a checkpoint of that name exists"}), False),
        (status_error(409, body={"detail": "expected 2 tensors, got 3"}), False),
        (RequestFailedError("expected 2 tensors, got 3"), None),
        (status_error(400, body={"detail": "too long"}), None),
        (RequestFailedError("out of memory"), None),
    ],
    ids=str,
)
def test_conflicts_of_numbers_are_recognized_by_status_or_text(error, lower):
    assert expects_lower_number(error, 4) is lower


@pytest.fixture
def session():
    with bare_session() as (_, session):
        yield session


@pytest.fixture
def outcomes(session):
    outcomes = OperationOutcomes(session)
    for position in (1, 2, 3):
        outcomes.record_accepted(position)
    return outcomes


def test_numbers_leave_out_failed_operations_only_after_a_server_has_shown_that(outcomes):
    outcomes.record_outcome(2, failed=True)
    assert [outcomes.number_at(position) for position in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert [outcomes.number_without_failed(position) for position in (1, 2, 3, 4)] == [1, 2, 2, 3]
    outcomes.skips_failed = True
    assert [outcomes.number_at(position) for position in (3, 4)] == [2, 3]


def waiting(outcomes, position):
    """A thread that waits for the outcomes before a position, and the list to which it appends what it gets."""
    got = []

    def wait():
        try:
            got.append(outcomes.wait_for_earlier(position))
        except ClosedError as error:
            got.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, got


def test_a_wait_for_earlier_outcomes_ends_with_the_last_of_them(outcomes):
    assert outcomes.wait_for_earlier(1) is False
    thread, got = waiting(outcomes, 3)
    outcomes.record_outcome(2)
    thread.join(0.1)
    assert thread.is_alive()
    outcomes.record_outcome(1, failed=True)
    thread.join(10)
    assert got == [True]


def test_closing_ends_a_wait_for_earlier_outcomes(session, outcomes):
    thread, got = waiting(outcomes, 3)
    session.close()
    thread.join(10)
    assert [type(one) for one in got] == [ClosedError]
    with pytest.raises(ClosedError):
        outcomes.wait_for_earlier(3)
