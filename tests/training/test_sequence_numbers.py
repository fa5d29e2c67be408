"""Numbers of training operations on servers that deduplicate, that demand consecutive numbers, and that do neither."""

import pytest
from imitations import (
    ADAM,
    COLUMNS,
    HATCHERY,
    NEITHER,
    SKYRL,
    TUFT,
    Imitation,
    client,
    datums,
    training,
)

from tinkex_sync import (
    BadRequestError,
    ConflictError,
    OutcomeUnknownError,
    PartialBatchError,
    PromiseExpiredError,
    RequestFailedError,
    TinkexError,
    WithdrawnError,
)
from tinkex_sync.concurrency.clock import ScaledClock

NAMES = [column.name for column in COLUMNS]
POSTS = 8


def run(server, **settings):
    """A small script: two train steps, the first of three chunks; a save; one more step. Outcomes by operation."""
    outcomes = []
    with client(server, max_chunk_datums=2, clock=ScaledClock(50), **settings) as service:
        model = training(service)
        for operation in (
            lambda: model.train_step(datums(5), "cross_entropy", ADAM),
            lambda: model.save_state("one"),
            lambda: model.train_step(datums(2), "cross_entropy", ADAM),
            lambda: model.optim_step(ADAM),
        ):
            try:
                operation()
                outcomes.append("ok")
            except TinkexError as error:
                outcomes.append(error)
    return outcomes


OPERATIONS = [
    *["forward_backward"] * 3,
    "optim_step",
    "save_weights",
    "forward_backward",
    "optim_step",
    "optim_step",
]


@pytest.mark.parametrize("column", COLUMNS, ids=NAMES)
def test_each_operation_has_the_next_number_from_1(column):
    with Imitation(column) as server:
        assert run(server) == ["ok"] * 4
        assert server.numbers() == list(enumerate(OPERATIONS, 1))


@pytest.mark.parametrize("lost", range(POSTS))
@pytest.mark.parametrize("column", COLUMNS, ids=NAMES)
def test_a_request_that_never_arrived_is_made_up_for(column, lost):
    with Imitation(column) as server:
        server.script["training"] = [None] * lost + ["before"]
        assert run(server) == ["ok"] * 4
        assert server.numbers() == list(enumerate(OPERATIONS, 1))


@pytest.mark.parametrize("lost", range(POSTS))
@pytest.mark.parametrize("column", [SKYRL, HATCHERY], ids=["SkyRL", "Hatchery"])
def test_where_the_server_deduplicates_a_lost_reply_applies_nothing_twice(column, lost):
    with Imitation(column) as server:
        server.script["training"] = [None] * lost + ["after"]
        assert run(server) == ["ok"] * 4
        assert server.numbers() == list(enumerate(OPERATIONS, 1))
        keys = [key for _, number, key, _ in server.requests_to(OPERATIONS[lost]) if number == lost + 1]
        assert len(keys) == 2
        assert len(set(keys)) == 1


@pytest.mark.parametrize("lost", range(POSTS))
def test_where_numbers_must_be_consecutive_a_lost_reply_is_told_and_the_rest_goes_on(lost):
    with Imitation(TUFT) as server:
        server.script["training"] = [None] * lost + ["after"]
        outcomes = run(server)
        numbers = server.numbers()
    hit = [0, 0, 0, 0, 1, 2, 2, 3][lost]
    for index, outcome in enumerate(outcomes):
        if index != hit:
            assert outcome == "ok"
    error = outcomes[hit]
    if lost in (1, 2):
        assert isinstance(error, PartialBatchError)
        assert error.accepted == (0, 2 * lost)
        assert error.refused == (2 * lost, 5)
        error = error.__cause__
    assert isinstance(error, OutcomeUnknownError)
    assert error.seq_id == lost + 1
    # What it had applied it applied once; what was withdrawn used up no number.
    withdrawn = {0: OPERATIONS[1:4], 1: OPERATIONS[2:4], 2: OPERATIONS[3:4], 5: OPERATIONS[6:7]}.get(lost, [])
    expected = OPERATIONS[: lost + 1] + OPERATIONS[lost + 1 + len(withdrawn) :]
    assert numbers == list(enumerate(expected, 1))


@pytest.mark.parametrize("lost", range(POSTS))
def test_where_numbers_mean_nothing_a_lost_reply_may_apply_twice_under_one_number(lost):
    with Imitation(NEITHER) as server:
        server.script["training"] = [None] * lost + ["after"]
        assert run(server) == ["ok"] * 4
        expected = list(enumerate(OPERATIONS, 1))
        assert server.numbers() == expected[: lost + 1] + expected[lost:]


@pytest.mark.parametrize("column", COLUMNS, ids=NAMES)
def test_a_refused_operation_gives_its_number_to_the_next(column):
    with Imitation(column) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        model.forward_backward(datums(1), "cross_entropy")
        server.script["training"] = [(400, {"detail": "the learning rate is out of range"})]
        with pytest.raises(BadRequestError, match="out of range"):
            model.optim_step(ADAM)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "forward_backward"), (2, "optim_step")]


