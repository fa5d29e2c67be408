"""A server that judges numbers only when it carries operations out, and does not count those that failed."""

import pytest
from imitations import ADAM, HATCHERY, LATE, SKYRL, Imitation, client, datums, training

from tinkex_sync import ConflictError, NotFoundError, OutcomeUnknownError, RequestFailedError
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.errors import status_error
from tinkex_sync.training.late_conflicts import Verdicts, conflict


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


def test_where_all_goes_well_nothing_is_special(server, model):
    model.train_step(datums(5), "cross_entropy", ADAM)
    model.save_state("one")
    assert [number for number, _ in server.numbers()] == [1, 2, 3, 4, 5]
    assert len(server.requests_to("forward_backward", "optim_step", "save_weights")) == 5


def test_after_a_failure_the_next_takes_its_number_and_later_ones_know(server, model):
    model.optim_step(ADAM)
    server.fails.add(2)
    with pytest.raises(NotFoundError, match="it failed"):
        model.forward_backward(datums(1), "cross_entropy")
    model.optim_step(ADAM)
    assert sent(server, "optim_step") == [("optim_step", 1), ("optim_step", 3), ("optim_step", 2)]
    keys = {key for _, _, key, _ in server.requests_to("optim_step")}
    assert len(keys) == 3
    # Once the server has shown how it counts, nothing is sent twice.
    model.save_state("one")
    model.optim_step(ADAM)
    assert sent(server, "save_weights") == [("save_weights", 3)]
    assert server.numbers() == [(1, "optim_step"), (2, "optim_step"), (3, "save_weights"), (4, "optim_step")]


def test_several_failures(server, model):
    for _ in range(3):
        server.fails.add(1)
        with pytest.raises(NotFoundError, match="it failed"):
            model.save_state("one")
    model.optim_step(ADAM)
    model.optim_step(ADAM)
    assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]


def test_what_was_under_way_behind_a_failure_keeps_its_order(server, model):
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


def test_a_lost_reply_is_told_as_such(server, model):
    server.script["optim_step"] = ["after"]
    with pytest.raises(OutcomeUnknownError, match="expected 2, got 1") as caught:
        model.optim_step(ADAM)
    assert caught.value.seq_id == 1
    assert isinstance(caught.value.__cause__, ConflictError)
    model.optim_step(ADAM)
    assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]


def test_a_request_that_never_arrived_is_made_up_for(server, model):
    server.script["training"] = ["before", None, "before"]
    model.train_step(datums(3), "cross_entropy", ADAM)
    assert [number for number, _ in server.numbers()] == [1, 2, 3]


def test_another_conflict_is_an_error_like_any(server, model):
    server.script["retrieve_future"] = [(409, {"detail": "tensors must have the same shape"})]
    with pytest.raises(ConflictError, match="the same shape"):
        model.optim_step(ADAM)
    assert len(server.requests_to("optim_step")) == 1


@pytest.mark.parametrize("column", [SKYRL, HATCHERY], ids=["SkyRL", "Hatchery"])
def test_where_failures_count_nothing_is_sent_again(column):
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
def test_what_counts_as_a_conflict(error, lower):
    assert conflict(error, 4) is lower


def test_places_and_numbers():
    verdicts = Verdicts()
    for place in (1, 2, 3):
        verdicts.accepted(place)
    verdicts.settled(2, failed=True)
    assert [verdicts.number(place) for place in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert [verdicts.number_without_failed(place) for place in (1, 2, 3, 4)] == [1, 2, 2, 3]
    assert verdicts.none_open_before(1)
    assert not verdicts.none_open_before(2)
    verdicts.settled(1)
    assert verdicts.none_open_before(3)
    verdicts.skips_failed()
    assert [verdicts.number(place) for place in (3, 4)] == [2, 3]
