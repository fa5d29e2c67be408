"""Batches: chunks in order, results merged in order, errors that name the datums."""

import threading

import pytest
from imitations import ADAM, datum, datums

from tinkex_sync import RequestFailedError
from tinkex_sync.training.batch import datum_list


def test_results_are_merged_in_the_order_of_the_chunks(imitation, model):
    """The results are fetched in the opposite order."""

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
    handle = imitation.handle

    def reversed_polls(endpoint, body):
        if endpoint != "retrieve_future":
            return handle(endpoint, body)
        number = imitation.accepted_operations[body["request_id"]].number
        with order:
            # The result of the last chunk is returned first.
            assert order.wait_for(lambda: number == 5 - len(seen), 20)
            seen.append(number)
            order.notify_all()
        return tagged(number)

    imitation.handle = reversed_polls
    whole = model.forward(datums(9), "cross_entropy", timeout=30)
    assert seen == [5, 4, 3, 2, 1]
    assert [one["logprobs"].data[0] for one in whole.loss_fn_outputs] == [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert whole.metrics == {"loss:sum": 15.0, "loss:mean": 3.0, "clock:max": 5.0}


def test_the_error_of_a_failed_chunk_names_its_datums(imitation, model):
    imitation.fails.add(2)
    with pytest.raises(RequestFailedError, match=r"it failed.*\(datums 2 to 3\)"):
        model.forward_backward(datums(5), "cross_entropy", timeout=20)
    assert model.optim_step(ADAM, timeout=20)
    assert [number for number, _ in imitation.numbers()] == [1, 2, 3, 4]


def test_data_may_be_any_iterable_and_is_read_to_its_end_before_anything_is_sent(imitation, model):
    def generated():
        yield datum(1)
        assert not imitation.requests_to("forward")
        yield datum(2)

    assert len(model.forward(generated(), "cross_entropy", timeout=20).loss_fn_outputs) == 2

    def broken():
        yield datum(1)
        raise LookupError("no more data")

    with pytest.raises(LookupError, match="no more data"):
        model.forward(broken(), "cross_entropy")
    assert len(imitation.requests_to("forward")) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([], "cross_entropy"), ValueError, "data is empty"),
        (([3], "cross_entropy"), TypeError, r"data\[0\] must be a Datum, not int"),
        ((datums(1), "hinge"), ValueError, "'hinge' is none of cross_entropy"),
        ((datums(1), "cross_entropy", 3), TypeError, "loss_fn_config must be a dict"),
    ],
)
def test_invalid_batches_are_rejected_before_anything_is_sent(imitation, model, arguments, error, text):
    with pytest.raises(error, match=text):
        model.submit_forward(*arguments)
    assert imitation.requests_to("forward") == []


@pytest.mark.parametrize("data", [datum(), 5, None])
def test_a_batch_that_is_no_list_is_refused_with_the_right_call(data) -> None:
    with pytest.raises(TypeError, match=r"data must be a list of Datum objects, as in \[datum\], not"):
        datum_list(data)
    one = datum()
    assert datum_list(iter([one])) == [one]