@pytest.mark.parametrize("status", [409, 501])
def test_statuses_that_are_permanent_somewhere_are_final_after_three_tries(status):
    with Imitation(HATCHERY) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = [(status, {"detail": "no such loss"})] * 3
        with pytest.raises(TinkexError, match="no such loss"):
            model.forward(datums(1), "dro")
        model.optim_step(ADAM)
        assert [number for _, number, _, _ in server.requests_to("forward")] == [1, 1, 1]
        assert server.numbers() == [(1, "optim_step")]


@pytest.mark.parametrize("column", COLUMNS, ids=NAMES)
def test_a_chunk_refused_in_the_middle(column):
    with Imitation(column) as server, client(server, max_chunk_datums=2, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = [None, (400, {"detail": "datum 3 is too long"})]
        backward, step = model.submit_train_step(datums(5), "cross_entropy", ADAM)
        with pytest.raises(PartialBatchError, match="datums 0 to 1 were accepted, datums 2 to 4") as caught:
            backward.result(20)
        assert caught.value.accepted == (0, 2)
        assert caught.value.refused == (2, 5)
        assert isinstance(caught.value.__cause__, BadRequestError)
        with pytest.raises(WithdrawnError):
            step.result(20)
        with pytest.raises(PartialBatchError):
            server.script["training"] = [None, (422, {"detail": "again"})]
            model.train_step(datums(5), "cross_entropy", ADAM)
        # The client goes on: the same two datums twice, and now the rest with its step.
        model.train_step(datums(3), "cross_entropy", ADAM)
        assert server.numbers() == [
            (1, "forward_backward"),
            (2, "forward_backward"),
            (3, "forward_backward"),
            (4, "forward_backward"),
            (5, "optim_step"),
        ]


def test_the_first_chunk_refused_is_the_plain_error():
    with Imitation(SKYRL) as server, client(server, max_chunk_datums=2) as service:
        model = training(service)
        server.script["training"] = [(400, {"detail": "no"})]
        backward, step = model.submit_train_step(datums(5), "cross_entropy", ADAM)
        with pytest.raises(BadRequestError):
            backward.result(20)
        with pytest.raises(WithdrawnError) as caught:
            step.result(20)
        assert isinstance(caught.value.__cause__, BadRequestError)
        assert server.numbers() == []


@pytest.mark.parametrize("column", [SKYRL, HATCHERY], ids=["SkyRL", "Hatchery"])
def test_a_promise_lost_once_is_asked_for_again_with_number_key_and_body(column):
    with Imitation(column) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.expires[1] = 1
        model.forward_backward(datums(2), "cross_entropy")
        first, second = server.requests_to("forward_backward")
        assert first == second
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "forward_backward"), (2, "optim_step")]


@pytest.mark.parametrize("column", COLUMNS, ids=NAMES)
def test_a_promise_lost_for_good_is_told_as_such(column):
    with Imitation(column) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.expires[1] = 100
        with pytest.raises(PromiseExpiredError, match="was accepted"):
            model.forward_backward(datums(2), "cross_entropy")
        model.optim_step(ADAM)
        sent = [number for _, number, _, _ in server.requests_to("forward_backward")]
        # Once more; a server that demands the next number answers that 409, which is tried three times.
        assert sent == [1] * (4 if column is TUFT else 2)
        assert server.numbers()[-1] == (2, "optim_step")


@pytest.mark.parametrize("column", COLUMNS, ids=NAMES)
def test_an_operation_that_fails_on_the_server_keeps_its_number(column):
    with Imitation(column) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.fails.add(1)
        with pytest.raises(TinkexError, match="it failed") as caught:
            model.forward_backward(datums(1), "cross_entropy")
        assert not isinstance(caught.value, OutcomeUnknownError)
        if column.failure == "failed":
            assert isinstance(caught.value, RequestFailedError)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "forward_backward"), (2, "optim_step")]


def test_a_doubtful_number_that_was_free_after_all_is_used():
    """The request was lost, and the retries are refused for another reason: the server still wants that number."""
    with Imitation(TUFT) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = ["before", (400, {"detail": "refused"})]
        with pytest.raises(OutcomeUnknownError, match="refused"):
            model.forward_backward(datums(1), "cross_entropy")
        model.optim_step(ADAM)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]
        assert [number for _, number, _, _ in server.requests_to("optim_step")] == [2, 2, 2, 1, 2]


def test_two_doubtful_numbers_in_a_row_do_not_stop_the_client():
    with Imitation(TUFT) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        for _ in range(2):
            server.script["training"] = ["before", (400, {"detail": "refused"})]
            with pytest.raises(OutcomeUnknownError):
                model.forward_backward(datums(1), "cross_entropy")
        model.optim_step(ADAM)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]


def test_a_conflict_without_doubt_is_just_an_error():
    with Imitation(TUFT) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = [(409, {"detail": "a checkpoint of that name exists"})] * 3
        with pytest.raises(ConflictError, match="of that name"):
            model.save_state("one")
        model.save_state("two")
        assert server.numbers() == [(1, "save_weights")]


def test_a_500_before_the_work_is_retried_with_the_same_number():
    with Imitation(TUFT) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = [(500, "oops"), (503, {"detail": "busy"})]
        model.forward_backward(datums(1), "cross_entropy")
        assert server.numbers() == [(1, "forward_backward")]
