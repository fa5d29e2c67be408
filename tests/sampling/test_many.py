"""``sample_many`` holds a bounded number of samples, and each prompt has exactly one outcome."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tinkex_sync import RequestFailedError, types
from tinkex_sync.local import Faults

PARAMS = types.SamplingParams(max_tokens=1, temperature=0.0)


def prompt(number):
    return types.ModelInput.from_ints([number % 256, number // 256 % 256])


@pytest.fixture
def sampler(service):
    return service.create_sampling_client(base_model="tinkex/tiny")


def sample(sampler, number):
    return sampler.sample(prompt(number), 1, PARAMS)


def test_responses_are_returned_in_the_order_of_the_prompts(sampler):
    responses = list(sampler.sample_many(map(prompt, range(40)), sampling_params=PARAMS, max_in_flight=8))
    assert responses == [sample(sampler, number) for number in range(40)]


def test_unordered_responses_have_their_index_and_none_is_missing(sampler):
    pairs = list(sampler.sample_many(map(prompt, range(40)), sampling_params=PARAMS, max_in_flight=8, ordered=False))
    assert sorted(index for index, _ in pairs) == list(range(40))
    assert all(response == sample(sampler, index) for index, response in pairs)


def test_prompts_are_read_at_most_max_in_flight_ahead_and_leaving_stops_it(sampler):
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield prompt(number)

    with sampler.sample_many(endless(), sampling_params=PARAMS, max_in_flight=5) as responses:
        for count, _ in enumerate(responses, 1):
            assert len(read) <= count + 5
            if count == 12:
                break
    assert len(read) <= 17
    assert list(responses) == []


def test_prompts_are_read_in_the_thread_that_iterates(sampler):
    seen = set()

    def prompts():
        for number in range(10):
            seen.add(threading.current_thread())
            yield prompt(number)

    list(sampler.sample_many(prompts(), sampling_params=PARAMS, max_in_flight=3))
    assert seen == {threading.current_thread()}


@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_replaces_its_response_or_ends_the_iteration(sampler, ordered):
    too_long = types.ModelInput.from_ints([1] * 5000)
    prompts = [prompt(1), types.ModelInput.empty(), too_long, prompt(2)]
    got = list(sampler.sample_many(prompts, sampling_params=PARAMS, ordered=ordered, on_error="yield"))
    if not ordered:
        got = [response for _, response in sorted(got, key=lambda pair: pair[0])]
    assert [type(response) for response in got] == [
        types.SampleResponse,
        ValueError,
        RequestFailedError,
        types.SampleResponse,
    ]
    with pytest.raises(RequestFailedError):
        list(sampler.sample_many([prompt(1), too_long, prompt(2)], sampling_params=PARAMS, ordered=ordered))


@pytest.mark.parametrize("wrong", [{"max_in_flight": 0}, {"on_error": "ignore"}, {"num_samples": 0}])
def test_invalid_arguments_raise(sampler, wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        list(sampler.sample_many([prompt(1)], sampling_params=PARAMS, **wrong))


def test_every_prompt_has_one_response_with_many_threads_and_a_failing_server(server, sampler):
    expected = {number: sample(sampler, number) for number in range(64)}
    server.set_faults(
        Faults(
            admit_per_second=400,
            admit_burst=50,
            fail_first={"asample": (500, 503, 502)},
            drop_before={"asample": 5, "retrieve_future": 5},
            drop_after={"asample": 5},
        )
    )
    before = server.stats()
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda number: sample(sampler, number % 64), range(600)))
    assert all(response == expected[number % 64] for number, response in enumerate(responses))
    assert server.stats()["samples_accepted"] - before["samples_accepted"] == 600
