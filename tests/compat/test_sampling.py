"""The official SamplingClient: how it is made, what it returns, and pickling."""

import asyncio
import concurrent.futures
import pickle

import pytest

import tinkex_sync.compat as tinker

PARAMS = tinker.SamplingParams(max_tokens=2, seed=1)
PROMPT = tinker.ModelInput.from_ints([1, 2, 3])


def test_a_sampling_client_can_be_pickled(client):
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    copy = pickle.loads(pickle.dumps(sampler))
    assert len(copy.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens) == 2
    assert copy.holder is not client.holder
    copy.holder.close()


def tokens(response):
    return list(response.sequences[0].tokens)


def test_the_constructor_and_create_join_an_existing_sampling_session(client):
    made = tinker.SamplingClient.create(client.holder, base_model="tinkex/tiny").result()
    session_id = made.native.sampling_session_id
    joined = tinker.SamplingClient(client.holder, sampling_session_id=session_id)
    created = tinker.SamplingClient.create(client.holder, sampling_session_id=session_id)
    assert isinstance(created, tinker.APIFuture)
    assert {one.native.sampling_session_id for one in (made, joined, created.result())} == {session_id}
    assert tokens(joined.sample(PROMPT, 1, PARAMS).result()) == tokens(made.sample(PROMPT, 1, PARAMS).result())


def test_create_returns_the_error_of_the_server_in_its_future(client):
    opening = tinker.SamplingClient.create(client.holder, base_model="no/such-model")
    with pytest.raises(tinker.APIStatusError, match="no/such-model"):
        opening.result(30)


def test_samples_and_log_probabilities_are_futures_of_the_standard_library(client):
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    sample, logprobs = sampler.sample(PROMPT, 1, PARAMS), sampler.compute_logprobs(PROMPT)
    done, _ = concurrent.futures.wait([sample, logprobs], timeout=30)
    assert done == {sample, logprobs}
    assert len(tokens(sample.result())) == 2
    assert logprobs.result()[0] is None
    assert len(logprobs.result()) == 3


def test_an_async_method_returns_the_result_of_the_blocking_method(client):
    sampler = client.create_sampling_client(base_model="tinkex/tiny")

    async def both():
        return await sampler.sample_async(PROMPT, 1, PARAMS), await sampler.compute_logprobs_async(PROMPT)

    sample, logprobs = asyncio.run(both())
    assert tokens(sample) == tokens(sampler.sample(PROMPT, 1, PARAMS).result())
    assert logprobs == sampler.compute_logprobs(PROMPT).result()


def test_an_unpickled_client_does_not_share_the_holder_but_the_sampling_session(client):
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.native.sampling_session_id == sampler.native.sampling_session_id
    assert copy.holder is not sampler.holder
    copy.holder.close()
    assert len(tokens(sampler.sample(PROMPT, 1, PARAMS).result())) == 2
