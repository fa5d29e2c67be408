"""Sequence numbers on servers that deduplicate, that require consecutive numbers, and that do neither."""

import pytest
from imitations import ADAM, HATCHERY, NEITHER, PROFILES, SKYRL, TUFT, Imitation, client, datums, training

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

NAMES = [profile.name for profile in PROFILES]
POSTS = 8


def run(server, **settings):
    """Run two train steps, the first with three chunks, a save and an optimizer step; return "ok" or each error."""
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


OPERATIONS = [*["forward_backward"] * 3, "optim_step", "save_weights", "forward_backward", "optim_step", "optim_step"]


@pytest.mark.parametrize("profile", PROFILES, ids=NAMES)
def test_operations_have_consecutive_numbers_from_1(profile):
    with Imitation(profile) as server:
        assert run(server) == ["ok"] * 4
        assert server.numbers() == list(enumerate(OPERATIONS, 1))


@pytest.mark.parametrize("lost", range(POSTS))
@pytest.mark.parametrize("profile", PROFILES, ids=NAMES)
def test_a_request_that_never_arrived_is_sent_again_under_its_number(profile, lost):
    with Imitation(profile) as server:
        server.script["training"] = [None] * lost + ["before"]
        assert run(server) == ["ok"] * 4
        assert server.numbers() == list(enumerate(OPERATIONS, 1))


@pytest.mark.parametrize("lost", range(POSTS))
@pytest.mark.parametrize("profile", [SKYRL, HATCHERY], ids=["SkyRL", "Hatchery"])
def test_servers_that_deduplicate_apply_nothing_twice_after_a_lost_response(profile, lost):
    with Imitation(profile) as server:
        server.script["training"] = [None] * lost + ["after"]
        assert run(server) == ["ok"] * 4
        assert server.numbers() == list(enumerate(OPERATIONS, 1))
        keys = [key for _, number, key, _ in server.requests_to(OPERATIONS[lost]) if number == lost + 1]
        assert len(keys) == 2
        assert len(set(keys)) == 1


@pytest.mark.parametrize("lost", range(POSTS))
def test_servers_that_require_consecutive_numbers_report_a_lost_response_and_later_operations_work(lost):
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
    # Nothing was applied twice, and withdrawn operations used up no number.
    withdrawn = {0: OPERATIONS[1:4], 1: OPERATIONS[2:4], 2: OPERATIONS[3:4], 5: OPERATIONS[6:7]}.get(lost, [])
    expected = OPERATIONS[: lost + 1] + OPERATIONS[lost + 1 + len(withdrawn) :]
    assert numbers == list(enumerate(expected, 1))


@pytest.mark.parametrize("lost", range(POSTS))
def test_servers_that_ignore_numbers_may_apply_an_operation_twice_after_a_lost_response(lost):
    with Imitation(NEITHER) as server:
        server.script["training"] = [None] * lost + ["after"]
        assert run(server) == ["ok"] * 4
        expected = list(enumerate(OPERATIONS, 1))
        assert server.numbers() == expected[: lost + 1] + expected[lost:]


@pytest.mark.parametrize("profile", PROFILES, ids=NAMES)
def test_the_number_of_a_rejected_operation_is_used_by_the_next_one(profile):
    with Imitation(profile) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        model.forward_backward(datums(1), "cross_entropy")
        server.script["training"] = [(400, {"detail": "the learning rate is out of range"})]
        with pytest.raises(BadRequestError, match="out of range"):
            model.optim_step(ADAM)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "forward_backward"), (2, "optim_step")]


@pytest.mark.parametrize("status", [409, 501])
def test_statuses_that_some_servers_return_permanently_are_final_after_three_attempts(status):
    with Imitation(HATCHERY) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = [(status, {"detail": "no such loss"})] * 3
        with pytest.raises(TinkexError, match="no such loss"):
            model.forward(datums(1), "dro")
        model.optim_step(ADAM)
        assert [number for _, number, _, _ in server.requests_to("forward")] == [1, 1, 1]
        assert server.numbers() == [(1, "optim_step")]


