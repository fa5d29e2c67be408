"""Keys, passwords, queries and headers are sent, and appear in no text that the client produces."""

import contextlib
import io
import logging
import pickle
import traceback

import pytest
from scripted_server import Answer, ScriptedServer

from tinkex_sync import Config, ServiceClient, hookimpl
from tinkex_sync.errors import ConfigError, TinkexError
from tinkex_sync.protocol import negotiation

SECRETS = {
    "key": "tml-k3y-k3y-k3y",
    "password": "p4ssw0rd-p4ssw0rd",
    "basic": "am9lOnA0c3N3MHJkLXA0c3N3MHJk",
    "query": "qu3ry-qu3ry-qu3ry",
    "header": "h34der-h34der-h34der",
}


def found_in(text):
    return [name for name, secret in SECRETS.items() if secret in text]


class Recorder:
    def __init__(self):
        self.seen = []

    @hookimpl
    def tinkex_request_finished(self, source, call_id, method, path, attempt, status, elapsed, error):
        self.seen.append(repr((source, call_id, method, path, attempt, status, elapsed, error)))

    @hookimpl
    def tinkex_retry_scheduled(self, source, cause):
        self.seen.append(repr((source, cause, vars(cause))))


@pytest.fixture
def output():
    """All log text, at DEBUG."""
    text, root = io.StringIO(), logging.getLogger()
    handler, before = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture
def server():
    with ScriptedServer() as running:
        running.defaults["create_session"] = Answer(body={"session_id": "s-1", "type": "create_session"})
        running.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "sampler-1"})
        yield running


def config(server, **settings):
    address = server.base_url.replace("//", f"//joe:{SECRETS['password']}@") + f"?token={SECRETS['query']}"
    secret = {"api_key": SECRETS["key"], "headers": {"X-Gateway": SECRETS["header"]}}
    return Config(base_url=address, protocol="0.7", retry_for=0.5, **{**secret, **settings})


def test_user_password_and_query_of_the_address_are_sent_with_every_request(server):
    with ServiceClient(config=config(server), load_plugins=False) as service:
        service.create_sampling_client(base_model="m")
    assert len(server.requests) >= 2
    for request in server.requests:
        assert request.headers["authorization"] == f"Basic {SECRETS['basic']}"
        assert request.query == {"token": SECRETS["query"]}
    again = Config(base_url="https://j%40e:a%2Fb@host/p", headers={"X": "y"})
    assert again.base_url == "https://host/p"
    assert again.headers == {"X": "y", "Authorization": "Basic akBlOmEvYg=="}


def test_no_secret_is_in_a_repr_status_error_pickle_log_or_hook(server, output):
    given, recorder = config(server), Recorder()
    # The server returns everything that it was sent.
    echo = "".join(SECRETS.values())
    server.script("get_server_capabilities", Answer(500, {"detail": echo}, headers={"X-Echo": echo}))
    server.script("get_server_capabilities", Answer(drop=True))
    server.defaults["get_server_capabilities"] = Answer(403, text=f"<html>{echo}</html>")
    texts = {"repr(config)": repr(given)}
    with ServiceClient(config=given, plugins=[recorder], load_plugins=False) as service:
        sampler = service.create_sampling_client(base_model="m")
        texts["repr(client)"] = repr((service, sampler, service.session))
        texts["status"] = repr(service.status())
        texts["pickle"] = pickle.dumps(sampler).decode("latin-1")
        for number in range(2):
            with pytest.raises(TinkexError) as caught:
                service.get_server_capabilities()
            error = caught.value
            texts[f"error {number}"] = f"{error!r} {vars(error)} {error.response}"
            texts[f"pickled error {number}"] = pickle.dumps(error).decode("latin-1")
    negotiation.forget()
    server.script("create_session", Answer(401, {"detail": echo}))
    with pytest.raises(TinkexError) as caught:
        ServiceClient(config=given, load_plugins=False)
    texts["first contact"] = "".join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
    refused = Config(base_url=f"http://127.0.0.1:9/?token={SECRETS['query']}", api_key="k", first_contact_timeout=0.1)
    with pytest.raises(TinkexError) as caught:
        ServiceClient(config=refused, load_plugins=False)
    texts["refused"] = "".join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
    texts["hooks"] = "".join(recorder.seen)
    texts["log"] = output.getvalue()
    assert {where: found for where, text in texts.items() if (found := found_in(text))} == {}
    assert recorder.seen


@pytest.mark.parametrize("status", [200, 403])
def test_a_deprecation_note_that_repeats_the_secrets_is_logged_without_them(server, output, status):
    note = {"x-deprecation-note": "old " + " ".join(SECRETS.values())}
    server.defaults["get_server_capabilities"] = Answer(status, {"supported_models": []}, headers=note)
    with ServiceClient(config=config(server), load_plugins=False) as service, contextlib.suppress(TinkexError):
        service.get_server_capabilities()
    assert "old *** ***" in output.getvalue()
    assert not found_in(output.getvalue())


@pytest.mark.parametrize(
    "address", ["ftp://joe:{}@host", "joe:{}@host", "http://joe:{}@", "http://joe:{}@[", "http://h:p?x={}", "{}@"]
)
def test_an_invalid_address_is_shown_without_its_secrets(address):
    with pytest.raises(ConfigError, match="TINKER_BASE_URL") as caught:
        Config(base_url=address.format(SECRETS["password"]))
    assert not found_in(str(caught.value))


def test_another_process_reads_the_credentials_of_the_address_from_its_environment(server, monkeypatch):
    given = config(server)
    stripped = pickle.loads(pickle.dumps(given.for_pickle()))
    assert (stripped.headers, stripped.default_query) == ({}, {})
    monkeypatch.setenv("TINKER_BASE_URL", server.base_url.replace("//", "//joe:pw@") + "?a=b")
    restored = stripped.with_credentials_from_env()
    assert restored.headers["Authorization"].startswith("Basic ") and restored.default_query == {"a": "b"}
    monkeypatch.setenv("TINKER_BASE_URL", "http://joe:pw@elsewhere")
    assert stripped.with_credentials_from_env().headers == {}
