"""Errors of failed polls, which are ValueErrors in the official SDK."""

import copy
import pickle

import pytest
from scripted_server import Answer, ScriptedServer

import tinkex_sync
import tinkex_sync.compat as tinker
from tinkex_sync.compat.poll_errors import as_value_error
from tinkex_sync.errors import Polled, status_error

PROMPT, PARAMS = tinker.ModelInput.from_ints([1, 2]), tinker.SamplingParams(max_tokens=1)


@pytest.fixture
def server():
    with ScriptedServer() as running:
        running.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        running.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "sampler-1"})
        running.defaults["asample"] = Answer(body={"request_id": "req-1"})
        running.defaults["retrieve_future"] = Answer(403, body={"detail": "no"})
        yield running


def test_a_refused_poll_raises_an_error_of_its_status_that_is_also_a_value_error(server):
    service = tinker.ServiceClient(base_url=server.base_url, api_key="key", load_plugins=False)
    sampler = service.create_sampling_client(base_model="m")
    with pytest.raises(ValueError) as caught:
        sampler.sample(PROMPT, 1, PARAMS).result(20)
    assert isinstance(caught.value, tinker.PermissionDeniedError)
    assert caught.value.status_code == 403
    server.script("asample", Answer(403, body={"detail": "no"}))
    with pytest.raises(tinker.PermissionDeniedError) as refused:
        sampler.sample(PROMPT, 1, PARAMS).result(20)
    assert not isinstance(refused.value, ValueError)
    service.close()


def test_the_client_of_the_package_itself_raises_the_plain_class(server):
    with tinkex_sync.ServiceClient(base_url=server.base_url, api_key="key", load_plugins=False) as service:
        sampler = service.create_sampling_client(base_model="m")
        with pytest.raises(tinkex_sync.PermissionDeniedError) as caught:
            sampler.sample(PROMPT, 1, PARAMS)
    assert type(caught.value) is tinkex_sync.PermissionDeniedError


def test_such_an_error_survives_pickle_and_copy():
    error = status_error(403, body={"detail": "no"}, request_id="req-1")
    as_value_error(error)
    assert not isinstance(error, ValueError)
    error.polled = Polled("req-1", "Sample", 0)
    as_value_error(error)
    as_value_error(error)
    assert isinstance(error, ValueError)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), back.__dict__) == (str(error), error.__dict__)
    assert repr(copy.copy(error)) == repr(error)
