"""Clients in forked processes: sampling and REST clients rebuild themselves, the others raise ForkedClientError."""

import multiprocessing
import os
import pickle
import threading
import time
from dataclasses import replace

import pytest
from imitations import TUFT, Imitation, client

from tinkex_sync import DeadlineExceeded, ForkedClientError, ServiceClient, types
from tinkex_sync.config import Config

PARAMS = types.SamplingParams(max_tokens=2, temperature=0.0)


def prompt(first, second):
    return types.ModelInput.from_ints([first % 256, second % 256])


def sample_all(job):
    sampler, number = job
    return [(second, sampler.sample(prompt(number, second), 1, PARAMS).sequences[0].tokens) for second in range(25)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_sampler_in_other_processes_returns_the_responses_of_its_prompts(service, method):
    sampler = service.create_sampling_client(base_model="tinkex/tiny")
    here = [sample_all((sampler, number)) for number in range(4)]
    with multiprocessing.get_context(method).Pool(4) as pool:
        there = pool.map(sample_all, [(sampler, number) for number in range(4)])
    assert there == here
    assert sampler.sample(prompt(1, 1), 1, PARAMS)


def in_a_child(function):
    """Run a function in a forked child and return its result as text."""
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


def test_service_and_training_clients_raise_forked_client_error_in_the_child(service):
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


def test_closing_in_the_child_does_not_change_the_parent(service):
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


def test_a_pickle_contains_credentials_only_with_pickle_credentials(server):
    for keep in (False, True):
        with ServiceClient(
            base_url=server.base_url, api_key="tml-very-secret", load_plugins=False, pickle_credentials=keep
        ) as service:
            sampler = service.create_sampling_client(base_model="tinkex/tiny")
            assert (b"tml-very-secret" in pickle.dumps(sampler)) is keep


def test_the_repr_of_a_config_contains_no_secret():
    config = Config(
        api_key="tml-very-secret", headers={"Cookie": "tml-very-secret"}, proxies={"http": "http://u:tml-very-secret@p"}
    )
    assert "secret" not in repr(config)


def test_clients_stay_usable_after_a_fork_while_threads_use_them(service):
    """Other threads hold locks of the client when the process forks, and the child does not have those threads."""
    sampler, rest = service.create_sampling_client(base_model="tinkex/tiny"), service.create_rest_client()
    busy, stop = threading.Event(), threading.Event()

    def keep_busy(number):
        while not stop.is_set():
            sampler.sample(prompt(number, 1), 1, PARAMS)
            rest.get_session(service.session_id)
            busy.set()

    threads = [threading.Thread(target=keep_busy, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert busy.wait(20)
    expected = sampler.sample(prompt(7, 7), 1, PARAMS)

    def child():
        again = sampler.sample(prompt(7, 7), 1, PARAMS, timeout=20)
        many = list(sampler.sample_many([prompt(7, 7)] * 5, 1, PARAMS, timeout=20))
        known = service.session_id in rest.list_sessions(limit=1000, timeout=20).sessions
        return again == expected and many == [expected] * 5 and known

    try:
        assert [in_a_child(child) for _ in range(5)] == ["True"] * 5
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_a_child_has_its_own_throttle(server, service):
    sampler = service.create_sampling_client(base_model="tinkex/tiny")
    permit = service.session.throttle.request(10**9, lambda: None)
    assert permit.admit()
    with pytest.raises(DeadlineExceeded):
        sampler.sample(prompt(1, 2), 1, PARAMS, timeout=0.2)
    assert in_a_child(lambda: len(sampler.sample(prompt(1, 2), 1, PARAMS, timeout=20).sequences)) == "1"
    permit.release()


def test_a_sampler_works_in_a_grandchild(service):
    sampler = service.create_sampling_client(base_model="tinkex/tiny")
    expected = sampler.sample(prompt(4, 2), 1, PARAMS)

    def child():
        first = sampler.sample(prompt(4, 2), 1, PARAMS) == expected
        return first and in_a_child(lambda: sampler.sample(prompt(4, 2), 1, PARAMS) == expected)

    assert in_a_child(child) == "True"


def test_a_child_sends_heartbeats_for_the_session_and_does_not_end_it():
    with Imitation(TUFT) as server, client(server) as service:
        # The parent sends a heartbeat every 10 s; earlier ones come from the child.
        sampler = service.create_sampling_client(base_model="base")
        sampler._origin = replace(sampler._origin, config=service.config.replace(heartbeat_interval=0.02))

        def child():
            sampler.sample(prompt(1, 2), 1, PARAMS)
            session = sampler.session
            first = session.last_heartbeat
            nap = threading.Event()
            ends = time.monotonic() + 20
            while session.last_heartbeat == first and time.monotonic() < ends:
                nap.wait(0.01)
            return session.last_heartbeat > first, session.session_id == sampler._origin.session_id

        assert in_a_child(child) == "(True, True)"
        assert {body["session_id"] for _, _, _, body in server.requests_to("session_heartbeat")} == {"session"}
        assert sampler.sample(prompt(1, 2), 1, PARAMS)


def test_concurrent_first_uses_in_a_child_make_one_session(service):
    sampler = service.create_sampling_client(base_model="tinkex/tiny")

    def child():
        ready, found = threading.Barrier(8), []

        def first():
            ready.wait(10)
            found.append(sampler.session)
            sampler.sample(prompt(1, 2), 1, PARAMS)

        threads = [threading.Thread(target=first) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return len(found), len(set(map(id, found))), sampler._context.progress._running

    assert in_a_child(child) == "(8, 1, 0)"
