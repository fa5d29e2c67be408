"""Advice in the messages of errors: the setting to check, and endpoints that a server does not have."""

import pytest
from scripted_server import Answer, ScriptedServer, SteppedClock, bare_session

from tinkex_sync import types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.config import Config
from tinkex_sync.errors import APIError, NotFoundError, status_error
from tinkex_sync.http.error_advice import is_unknown_endpoint, what_is_lost
from tinkex_sync.http.request import Request
from tinkex_sync.plugins.registry import Observers
from tinkex_sync.session import Session


@pytest.fixture
def clock():
    return SteppedClock()


@pytest.mark.parametrize("endpoint", ["asample", "get_info"])
def test_a_missing_endpoint_is_named_in_the_error(clock, endpoint):
    with bare_session(clock) as (server, session):
        server.defaults[endpoint] = Answer(404, {"detail": "Not Found"})
        with pytest.raises(NotFoundError, match=f"no such endpoint: POST http.*/api/v1/{endpoint}"):
            if endpoint == "asample":
                sampler = SamplingClient(session, "sampler-1")
                sampler.sample(types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=1))
            else:
                session.call(Request("get_info", {"model_id": "m"}))


def message_of_first_contact(answer, **settings):
    """Return the message of the error for a response to the creation of the session."""
    with bare_session(SteppedClock(), **settings) as (server, session):
        server.defaults["create_session"] = answer
        with pytest.raises(APIError) as caught:
            session.open()
        return str(caught.value).replace(server.base_url, "URL")


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (Answer(401, {"detail": "x"}), "the API key was refused: give api_key= or set TINKER_API_KEY"),
        (Answer(403, {"detail": "x"}), "the API key was refused: give api_key= or set TINKER_API_KEY"),
        (Answer(404, {"detail": "x"}), "there is no Tinker API at this address: check base_url="),
        (Answer(405, {"detail": "x"}), "there is no Tinker API at this address: check base_url="),
        (Answer(301, text="", headers={"Location": "/x"}), "not a Tinker server but a gateway or login page"),
        (
            Answer(401, text="<html>Sign in", headers={"Via": "1.1 corp"}),
            "login page (1.1 corp) responded: check base_url=",
        ),
        (
            Answer(502, text="<html>Bad Gateway", headers={"Server": "corp"}),
            "a gateway or login page (corp) responded: check base_url=, proxies=; base_url is URL",
        ),
        (Answer(text="<html>welcome</html>"), "that is not the response of a Tinker server: check base_url="),
        (Answer(400, {"detail": "unsupported SDK version"}), "set sdk_version= (now '0.7.0')"),
    ],
    ids=["401", "403", "404", "405", "301", "login", "502", "html", "version"],
)
def test_an_error_of_the_first_contact_names_the_setting_to_check(answer, advice):
    message = message_of_first_contact(answer)
    assert advice in message


def test_a_server_that_cannot_be_reached_is_named_with_its_address():
    with ScriptedServer() as server:
        pass
    session = Session(
        Config(base_url=server.base_url, api_key="k", clock=SteppedClock()), Observers((), autoload=False)
    )
    with pytest.raises(APIError, match=f"cannot be reached: check .*; base_url is {server.base_url}"):
        session.open()
    session.close()


def test_a_protocol_that_the_server_refuses_is_named():
    with bare_session(SteppedClock(), protocol="0.38") as (server, session):
        server.defaults["get_info"] = Answer(415, {"detail": "unsupported"})
        with pytest.raises(APIError, match='protocol 0.38: set protocol="auto"'):
            session.call(Request("get_info", {"model_id": "m"}))


def test_later_errors_of_a_known_endpoint_have_no_advice(clock):
    with bare_session(clock) as (server, session):
        server.defaults["get_info"] = Answer(404, {"detail": "model 'm' does not exist"})
        with pytest.raises(NotFoundError) as caught:
            session.call(Request("get_info", {"model_id": "m"}))
    assert "[" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "is_unknown"),
    [
        (404, {"detail": "Not Found"}, True),
        (405, {"detail": "Method Not Allowed"}, True),
        (404, "", True),
        (404, " <html>", True),
        (404, {"detail": "model not found"}, False),
        (404, "no such model", False),
        (400, {"detail": "Not Found"}, False),
    ],
)
def test_an_unknown_endpoint_is_told_from_a_missing_resource(status, body, is_unknown):
    assert is_unknown_endpoint(status_error(status, body=body)) is is_unknown


@pytest.mark.parametrize(
    ("status", "detail", "lost", "remedy"),
    [
        (404, "Session not found", "session", "make a new ServiceClient"),
        (400, "Unknown session s-1", "session", "make a new ServiceClient"),
        (404, "session s-1 does not exist", "session", "make a new ServiceClient"),
        (400, "Model m-1 not loaded", "model", "create_training_client_from_state_with_optimizer"),
        (404, "model m-1 not found", None, ""),
        (500, "session not found", None, ""),
    ],
)
def test_what_the_server_has_lost_is_named_with_the_remedy(clock, status, detail, lost, remedy):
    assert what_is_lost(status_error(status, body={"detail": detail})) == lost
    with bare_session(clock, max_retries=0) as (server, session):
        server.defaults["get_server_capabilities"] = Answer(status, {"detail": detail})
        with pytest.raises(APIError) as caught:
            session.call(Request("get_server_capabilities"))
    assert remedy in str(caught.value)
    assert ("[" in str(caught.value)) is bool(remedy)
