"""Scripts for the official package 0.38.0, on the embedded server with protocol 0.38."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

import tinkex_sync.compat as tinker
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
    reply = sampler.sample(
        prompt=tinker.ModelInput.from_ints([1, 2]),
        num_samples=1,
        sampling_params=params,
        topk_sample_logprobs=2,
    ).result(30)
    assert len(reply.sequences[0].topk_sampled_logprobs) == 2
    out = training.save_weights_external("out").result(30).path
    assert asyncio.run(rest.get_external_weights_urls_async(out)).urls
    asyncio.run(rest.assign_session_project_async(service.native.session_id, "p"))


@pytest.mark.skipif(OFFICIAL38 is None, reason="TINKEX_OFFICIAL38_PYTHON is not set")
def test_the_recorded_surface_is_that_of_the_official_package():
    done = subprocess.run(
        [OFFICIAL38, str(TABLE.with_suffix(".py"))], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout) == RECORDED
