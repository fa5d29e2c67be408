"""Negotiation of the protocol version on every server."""

import pytest
from imitations import SKYRL, TUFT_0_38, Imitation, client
from lessons import ADAM, GREEDY, MODEL, datum, logprobs, model, prompt

from tinkex_sync import APIStatusError, errors
from tinkex_sync.protocol import protobuf_schema as schema

#: The wire and the limit of dispatch bytes that the client uses, by server.
NEGOTIATED = {"TuFT, 0.38": ("protobuf", 10485760), "Hatchery": ("json", 134217728)}


def test_client_sends_only_what_the_server_accepts(user, imitated):
    negotiated = user.status()["protocol"]
    wire, dispatch_bytes = NEGOTIATED.get(imitated.profile.name, ("json", 5242880))
    assert (negotiated["wire"], negotiated["chosen"]) == (wire, "auto")
    assert negotiated["limits"]["dispatch_bytes"] == dispatch_bytes
    learner = model(user)
    learner.train_step([datum()], "cross_entropy", ADAM)
    learner.forward([datum()], "cross_entropy")
    sampler = learner.save_weights_and_get_sampling_client("negotiated")
    assert len(sampler.sample(prompt(), 2, GREEDY).sequences) == 2
    # No request was rejected, and no key was exchanged.
    assert [number for number, _ in imitated.numbers()] == [1, 2, 3, 4]
    trained = imitated.requests_to("forward", "forward_backward", "optim_step", "save_weights_for_sampler")
    assert [number for _, number, _, _ in trained] == [1, 2, 3, 4]
    assert not imitated.requests_to("auth_token")
    assert len(imitated.requests_to("client_config", "client/config")) == 1


def test_second_client_of_a_server_does_not_negotiate_again(user, imitated):
    with client(imitated) as second:
        assert second.status()["protocol"]["wire"] == user.status()["protocol"]["wire"]
    assert len(imitated.requests_to("client_config", "client/config")) == 1


def test_json_and_protobuf_give_the_same_numbers(server):
    def outputs(protocol):
        with Imitation(SKYRL, engine=server.base_url) as running, client(running, protocol=protocol) as service:
            learner = model(service)
            first = learner.train_step([datum(), datum(b"that is")], "cross_entropy", ADAM).forward_backward
            then = learner.forward([datum()], "cross_entropy")
            sampler = learner.save_weights_and_get_sampling_client("both")
            sampled = sampler.sample(prompt(), 1, GREEDY, include_prompt_logprobs=True)
            return [logprobs(first), logprobs(then), sampled.sequences[0].tokens, sampled.prompt_logprobs]

    old, new = outputs("0.7"), outputs("0.38")
    assert new[2] == old[2]
    for new_value, old_value in zip((*new[0], *new[1], new[3]), (*old[0], *old[1], old[3])):
        assert new_value == pytest.approx(old_value, rel=1e-5)


@pytest.mark.parametrize("operation", ["forward", "forward_backward"])
def test_client_switches_to_protobuf_if_the_server_rejects_json(server, operation):
    with Imitation(TUFT_0_38, engine=server.base_url) as running:
        running.script["client_config"] = [(404, '{"detail": "Not Found"}')]
        with client(running) as service:
            assert service.status()["protocol"]["wire"] == "json"
            learner = model(service)
            for _ in range(2):
                getattr(learner, operation)([datum()], "cross_entropy")
            assert service.status()["protocol"]["wire"] == "protobuf"
        # The rejected request is sent again with the same number, and later requests are not rejected.
        assert [number for _, number, _, _ in running.requests_to(operation)] == [1, 1, 2]


def test_error_for_a_configured_protocol_that_the_server_rejects_names_the_setting(server):
    with (
        Imitation(TUFT_0_38, engine=server.base_url) as running,
        client(running, protocol="0.7") as service,
        pytest.raises(APIStatusError, match='set protocol="auto"') as caught,
    ):
        model(service).forward_backward([datum()], "cross_entropy")
    assert caught.value.status_code == 415


def test_missing_protobuf_is_an_error_only_if_the_server_requires_it(imitated, monkeypatch):
    def missing(name):
        raise schema.missing_extra("protobuf")

    monkeypatch.setattr("tinkex_sync.protocol.protobuf_writer.message", missing)
    monkeypatch.setattr("tinkex_sync.protocol.protobuf_schema.reads_protobuf", lambda: False)
    with client(imitated) as service:
        assert len(service.create_sampling_client(base_model=MODEL).sample(prompt(), 1, GREEDY).sequences) == 1
        learner = model(service)
        if "json" in imitated.profile.wires:
            assert logprobs(learner.forward_backward([datum()], "cross_entropy"))
        else:
            with pytest.raises(errors.MissingExtraError, match=r"pip install 'tinkex-sync\[proto\]'"):
                learner.forward_backward([datum()], "cross_entropy")
            learner.optim_step(ADAM)  # the number is not used up
        assert [number for number, _ in imitated.numbers()] == [1]
