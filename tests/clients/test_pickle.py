"""Pickled clients: four processes share a sampler, and pickles contain no credentials by default."""

import multiprocessing
import os
import pickle
import traceback
from dataclasses import replace

import pytest
from imitations import HATCHERY, PARAMS, TUFT, Imitation, client, prompt

from tinkex_sync import AuthenticationError, ConfigError, NotFoundError
from tinkex_sync.config import Config

PROMPTS = 1000
SECRETS = {
    "api_key": "tml-very-secret",
    "headers": {"Cookie": "session=very-secret"},
    "proxies": {"http": "http://user:very-secret@proxy.invalid"},
    "cloudflare_access_client_id": "very-secret-id",
    "cloudflare_access_client_secret": "very-secret-too",
    "session_factory": lambda: None,
}


@pytest.fixture
def server():
    """A server that returns each prompt reversed and requires the key "tml-key"."""
    with Imitation(HATCHERY) as running:
        yield running


@pytest.fixture
def sampler(server):
    with client(server) as service:
        yield service.create_sampling_client(base_model="base")


def mismatches(job):
    """Return the pairs of prompt and response that do not match, and the number of responses."""
    sampler, process = job
    prompts = [[process, 1 + number // 256, number % 256] for number in range(PROMPTS)]
    responses = list(sampler.sample_many([prompt(*tokens) for tokens in prompts], 1, PARAMS))
    got = [list(response.sequences[0].tokens) for response in responses]
    return [(sent, received) for sent, received in zip(prompts, got) if received != sent[::-1]], len(got)


def forked(function):
    """Run a function in a child of os.fork; return its id and the pipe from which its result can be read."""
    readable, writable = os.pipe()
    child = os.fork()
    if child:
        os.close(writable)
        return child, readable
    try:
        result = function()
    except BaseException:
        result = traceback.format_exc()
    with os.fdopen(writable, "wb") as out:
        pickle.dump(result, out)
    os._exit(0)


def result_of(child, readable):
    with os.fdopen(readable, "rb") as answer:
        result = pickle.load(answer)
    assert os.waitpid(child, 0)[1] == 0
    return result


def check(results, server):
    assert results == [([], PROMPTS)] * 4
    with server.changed:
        assert len(server.sampled) == len(set(server.sampled)) == 4 * PROMPTS
        assert len({session for session, _ in server.sampled}) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_four_processes_share_a_pickled_sampler(server, sampler, monkeypatch, method):
    monkeypatch.setenv("TINKER_API_KEY", server.key)
    with multiprocessing.get_context(method).Pool(4) as pool:
        check(pool.map(mismatches, [(sampler, process) for process in range(4)], chunksize=1), server)
    assert sampler.sample(prompt(1, 2), 1, PARAMS)


def test_four_forked_processes_share_an_inherited_sampler(server, sampler):
    sampler.sample(prompt(9, 9, 9), 1, PARAMS)
    with server.changed:
        server.sampled.clear()
    children = [forked(lambda process=process: mismatches((sampler, process))) for process in range(4)]
    check([result_of(*child) for child in children], server)
    assert sampler.sample(prompt(1, 2), 1, PARAMS)


def one_sample(sampler):
    return list(sampler.sample(prompt(5, 6), 1, PARAMS).sequences[0].tokens)


def failure(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return type(error), str(error)
    return None


def test_credentials_come_from_the_environment_of_the_other_process(server, sampler, monkeypatch):
    pickled = pickle.dumps(sampler)
    assert server.key.encode() not in pickled
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1) as pool:
        kind, text = pool.apply(failure, (one_sample, sampler))
        assert kind is ConfigError
        assert "set TINKER_API_KEY here" in text
    monkeypatch.setenv("TINKER_API_KEY", "tml-other-key")
    with spawn.Pool(1) as pool:
        assert pool.apply(failure, (one_sample, sampler))[0] is AuthenticationError
    monkeypatch.setenv("TINKER_API_KEY", server.key)
    with spawn.Pool(1) as pool:
        assert pool.apply(one_sample, (sampler,)) == [6, 5]


def test_pickles_contain_credentials_with_pickle_credentials(server, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-other-key")
    with client(server, pickle_credentials=True) as service:
        sampler = service.create_sampling_client(base_model="base")
        assert server.key.encode() in pickle.dumps(sampler)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(one_sample, (sampler,)) == [6, 5]
            rest = service.create_rest_client()
            assert pool.apply(failure, (list_runs, rest))[0] is NotFoundError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_contains_no_secret(server, protocol, tmp_path):
    certificate = tmp_path / "very-secret.pem"
    certificate.write_text("")
    config = Config(**SECRETS, client_certificate=str(certificate), base_url=server.base_url)
    with client(server) as service:
        for original in (service.create_sampling_client(base_model="base"), service.create_rest_client()):
            # The server cannot be reached with this configuration; only its pickle is tested.
            original._origin = replace(original._origin, config=config)
            pickled = pickle.dumps(original, protocol)
            assert b"very-secret" not in pickled
            assert server.base_url.encode() in pickled
            assert repr(pickle.loads(pickled)) == repr(original)


def list_runs(rest):
    return rest.list_training_runs()


def test_errors_of_other_processes_keep_their_attributes():
    with Imitation(TUFT) as server, client(server, pickle_credentials=True) as service:
        rest = service.create_rest_client()
        server.script["training_runs"] = [(404, {"detail": "no runs"}, {"Retry-After": "3"})]
        with (
            multiprocessing.get_context("fork").Pool(1) as pool,
            pytest.raises(NotFoundError, match="no runs") as caught,
        ):
            pool.apply(list_runs, (rest,))
    assert caught.value.status_code == 404
    assert caught.value.body == {"detail": "no runs"}
    assert caught.value.headers["retry-after"] == "3"
    assert caught.value.request.method == "GET"
