"""Clients in other processes: what rebuilds itself, what refuses, and what must stay silent."""

import multiprocessing
import os
import pickle

import pytest

from tinkex_sync import ForkedClientError, ServiceClient, types
from tinkex_sync.config import Config

PARAMS = types.SamplingParams(max_tokens=2, temperature=0.0)


def prompt(first, second):
    return types.ModelInput.from_ints([first % 256, second % 256])


def draw(job):
    sampler, number = job
    return [
        (second, sampler.sample(prompt(number, second), 1, PARAMS).sequences[0].tokens)
        for second in range(25)
    ]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_sampler_works_in_other_processes_and_every_reply_belongs_to_its_prompt(service, method):
    sampler = service.create_sampling_client(base_model="tinkex/tiny")
    here = [draw((sampler, number)) for number in range(4)]
    with multiprocessing.get_context(method).Pool(4) as pool:
        there = pool.map(draw, [(sampler, number) for number in range(4)])
    assert there == here
    assert sampler.sample(prompt(1, 1), 1, PARAMS)


def in_a_child(function):
    """Run in a forked child; what it returns, as text."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writable, "w") as out:
                out.write(str(function()))
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def test_clients_that_cannot_be_shared_say_so_in_the_child(service):
    training = service.create_lora_training_client("tinkex/tiny", rank=2)

    def child():
        refused = 0
        for use in (
            service.get_server_capabilities,
            training.get_info,
            lambda: training.optim_step(types.AdamParams()),
        ):
            try:
                use()
            except ForkedClientError as error:
                refused += "ServiceClient" in str(error)
        return refused

    assert in_a_child(child) == "3"
    assert training.optim_step(types.AdamParams())


def test_closing_in_the_child_leaves_the_parent_alone(service):
    sampler = service.create_sampling_client(base_model="tinkex/tiny")
    before = sampler.sample(prompt(3, 4), 1, PARAMS)

    def child():
        with service:
            pass
        return service.close()

    assert in_a_child(child) == "[]"
    assert sampler.sample(prompt(3, 4), 1, PARAMS) == before
    assert service.get_server_capabilities().supported_models


def test_a_rest_client_rebuilds_itself_in_the_child(service):
    rest = service.create_rest_client()
    assert service.session_id in rest.list_sessions(limit=1000).sessions
    assert in_a_child(lambda: service.session_id in rest.list_sessions(limit=1000).sessions) == "True"


def test_a_pickle_holds_no_credentials_unless_asked(server):
    for keep in (False, True):
        with ServiceClient(
            base_url=server.base_url, api_key="tml-very-secret", load_plugins=False, pickle_credentials=keep
        ) as service:
            sampler = service.create_sampling_client(base_model="tinkex/tiny")
            assert (b"tml-very-secret" in pickle.dumps(sampler)) is keep


def test_no_repr_shows_a_secret():
    config = Config(
        api_key="tml-very-secret",
        headers={"Cookie": "tml-very-secret"},
        proxies={"http": "http://u:tml-very-secret@p"},
    )
    assert "secret" not in repr(config)
