"""Plugins in real runs do not change the results of the run."""

import logging
import threading

import pytest

from tinkex_sync import ServiceClient, hookimpl, types
from tinkex_sync.local import Faults
from tinkex_sync.testing import HookRecorder, check_plugin
from tinkex_sync.training.chunking import plan

# Unusable plugins are also reported by warnings; tests below read the log and the report.
pytestmark = pytest.mark.filterwarnings("ignore:plugin .*:RuntimeWarning")

PROMPT = types.ModelInput.from_ints(list(b"to be"))
PARAMS = types.SamplingParams(max_tokens=6, seed=5)


def datum(text=b"to be, or not to be"):
    tokens = list(text)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={"target_tokens": tokens[1:]}
    )


def run(server, *plugins, **settings):
    """Train two steps and sample; return the metrics and the sampled sequences."""
    with ServiceClient(
        base_url=server.base_url, api_key="local", plugins=plugins, load_plugins=False, **settings
    ) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=4, seed=1)
        losses = [
            training.train_step([datum()] * 3, "cross_entropy", types.AdamParams(learning_rate=1e-2)).metrics
            for _ in range(2)
        ]
        sampler = training.save_weights_and_get_sampling_client()
        response = sampler.sample(PROMPT, 1, PARAMS)
    return losses, response.sequences


class Raises:
    @hookimpl
    def tinkex_request_finished(self):
        raise RuntimeError("error of a plugin")

    @hookimpl
    def tinkex_chunk_sent(self, boundary):
        raise KeyError(boundary)


class CallsBack:
    """Calls the client in its own hook."""

    def __init__(self):
        self.service = None
        self.responses = []

    @hookimpl
    def tinkex_future_resolved(self, operation):
        if self.service is not None:
            self.responses.append(self.service.get_server_capabilities())


class WrongArgument:
    @hookimpl
    def tinkex_chunk_sent(self, boundary, colour):
        raise AssertionError("must never be called")


class NewerHook:
    @hookimpl
    def tinkex_planet_discovered(self, source):
        raise AssertionError("must never be called")

    @hookimpl
    def tinkex_chunk_sent(self):
        self.seen = True


@pytest.fixture(scope="module")
def plain(server):
    return run(server)


@pytest.mark.parametrize("plugin", [Raises, WrongArgument, NewerHook])
def test_faulty_plugin_does_not_change_the_results(server, plain, plugin, caplog):
    with caplog.at_level(logging.WARNING):
        assert run(server, plugin()) == plain
    assert plugin.__name__ in caplog.text or plugin is NewerHook


def test_plugin_may_call_the_client_in_its_hook(server, plain):
    plugin = CallsBack()
    with ServiceClient(base_url=server.base_url, api_key="local", plugins=[plugin], load_plugins=False) as service:
        plugin.service = service
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        sampler.sample(PROMPT, 1, PARAMS)
        assert plugin.responses[0].supported_models
    assert run(server, CallsBack()) == plain


def test_blocking_plugin_delays_only_the_calling_thread(server, plain):
    entered, released = threading.Event(), threading.Event()

    class Blocks:
        @hookimpl
        def tinkex_dispatch_acquired(self):
            if not entered.is_set():
                entered.set()
                assert released.wait(30)

    with ServiceClient(base_url=server.base_url, api_key="local", plugins=[Blocks()], load_plugins=False) as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        blocked = sampler.submit_sample(PROMPT, 1, PARAMS)
        assert entered.wait(30)
        others = [sampler.submit_sample(PROMPT, 1, PARAMS) for _ in range(20)]
        sequences = [other.result(timeout=30).sequences for other in others]
        assert not blocked.done()
        released.set()
        assert blocked.result(timeout=30).sequences == sequences[0]
    assert run(server, Blocks()) == plain


def test_plugin_can_be_registered_while_threads_sample(server):
    recorder = HookRecorder()
    with ServiceClient(base_url=server.base_url, api_key="local", load_plugins=False) as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        responses, errors = [], []

        def sample():
            try:
                for _ in range(5):
                    responses.append(sampler.sample(PROMPT, 1, PARAMS).sequences)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=sample) for _ in range(16)]
        for thread in threads:
            thread.start()
        service.plugins.register(recorder)
        for thread in threads:
            thread.join(60)
        sampler.sample(PROMPT, 1, PARAMS)
    assert not errors and len(responses) == 80 and all(response == responses[0] for response in responses)
    assert recorder.of("future_resolved")[-1]["outcome"] == "ok"


def test_hooks_receive_chunk_boundaries_bytes_and_optimizer_parameters(server):
    recorder = HookRecorder()
    data = [datum(b"x" * length) for length in (5, 9, 30, 4, 4)]
    with ServiceClient(
        base_url=server.base_url,
        api_key="local",
        plugins=[recorder],
        load_plugins=False,
        strict_plugins=True,
        max_chunk_datums=2,
        max_chunk_bytes=400,
    ) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=4)
        params = types.AdamParams(learning_rate=1e-3, weight_decay=0.25, grad_clip_norm=2.0)
        output = training.train_step(data, "cross_entropy", params)
    assert len(output.loss_fn_outputs) == 5
    (planned,) = recorder.of("chunks_planned")
    sizes = [20 * (length - 1) for length in (5, 9, 30, 4, 4)]
    assert planned["boundaries"] == tuple(plan(sizes, 2, 400))
    assert planned["limits"] == {"items": 2, "bytes": 400}
    sent = recorder.of("chunk_sent")
    assert [event["boundary"] for event in sent] == list(planned["boundaries"])
    assert all(event["body_bytes"] > 0 and event["request_id"] for event in sent)
    (adam,) = recorder.of("adam_params_serialized")
    assert adam["params"] is params
    assert dict(adam["payload"]) == {
        "learning_rate": 1e-3,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-12,
        "weight_decay": 0.25,
        "grad_clip_norm": 2.0,
    }
    with pytest.raises(TypeError):
        adam["payload"]["weight_decay"] = 0.0
    ids = {event["call_id"] for event in sent} | {planned["call_id"]}
    assert len(ids) == 1 and adam["call_id"] not in ids


def test_hooks_receive_each_change_of_queue_state_once(server):
    server.set_faults(
        Faults(pause=0.6, pause_state="paused_capacity", pause_reason="maintenance until 5", pause_hold=0.1)
    )
    recorder = HookRecorder()
    try:
        with ServiceClient(
            base_url=server.base_url, api_key="local", plugins=[recorder], load_plugins=False
        ) as service:
            sampler = service.create_sampling_client(base_model="tinkex/tiny")
            futures = [sampler.submit_sample(PROMPT, 1, PARAMS) for _ in range(8)]
            for future in futures:
                future.result(timeout=30)
    finally:
        server.set_faults(Faults())
    events = [(e["state"], e["previous"], e["reason"], e["reason_source"]) for e in recorder.of("queue_state_changed")]
    assert events == [
        ("paused_capacity", None, "maintenance until 5", "server"),
        ("active", "paused_capacity", None, None),
    ]
    paused, active = recorder.of("queue_state_changed")
    assert 0 <= paused["waited"] <= active["waited"] and active["waited"] > 0.3


def test_check_plugin_rejects_unknown_hooks_and_arguments():
    check_plugin(HookRecorder())
    for faulty in (WrongArgument(), NewerHook()):
        with pytest.raises(Exception, match="colour|planet"):
            check_plugin(faulty)
