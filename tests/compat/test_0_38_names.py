"""Scripts for the official package 0.38.0, on the embedded server with protocol 0.38."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

import tinkex_sync.compat as tinker
from tinkex_sync.compat.absent import reason
from tinkex_sync.local import LocalServer

pytest.importorskip("numpy")

TABLE = Path(__file__).with_name("surface38.json")
RECORDED = json.loads(TABLE.read_text())
OFFICIAL38 = os.environ.get("TINKEX_OFFICIAL38_PYTHON")

DATUM = tinker.Datum(
    model_input=tinker.ModelInput.from_ints([1, 2, 3]),
    loss_fn_inputs={"target_tokens": [2, 3, 4], "weights": [1.0, 1.0, 1.0]},
)


@pytest.fixture(scope="module")
def service():
    with LocalServer(protocol="0.38") as server:
        made = tinker.ServiceClient(base_url=server.base_url, api_key="k")
        yield made
        with pytest.raises(ValueError, match="'done'"):
            made.close("done")
        assert made.close("success", detail="done").result(5) is None


def test_a_script_for_0_38_runs(service):
    training = service.create_lora_training_client("tinkex/tiny", 4, optimizer=tinker.AdamOptimizerConfig())
    training.forward_backward([DATUM], "cross_entropy").result(30)
    training.optim_step(tinker.AdamParams(learning_rate=0.01)).result(30)
    path = training.save_state("c1", ttl_seconds=3600, user_metadata={"k": "v"}).result(30).path
    training.optim_step(optim_params=tinker.AdamParams(learning_rate=0.01)).result(30)
    with pytest.raises(TypeError, match="adam_params or optim_params"):
        training.optim_step()
    again = service.create_training_client_from_state_with_optimizer(path, base_model="tinkex/tiny")
    assert again.get_info().model_name == "tinkex/tiny"
    rest = service.create_rest_client()
    assert isinstance(rest, tinker.RestClient)
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result(30)
    copy = rest.copy_weights(path, "project").result(30)
    assert asyncio.run(service.create_training_client_from_state_async(copy)).model_id
    assert service.copy_weights(path, ttl_seconds=3600).result(30) != path
    assert rest.get_server_capabilities().result(30).supported_models
    assert rest.get_training_run_by_tinker_path(path, access_scope="accessible").result(30)
    live = training.save_weights_and_get_sampling_client(kind="inflight", record_stability_info=True)
    assert live.get_base_model() == asyncio.run(live.get_base_model_async()) == "tinkex/tiny"
    assert live.get_tokenizer().decode(list(b"tea")) == "tea"
    named = training.save_weights_and_get_sampling_client("named", kind="snapshot")
    assert named.get_base_model() == "tinkex/tiny"
    sampler = service.create_sampling_client(base_model="tinkex/tiny", record_stability_info=True)
    params = tinker.SamplingParams(max_tokens=2)
    response = sampler.sample(
        prompt=tinker.ModelInput.from_ints([1, 2]), num_samples=1, sampling_params=params, topk_sample_logprobs=2
    ).result(30)
    assert len(response.sequences[0].topk_sampled_logprobs) == 2
    out = training.save_weights_external("out").result(30).path
    assert asyncio.run(rest.get_external_weights_urls_async(out)).urls
    asyncio.run(rest.assign_session_project_async(service.native.session_id, "p"))


#: Members of types that only the official clients use: parts of requests, telemetry and validators of pydantic.
INTERNAL_MEMBERS = {
    "ClientConfigResponse": {"use_pyqwest_transport"},
    "CopyWeightsRequest": {"weights_access_token"},
    "CreateSessionRequest": {"display_name"},
    "ImageChunk": {"serialize_data", "validate_data"},
    "JoinSamplingSessionRequest": {"type"},
    "JoinSamplingSessionResponse": {"type"},
    "LoadWeightsRequest": {"base_model", "model_seq_id", "optimizer_config", "session_id", "user_metadata"},
    "OptimStepRequest": {"optim_params"},
    "SaveWeightsExternalRequest": {"type"},
    "TelemetryBatch": {"process_uuid"},
}


@pytest.mark.parametrize("name", RECORDED["members"])
def test_a_type_has_the_official_members(name):
    if reason(name):
        return
    made = getattr(tinker.types, name)
    members = set(RECORDED["members"][name]) - INTERNAL_MEMBERS.get(name, set())
    missing = {member for member in members if member not in dir(made) and member not in made.model_fields}
    assert missing == set()


def objects_in(value):
    """Yield a value that a call returned, and the values in it."""
    yield value
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "model_fields"):
        value = [getattr(value, name) for name in value.model_fields]
    if isinstance(value, (list, tuple)):
        for one in value[:20]:
            yield from objects_in(one)


def results(service):
    """Yield what the calls of a short run return, futures included."""
    training = service.create_lora_training_client("tinkex/tiny", 4)
    for future in (
        training.forward_backward([DATUM], "cross_entropy"),
        training.forward([DATUM], "cross_entropy"),
        training.optim_step(tinker.AdamParams()),
        training.save_state("walk"),
        training.save_weights_for_sampler("walk"),
        training.load_state(training.save_state("walk2").result(30).path),
    ):
        yield future
        yield future.result(30)
    yield training.get_info()
    yield service.get_server_capabilities()
    sampler = training.save_weights_and_get_sampling_client("walk3")
    sample = sampler.sample(DATUM.model_input, 1, tinker.SamplingParams(max_tokens=2), True, 2)
    yield sample
    yield sample.result(30)
    yield from (DATUM, training, sampler, service, service.holder)
    rest = service.create_rest_client()
    yield rest.list_training_runs().result(30)
    yield rest.list_user_checkpoints().result(30)
    yield rest.get_session(service.holder.get_session_id()).result(30)


def test_everything_that_calls_return_has_the_official_members_or_names_the_reason(service):
    walked, missing = set(), []
    for found in results(service):
        for one in objects_in(found):
            name = type(one).__name__
            walked.add(name)
            names = RECORDED["members"].get(name, RECORDED["clients"].get(name, ()))
            for member in set(names) - INTERNAL_MEMBERS.get(name, set()):
                try:
                    getattr(one, member)
                except AttributeError as error:
                    if "official package has" not in str(error):
                        missing.append(f"{name}.{member}: {error}")
    assert missing == []
    assert {"SampledSequence", "TensorData", "Datum", "SaveWeightsResponse", "Checkpoint"} <= walked


def test_futures_and_clients_can_be_awaited_and_waited_for(service):
    sampler = service.create_sampling_client(base_model="tinkex/tiny")
    assert sampler.result(1) is sampler
    params = tinker.SamplingParams(max_tokens=2)

    async def run():
        assert await sampler is sampler
        assert await service.create_sampling_client(base_model="tinkex/tiny").result_async() is not None
        response = await sampler.sample(DATUM.model_input, 1, params)
        runs = await service.create_rest_client().list_training_runs()
        return response, runs

    response, runs = asyncio.run(run())
    assert len(response.sequences) == 1
    assert runs.training_runs is not None
    assert sampler.sampling_session_id == sampler._sampling_session_id


@pytest.mark.skipif(OFFICIAL38 is None, reason="TINKEX_OFFICIAL38_PYTHON is not set")
def test_the_recorded_surface_is_that_of_the_official_package():
    done = subprocess.run(
        [OFFICIAL38, str(TABLE.with_suffix(".py"))], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout) == RECORDED
