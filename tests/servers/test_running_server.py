"""The recipe of docs/servers.md: on the imitations in every run, and on request on a server that is running.

TINKEX_SERVER_URL, TINKEX_SERVER_KEY and TINKEX_SERVER_MODEL name the running server.
"""

import os

import pytest
from imitations import HATCHERY, SKYRL, TUFT, Imitation
from lessons import ADAM, MODEL, datum, logprobs, loss, prompt

from tinkex_sync import ServiceClient, types
from tinkex_sync.local import Faults

STEPS, SAMPLES = 8, 20
URL = os.environ.get("TINKEX_SERVER_URL")


@pytest.fixture(params=[SKYRL, TUFT, HATCHERY, None], ids=["skyrl", "tuft", "hatchery", "running server"])
def settings(request, server):
    """Yield the arguments of a client and the base model."""
    if request.param is None:
        if not URL:
            pytest.skip("set TINKEX_SERVER_URL, TINKEX_SERVER_KEY and TINKEX_SERVER_MODEL, then run tox -e servers")
        key = os.environ.get("TINKEX_SERVER_KEY") or "none"
        yield {"base_url": URL, "api_key": key, "load_plugins": False}, os.environ.get("TINKEX_SERVER_MODEL")
        return
    server.set_faults(Faults())
    with Imitation(request.param, engine=server.base_url) as running:
        yield {"base_url": running.base_url, "api_key": "tml-key", "load_plugins": False}, MODEL


@pytest.fixture
def service(settings):
    with ServiceClient(**settings[0]) as client:
        yield client


@pytest.fixture
def base_model(service, settings):
    """The model that the environment names, otherwise the first of the server."""
    return settings[1] or service.get_server_capabilities().supported_models[0].model_name


@pytest.fixture
def learner(service, base_model):
    return service.create_lora_training_client(base_model, rank=8, seed=1)


def test_training_reduces_the_loss_of_its_datum(learner):
    losses = [loss(learner.train_step([datum()], "cross_entropy", ADAM).forward_backward) for _ in range(STEPS)]
    assert losses[-1] < losses[0], losses


def test_a_batch_returns_one_output_for_each_datum_in_order(learner):
    data = [datum(b"to be, or not to be"[: 4 + length]) for length in range(8)]
    outputs = logprobs(learner.forward_backward(data, "cross_entropy"))
    assert [len(one) for one in outputs] == [3 + length for length in range(8)]


def test_saved_weights_are_sampled_with_both_forms(learner):
    learner.train_step([datum()], "cross_entropy", ADAM)
    params = types.SamplingParams(max_tokens=4, temperature=1.0)
    sampler = learner.save_weights_and_get_sampling_client("recipe")
    assert sampler.sample(prompt(), 2, params).sequences[1].tokens
    responses = list(sampler.sample_many([prompt()] * SAMPLES, 1, params))
    assert len(responses) == SAMPLES and all(response.sequences[0].tokens for response in responses)
