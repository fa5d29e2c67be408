"""Polls for the completions of a sampler."""

from server_calls import counted_result, until

from tinkex_sync import types

PROMPT = types.ModelInput.from_ints(list(b"the quick "))


PARAMS = types.SamplingParams(max_tokens=4, seed=1)


KEY = "tml-k"


def test_client_retrieves_all_samples_by_polling_completions(server_0_38):
    def sampled(service):
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        futures = [sampler.submit_sample(PROMPT, 1, PARAMS) for _ in range(20)]
        return [len(future.result(timeout=60).sequences[0].tokens) for future in futures]

    before = server_0_38.stats()["requests"]
    lengths, counted = counted_result(server_0_38, sampled)
    after = server_0_38.stats()["requests"]
    assert lengths == [4] * 20
    assert counted["samples_acknowledged"] >= 1
    assert after["/api/v1/retrieve_futures"]["200"] > before.get("/api/v1/retrieve_futures", {}).get("200", 0)


def test_cursor_selects_completions_and_acknowledged_results_are_discarded(wire_0_38):
    sampler = wire_0_38.sampler(wire_0_38.session())
    target = {"type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": 0}
    first = wire_0_38.sample(sampler, 0).json()["request_id"]
    response = wire_0_38.ok("retrieve_futures", {"target": target, "prev_cursor": 0})
    assert [one["request_id"] for one in response["completions"]] == [first]
    assert (response["cursor"], response["completions"][0]["state"]) == (1, "finished")
    assert response["completions"][0]["response_payload_uncompressed_size"] > 0
    broken = wire_0_38.sample(sampler, 1, sampling_params={"max_tokens": 4, "top_p": 0.0}).json()["request_id"]
    ack = {"target": target, "prev_cursor": 1, "timeout": 0.0, "retrieved_request_ids": [first]}
    response = until(lambda: next((a for a in [wire_0_38.ok("retrieve_futures", ack)] if a["completions"]), None))
    assert response == {"completions": [{"state": "failed", "request_id": broken}], "cursor": 2}
    # A result that no poll has returned is kept, although it was acknowledged.
    assert wire_0_38.poll({"request_id": first}).status_code == 200
    assert wire_0_38.ok("retrieve_futures", {**ack, "prev_cursor": 2}) == {"completions": [], "cursor": 2}
    assert wire_0_38.poll({"request_id": first}).status_code == 410
    # Only polls of the copy return the samples of the copy.
    wire_0_38.sample(sampler, 3_000_000_000)
    copy = {**target, "cloned_sampler_id": 3}
    assert wire_0_38.ok("retrieve_futures", {"target": copy, "prev_cursor": 0})["cursor"] == 1
    assert wire_0_38.ok("retrieve_futures", {**ack, "prev_cursor": 2})["cursor"] == 2
