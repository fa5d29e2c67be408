"""Which protocol a server speaks is found out on every server, and works there, without a switch."""

import pytest
from imitations import SKYRL, TUFT_TODAY, Imitation, client
from lessons import ADAM, GREEDY, MODEL, datum, logprobs, model, prompt

from tinkex_sync import APIStatusError, errors
from tinkex_sync.protocol import protobuf_schema as schema

#: Name of a server: the wire, and the bytes of samples in dispatch, that it is given.
SPOKEN = {
    "TuFT, today": ("protobuf", 10485760),
    "Hatchery": ("json", 134217728),
}


def test_each_server_gets_what_it_takes_and_nothing_else(user, imitated):
    spoken = user.status()["protocol"]
    wire, dispatch_bytes = SPOKEN.get(imitated.column.name, ("json", 5242880))
    assert (spoken["wire"], spoken["chosen"]) == (wire, "auto")
    assert spoken["limits"]["dispatch_bytes"] == dispatch_bytes
    learner = model(user)
    learner.train_step([datum()], "cross_entropy", ADAM)
    learner.forward([datum()], "cross_entropy")
    sampler = learner.save_weights_and_get_sampling_client("spoken")
    assert len(sampler.sample(prompt(), 2, GREEDY).sequences) == 2
    # Nothing was tried in vain, and no key was exchanged.
    assert [number for number, _ in imitated.numbers()] == [1, 2, 3, 4]
    trained = imitated.requests_to("forward", "forward_backward", "optim_step", "save_weights_for_sampler")
    assert [number for _, number, _, _ in trained] == [1, 2, 3, 4]
    assert not imitated.requests_to("auth_token")
    assert len(imitated.requests_to("client_config", "client/config")) == 1


def test_the_second_client_of_a_server_does_not_ask_again(user, imitated):
    with client(imitated) as second:
        assert second.status()["protocol"]["wire"] == user.status()["protocol"]["wire"]
    assert len(imitated.requests_to("client_config", "client/config")) == 1


def test_both_wires_of_one_server_give_the_same_numbers(server):
    def outputs(protocol):
        with (
            Imitation(SKYRL, engine=server.base_url) as running,
            client(running, protocol=protocol) as service,
        ):
            learner = model(service)
            first = learner.train_step([datum(), datum(b"that is")], "cross_entropy", ADAM).forward_backward
            then = learner.forward([datum()], "cross_entropy")
            sampler = learner.save_weights_and_get_sampling_client("both")
            sampled = sampler.sample(prompt(), 1, GREEDY, include_prompt_logprobs=True)
            return [logprobs(first), logprobs(then), sampled.sequences[0].tokens, sampled.prompt_logprobs]

    old, new = outputs("0.7"), outputs("0.38")
    assert new[2] == old[2]
    for ours, theirs in zip((*new[0], *new[1], new[3]), (*old[0], *old[1], old[3])):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("operation", ["forward", "forward_backward"])
def test_a_server_that_announces_nothing_and_takes_only_protobuf_is_found_out(server, operation):
    with Imitation(TUFT_TODAY, engine=server.base_url) as running:
        running.script["client_config"] = [(404, '{"detail": "Not Found"}')]
        with client(running) as service:
            assert service.status()["protocol"]["wire"] == "json"
            learner = model(service)
            for _ in range(2):
                getattr(learner, operation)([datum()], "cross_entropy")
            assert service.status()["protocol"]["wire"] == "protobuf"
        # Once refused, with the same number again, and not tried again.
        assert [number for _, number, _, _ in running.requests_to(operation)] == [1, 1, 2]


def test_whoever_insists_on_the_older_protocol_is_told(server):
    with (
        Imitation(TUFT_TODAY, engine=server.base_url) as running,
        client(running, protocol="0.7") as service,
        pytest.raises(APIStatusError, match='set protocol="auto"') as caught,
    ):
        model(service).forward_backward([datum()], "cross_entropy")
    assert caught.value.status_code == 415


def test_without_the_extra_only_a_server_that_wants_protobuf_asks_for_it(imitated, monkeypatch):
    def missing(name):
        raise schema.missing_extra("protobuf")

    monkeypatch.setattr("tinkex_sync.protocol.protobuf_writer.message", missing)
    monkeypatch.setattr("tinkex_sync.protocol.json_wire.reads_protobuf", lambda: False)
    with client(imitated) as service:
        assert (
            len(service.create_sampling_client(base_model=MODEL).sample(prompt(), 1, GREEDY).sequences) == 1
        )
        learner = model(service)
        if "json" in imitated.column.wires:
            assert logprobs(learner.forward_backward([datum()], "cross_entropy"))
        else:
            with pytest.raises(errors.MissingExtraError, match=r"pip install 'tinkex-sync\[proto\]'"):
                learner.forward_backward([datum()], "cross_entropy")
            learner.optim_step(ADAM)  # the number is free
        assert [number for number, _ in imitated.numbers()] == [1]
