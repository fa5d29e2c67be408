"""Samplers, samples, their rate limit and their cancellation."""

import pickle

import pytest
from server_calls import counted_result

from tinkex_sync import types
from tinkex_sync.local import Faults


def test_sample_has_tokens_logprobs_and_prompt_logprobs(wire):
    sampler = wire.sampler(wire.session())
    body = wire.sample_body(sampler, 0, num_samples=2, prompt_logprobs=True, topk_prompt_logprobs=2)
    response = wire.result(wire.ok("asample", body))
    assert len(response["sequences"]) == 2
    for sequence in response["sequences"]:
        assert sequence["stop_reason"] in ("length", "stop")
        assert len(sequence["tokens"]) == len(sequence["logprobs"]) > 0
    assert len(response["prompt_logprobs"]) == len(response["topk_prompt_logprobs"]) == 5
    assert response["prompt_logprobs"][0] is None


def test_sampling_session_number_identifies_one_sampler(wire):
    session = wire.session()
    assert wire.sampler(session, 0) == wire.sampler(session, 0)
    body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": "Qwen/Qwen3-8B"}
    assert wire.post("create_sampling_session", body).status_code == 409


PROMPT = types.ModelInput.from_ints(list(b"the quick "))


PARAMS = types.SamplingParams(max_tokens=4, seed=1)


KEY = "tml-k"


def test_sample_can_be_cancelled_before_it_is_computed(server_0_38, wire_0_38):
    sampler = wire_0_38.sampler(wire_0_38.session())
    before = server_0_38.stats()
    server_0_38.set_faults(Faults(pause=60, pause_kind="sampling"))
    future = wire_0_38.sample(sampler, 0).json()
    assert wire_0_38.post("cancel_future", future).status_code == 200
    assert "cancelled" in wire_0_38.result(future)["error"]
    server_0_38.set_faults(Faults())
    done = wire_0_38.sample(sampler, 1).json()
    wire_0_38.result(done)
    assert wire_0_38.post("cancel_future", done).status_code == 200
    after = server_0_38.stats()
    assert after["samples_cancelled"] - before["samples_cancelled"] == 1
    assert after["samples_accepted"] - before["samples_accepted"] == 2
    assert after["samples_done"] - before["samples_done"] == 1
    assert wire_0_38.post("cancel_future", {"request_id": "none"}).status_code == 404
    assert wire_0_38.post("cancel_future", wire_0_38.backward(wire_0_38.model())).status_code == 400


def test_copies_of_a_sampler_get_different_numbers(server_0_38, wire_0_38):
    sampler = wire_0_38.sampler(wire_0_38.session())
    joined = [wire_0_38.ok("join_sampling_session", {"sampling_session_id": sampler}) for _ in range(3)]
    assert [one["client_counter"] for one in joined] == [1, 2, 3]
    assert wire_0_38.post("join_sampling_session", {"sampling_session_id": "none"}).status_code == 404

    def copied(service):
        original = service.create_sampling_client(base_model="tinkex/tiny")
        copy = pickle.loads(pickle.dumps(original))  # noqa: S301
        (ours,), (theirs,) = (one.sample(PROMPT, 1, PARAMS).sequences for one in (copy, original))
        return (ours.tokens, ours.logprobs) == (theirs.tokens, theirs.logprobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_API_KEY", KEY)
        same, counted = counted_result(server_0_38, copied)
    assert same
    assert counted["dedupe_hits"] == 0
    assert server_0_38.stats()["requests"]["/api/v1/join_sampling_session"]["200"] == 4


def scored(wire, **fields):
    sampler = wire.sampler(wire.session())
    return wire.result(wire.sample(sampler, 0, **fields).json())


def test_empty_list_of_stops_disables_the_end_of_text_token(wire_0_38):
    params = {"max_tokens": 40, "seed": 5, "temperature": 3.0, "stop": []}
    body = {"sampling_params": params, "num_samples": 64}
    assert {one["stop_reason"] for one in scored(wire_0_38, **body)["sequences"]} == {"length"}
    del params["stop"]
    assert "stop" in {one["stop_reason"] for one in scored(wire_0_38, **body)["sequences"]}


def test_429_of_the_token_bucket_contains_the_configured_fields(server, wire):
    sampler = wire.sampler(wire.session())
    before = server.stats()
    server.set_faults(
        Faults(
            admit_per_second=0.001,
            admit_burst=4,
            retry_after=0.5,
            refusal_state="paused_capacity",
            refusal_reason="full",
        )
    )
    responses = [wire.sample(sampler, seq) for seq in range(5)]
    assert [response.status_code for response in responses] == [200, 200, 200, 200, 429]
    rejection = responses[4]
    assert rejection.headers["Retry-After"] == "0.5"
    assert rejection.json()["queue_state"] == "paused_capacity"
    assert rejection.json()["queue_state_reason"] == "full"
    # A rejected number is not used up.
    server.set_faults(Faults())
    assert wire.sample(sampler, 4).status_code == 200
    after = server.stats()
    assert after["samples_refused"] - before["samples_refused"] == 1
    assert after["samples_accepted"] - before["samples_accepted"] == 5


def test_429_contains_only_the_configured_fields(server, wire):
    sampler = wire.sampler(wire.session())
    server.set_faults(Faults(admit_per_second=0.001))
    wire.sample(sampler, 0)
    rejection = wire.sample(sampler, 1)
    assert rejection.status_code == 429
    assert "Retry-After" not in rejection.headers
    assert set(rejection.json()) == {"detail"}


def test_repetition_of_an_admitted_sample_is_not_rate_limited(server, wire):
    sampler = wire.sampler(wire.session())
    server.set_faults(Faults(admit_per_second=0.001))
    assert wire.sample(sampler, 0).json() == wire.sample(sampler, 0).json()
