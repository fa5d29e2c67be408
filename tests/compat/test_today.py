"""What scripts written for the newest official package find here, on the embedded server speaking today's protocol."""

import asyncio

import pytest

import tinkex_sync.compat as tinker
from tinkex_sync.compat import absent
from tinkex_sync.local import LocalServer

pytest.importorskip("numpy")

DATUM = tinker.Datum(
    model_input=tinker.ModelInput.from_ints([1, 2, 3]),
    loss_fn_inputs={"target_tokens": [2, 3, 4], "weights": [1.0, 1.0, 1.0]},
)


@pytest.fixture(scope="module")
def service():
    with LocalServer(protocol="0.38") as server:
        made = tinker.ServiceClient(base_url=server.base_url, api_key="k", protocol="auto")
        yield made
        made.close()


def test_a_script_of_today(service):
    training = service.create_lora_training_client("tinkex/tiny", 4, optimizer=tinker.AdamOptimizerConfig())
    training.forward_backward([DATUM], "cross_entropy").result(30)
    training.optim_step(tinker.AdamParams(learning_rate=0.01)).result(30)
    path = training.save_state("c1", ttl_seconds=3600, user_metadata={"k": "v"}).result(30).path
    again = service.create_training_client_from_state_with_optimizer(path, base_model="tinkex/tiny")
    assert again.get_info().model_name == "tinkex/tiny"
    rest = service.create_rest_client()
    assert isinstance(rest, tinker.RestClient)
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result(30)
    copy = rest.copy_weights(path, "project").result(30)
    assert asyncio.run(service.create_training_client_from_state_async(copy)).model_id
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
    asyncio.run(rest.assign_session_project_async(service._core.session_id, "p"))


@pytest.mark.parametrize("name", sorted(absent._REASONS))
def test_what_is_not_here_says_why(name):
    with pytest.raises(AttributeError, match=f"{name}.*this one has not: "):
        getattr(tinker, name)


def test_what_nobody_has_is_plainly_missing():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'$"):
        _ = tinker.Nothing