@pytest.mark.parametrize("profile", PROFILES, ids=NAMES)
def test_a_chunk_rejected_in_the_middle_is_a_partial_batch_and_withdraws_the_optimizer_step(profile):
    with Imitation(profile) as server, client(server, max_chunk_datums=2, clock=ScaledClock(50)) as service:
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
        # The client continues: the first two datums were sent twice; the next batch and its step are sent now.
        model.train_step(datums(3), "cross_entropy", ADAM)
        assert server.numbers() == [
            (1, "forward_backward"),
            (2, "forward_backward"),
            (3, "forward_backward"),
            (4, "forward_backward"),
            (5, "optim_step"),
        ]


def test_a_rejected_first_chunk_is_raised_as_its_own_error():
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


@pytest.mark.parametrize("profile", [SKYRL, HATCHERY], ids=["SkyRL", "Hatchery"])
def test_an_operation_whose_result_was_lost_once_is_sent_again_with_the_same_number_key_and_body(profile):
    with Imitation(profile) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.expires[1] = 1
        model.forward_backward(datums(2), "cross_entropy")
        first, second = server.requests_to("forward_backward")
        assert first == second
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "forward_backward"), (2, "optim_step")]


@pytest.mark.parametrize("profile", PROFILES, ids=NAMES)
def test_a_result_that_was_lost_twice_is_an_error_and_the_operation_keeps_its_number(profile):
    with Imitation(profile) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.expires[1] = 100
        with pytest.raises(PromiseExpiredError, match="was accepted"):
            model.forward_backward(datums(2), "cross_entropy")
        model.optim_step(ADAM)
        sent = [number for _, number, _, _ in server.requests_to("forward_backward")]
        # Sent once more. A server that requires the next number returns 409, which is attempted three times.
        assert sent == [1] * (4 if profile is TUFT else 2)
        assert server.numbers()[-1] == (2, "optim_step")


@pytest.mark.parametrize("profile", PROFILES, ids=NAMES)
def test_an_operation_that_failed_on_the_server_keeps_its_number(profile):
    with Imitation(profile) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.fails.add(1)
        with pytest.raises(TinkexError, match="it failed") as caught:
            model.forward_backward(datums(1), "cross_entropy")
        assert not isinstance(caught.value, OutcomeUnknownError)
        if profile.failure == "failed":
            assert isinstance(caught.value, RequestFailedError)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "forward_backward"), (2, "optim_step")]


def test_a_doubtful_number_that_was_unused_is_used_by_the_next_operation():
    """The first attempt did not arrive, and the next one was rejected: the server still expects that number."""
    with Imitation(TUFT) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = ["before", (400, {"detail": "refused"})]
        with pytest.raises(OutcomeUnknownError, match="refused"):
            model.forward_backward(datums(1), "cross_entropy")
        model.optim_step(ADAM)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]
        assert [number for _, number, _, _ in server.requests_to("optim_step")] == [2, 2, 2, 1, 2]


def test_two_consecutive_doubtful_numbers_do_not_block_later_operations():
    with Imitation(TUFT) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        for _ in range(2):
            server.script["training"] = ["before", (400, {"detail": "refused"})]
            with pytest.raises(OutcomeUnknownError):
                model.forward_backward(datums(1), "cross_entropy")
        model.optim_step(ADAM)
        model.optim_step(ADAM)
        assert server.numbers() == [(1, "optim_step"), (2, "optim_step")]


def test_a_conflict_without_a_doubtful_number_is_raised_and_later_operations_work():
    with Imitation(TUFT) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = [(409, {"detail": "a checkpoint of that name exists"})] * 3
        with pytest.raises(ConflictError, match="of that name"):
            model.save_state("one")
        model.save_state("two")
        assert server.numbers() == [(1, "save_weights")]


def test_a_5xx_is_retried_with_the_same_number():
    with Imitation(TUFT) as server, client(server, clock=ScaledClock(50)) as service:
        model = training(service)
        server.script["training"] = [(500, "oops"), (503, {"detail": "busy"})]
        model.forward_backward(datums(1), "cross_entropy")
        assert server.numbers() == [(1, "forward_backward")]
