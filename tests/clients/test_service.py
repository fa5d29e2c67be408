"""The service client: its state, results of earlier processes, the settings it connects with, and its end."""

import sys

import pytest
from scripted_server import Answer, ScriptedServer

import tinkex_sync
from tinkex_sync import BadRequestError, ConfigError, MissingExtraError, ServiceClient, types
from tinkex_sync.clients.service import resolve_endpoint
from tinkex_sync.config import LOCAL_KEY, Config

PARAMS = types.SamplingParams(max_tokens=2)


@pytest.fixture
def scripted():
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        with ServiceClient(base_url=server.base_url, api_key="k", load_plugins=False) as client:
            yield server, client


def test_status_contains_the_documented_keys(service):
    status = service.status()
    assert list(status) == [
        "session_id",
        "base_url",
        "heartbeat_age",
        "open",
        "protocol",
        "billing",
        "throttle",
        "transport",
        "plugins",
    ]
    assert status["session_id"] == service.session_id
    assert (status["open"], status["billing"]) == ([], None)


def test_create_rest_client_sends_no_request(scripted):
    server, client = scripted
    count = len(server.requests)
    assert isinstance(client.create_rest_client(), tinkex_sync.RestClient)
    assert len(server.requests) == count


@pytest.mark.parametrize(
    ("kind", "body", "result"),
    [
        ("optim_step", {"metrics": {"a": 1.0}}, types.OptimStepResponse),
        ("save_state", {"path": "tinker://r/weights/a"}, types.SaveWeightsResponse),
        ("sample", {"sequences": []}, types.SampleResponse),
        ("create_lora_training_client", {"model_id": "m"}, types.CreateModelResponse),
    ],
)
def test_resume_future_returns_the_result_of_its_kind_in_both_forms(scripted, kind, body, result):
    server, client = scripted
    server.defaults["retrieve_future"] = Answer(body=body)
    assert isinstance(client.resume_future("req-1", kind), result)
    assert isinstance(client.submit_resume_future("req-1", kind).result(10), result)
    assert {one.body["request_id"] for one in server.sent("retrieve_future")} == {"req-1"}


@pytest.mark.parametrize("arguments", [("req-1", "asleep"), ("", "sample"), (7, "sample")])
def test_resume_future_refuses_invalid_arguments_before_anything_is_sent(scripted, arguments):
    server, client = scripted
    with pytest.raises(ValueError, match="kind|request_id"):
        client.resume_future(*arguments)
    assert not server.sent("retrieve_future")


@pytest.mark.parametrize("rank", [-1, True, 1.5, "8", None])
def test_an_invalid_rank_is_refused_before_anything_is_sent(scripted, rank):
    server, client = scripted
    for create in (client.create_lora_training_client, client.submit_create_lora_training_client):
        with pytest.raises(ValueError, match="rank must be a whole number of at least 0, not"):
            create("base", rank)
    assert not server.sent("create_model")


def test_the_session_reports_how_the_with_block_ended(scripted):
    server, _ = scripted
    with pytest.raises(KeyError), ServiceClient(base_url=server.base_url, api_key="k", protocol="0.38"):
        raise KeyError("k")
    with ServiceClient(base_url=server.base_url, api_key="k", protocol="0.38"):
        pass
    errored, success = [one.body for one in server.sent("sessions/sess-1/finish")]
    assert errored == {"reason": {"type": "errored"}, "detail": "KeyError: 'k'"}
    assert success == {"reason": {"type": "success"}, "detail": None}


def test_resolve_endpoint_requires_credentials():
    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        resolve_endpoint(Config(base_url="http://127.0.0.1:1"))
    complete = Config(base_url="http://127.0.0.1:1", api_key="tml-k")
    assert resolve_endpoint(complete) is complete


def test_resolve_endpoint_starts_the_embedded_server(monkeypatch):
    monkeypatch.setattr("tinkex_sync.local.local_base_url", lambda: "http://127.0.0.1:9")
    config = resolve_endpoint(Config(base_url="local"))
    assert (config.base_url, config.api_key) == ("http://127.0.0.1:9", LOCAL_KEY)


def test_resolve_endpoint_names_the_extra_of_the_embedded_server(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinkex_sync.local", None)
    with pytest.raises(MissingExtraError, match=r"tinkex-sync\[local\]"):
        resolve_endpoint(Config(base_url="local"))


def test_a_rank_of_0_is_sent_because_some_servers_have_a_meaning_for_it(scripted):
    server, client = scripted
    server.script("create_model", Answer(400, body={"detail": "rank must be positive"}))
    with pytest.raises(BadRequestError, match="rank must be positive"):
        client.create_lora_training_client("base", 0)
    assert server.sent("create_model")[0].body["lora_config"]["rank"] == 0


def test_a_url_as_first_argument_is_refused_with_the_right_call():
    with pytest.raises(TypeError, match=r"user_metadata.* not str: use ServiceClient\(base_url=\.\.\."):
        ServiceClient("http://127.0.0.1:1")
