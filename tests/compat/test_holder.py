"""The state that clients share: private names that scripts read, and the queue-state method."""

import logging
import pickle
import threading

import tinkex_sync.compat as tinker
from tinkex_sync.local import Faults

PARAMS = tinker.SamplingParams(max_tokens=2, seed=1)
PROMPT = tinker.ModelInput.from_ints([1, 2, 3])


def test_private_session_ids_that_scripts_read_exist(client):
    assert client.holder._session_id == client.holder.get_session_id()
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    assert sampler._sampling_session_id == sampler.native.sampling_session_id
    assert sampler.holder._session_id == client.holder._session_id
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy._sampling_session_id == sampler._sampling_session_id
    assert copy.holder._session_id == client.holder._session_id


def test_on_queue_state_change_can_be_overridden(client, server, caplog):
    received, event = [], threading.Event()

    class Watching(tinker.SamplingClient):
        def on_queue_state_change(self, queue_state, queue_state_reason=None):
            received.append((queue_state.value, queue_state_reason))
            event.set()

    plain = client.create_sampling_client(base_model="tinkex/tiny")
    core = client.native.create_sampling_client(base_model="tinkex/tiny")
    watching = Watching(client.holder, sampling_session_id=core.sampling_session_id)
    server.set_faults(Faults(try_again_polls=2, refusal_state="paused_capacity", pause=1, pause_reason="maintenance"))
    with caplog.at_level(logging.WARNING, "tinkex_sync"):
        watching.sample(PROMPT, 1, PARAMS).result(30)
        assert event.wait(5)
        assert watching.native.sampling_session_id not in caplog.text
        server.set_faults(
            Faults(try_again_polls=2, refusal_state="paused_capacity", pause=1, pause_reason="maintenance")
        )
        plain.sample(PROMPT, 1, PARAMS).result(30)
    assert received[0][0].startswith("paused")
    assert caplog.text.count(f"Sampling is paused for sampler {plain.native.sampling_session_id}") == 1
