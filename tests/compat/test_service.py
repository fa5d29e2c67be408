"""The official ServiceClient: its session, its other clients, and its end."""

import asyncio
import logging

import pytest
from scripted_server import Answer, ScriptedServer

import tinkex_sync.compat as tinker


@pytest.fixture
def scripted():
    with ScriptedServer() as running:
        running.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        running.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "sampler-1"})
        yield running


def service_of(server, **arguments):
    return tinker.ServiceClient(base_url=server.base_url, api_key="key", load_plugins=False, **arguments)


def test_the_constructor_creates_a_session_with_the_users_labels(scripted):
    made = service_of(scripted, user_metadata={"a": "b"})
    assert scripted.sent("create_session")[0].body["user_metadata"] == {"a": "b"}
    assert made.holder.get_session_id() == "sess-1"
    made.close()


def test_a_rejected_session_is_an_error_of_the_constructor(scripted):
    scripted.script("create_session", Answer(401, {"detail": "bad key"}))
    with pytest.raises(tinker.AuthenticationError, match="bad key"):
        service_of(scripted)


@pytest.mark.parametrize("status", ["done", "", None])
def test_close_refuses_an_unknown_status(scripted, status):
    made = service_of(scripted)
    with pytest.raises(ValueError, match="status must be 'success', 'errored' or 'interrupted', not"):
        made.close(status)
    assert made.close("interrupted", "stopped by the user").result(5) is None
    assert made.close().result(5) is None


def test_after_close_no_client_sends_a_request(scripted):
    made = service_of(scripted)
    rest = made.create_rest_client()
    made.close().result(5)
    with pytest.raises(tinker.TinkerError, match="closed"):
        rest.list_sessions().result(5)
    assert [one.operation for one in scripted.requests] == ["client/config", "create_session"]


def test_creating_a_rest_client_sends_no_request(scripted):
    made = service_of(scripted)
    assert isinstance(made.create_rest_client(), tinker.RestClient)
    assert [one.operation for one in scripted.requests] == ["client/config", "create_session"]
    made.close()


def test_all_clients_share_the_session(client):
    training = client.create_lora_training_client("tinkex/tiny", rank=2)
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    rest = client.create_rest_client()
    assert {id(one.holder) for one in (training, sampler, rest)} == {id(client.holder)}
    session = rest.get_session(client.holder.get_session_id()).result(30)
    assert session.training_run_ids == [training.model_id]
    assert session.sampler_ids == [sampler.native.sampling_session_id]


def test_clients_are_created_from_a_saved_state_and_in_an_event_loop(client):
    path = client.create_lora_training_client("tinkex/tiny", rank=2).save_state("s").result(30).path

    async def created():
        return [
            await client.create_lora_training_client_async("tinkex/tiny", rank=2),
            await client.create_training_client_from_state_async(path),
            await client.create_training_client_from_state_with_optimizer_async(path),
            await client.create_sampling_client_async(base_model="tinkex/tiny"),
            await client.get_server_capabilities_async(),
        ]

    *trainings, sampler, capabilities = asyncio.run(created())
    trainings.append(client.create_training_client_from_state(path))
    assert {one.get_info().lora_rank for one in trainings} == {2}
    assert isinstance(sampler, tinker.SamplingClient)
    assert capabilities == client.get_server_capabilities()


def test_a_pause_is_logged_by_the_plugin_that_the_client_replaces(scripted, caplog):
    paused = {"type": "try_again", "queue_state": "paused_capacity", "queue_state_reason": "full"}
    scripted.defaults["asample"] = Answer(body={"request_id": "r"})
    scripted.script("retrieve_future", Answer(408, paused))
    scripted.defaults["retrieve_future"] = Answer(body={"sequences": [{"stop_reason": "length", "tokens": [7]}]})
    made = service_of(scripted)
    names = {row.name: row.status for row in made.native.plugins.report()}
    assert names["queue_state_hooks"] == "active"
    assert names.get("queue_log") != "active"
    sampler = made.create_sampling_client(base_model="m")
    with caplog.at_level(logging.WARNING, "tinkex_sync"):
        sampler.sample(tinker.ModelInput.from_ints([1]), 1, tinker.SamplingParams(max_tokens=1)).result(30)
        made.close()  # delivers the events that are queued
    assert [one.getMessage() for one in caplog.records if "paused" in one.getMessage()] == [
        "Sampling is paused for sampler sampler-1. Reason: full"
    ]
