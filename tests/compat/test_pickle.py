"""Pickled clients."""

import pickle

import tinkex_sync.compat as tinker

PARAMS = tinker.SamplingParams(max_tokens=2, seed=1)
PROMPT = tinker.ModelInput.from_ints([1, 2, 3])


def test_a_sampling_client_can_be_pickled(client):
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    copy = pickle.loads(pickle.dumps(sampler))
    assert len(copy.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens) == 2
    assert copy.holder is not client.holder
    copy.holder.close()


def test_a_rest_client_can_be_pickled(client):
    rest = pickle.loads(pickle.dumps(client.create_rest_client()))
    session = client.holder.get_session_id()
    assert rest.get_session(session).result().training_run_ids == []
    assert rest.get_telemetry() is None
    rest.holder.close()
    client.create_sampling_client(base_model="tinkex/tiny")
