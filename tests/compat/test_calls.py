"""The kinds of methods that are derived from native methods."""

import asyncio
import concurrent.futures
import inspect
import logging
import time

import pytest

import tinkex_sync.compat as tinker
from tinkex_sync.compat.rest import RestClient
from tinkex_sync.local import Faults

PARAMS = tinker.SamplingParams(max_tokens=2, seed=1)
PROMPT = tinker.ModelInput.from_ints([1, 2, 3])


def test_methods_return_the_official_kinds_of_futures(client):
    training = client.create_lora_training_client("tinkex/tiny", rank=2)
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    rest = client.create_rest_client()
    assert isinstance(training.optim_step(tinker.AdamParams()), tinker.APIFuture)
    assert isinstance(sampler.sample(PROMPT, 1, PARAMS), concurrent.futures.Future)
    assert isinstance(rest.list_sessions(), concurrent.futures.Future)
    assert isinstance(rest.get_sampler(sampler.native.sampling_session_id), tinker.APIFuture)
    assert training.save_state("x").future().result().path.endswith("weights/x")
    assert training.get_telemetry() is None
    assert training.holder is client.holder
    made = tinker.SamplingClient.create(client.holder, base_model="tinkex/tiny").result()
    joined = tinker.SamplingClient(client.holder, sampling_session_id=made.native.sampling_session_id)
    assert len(joined.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens) == 2
    own = tinker.TrainingClient(client.holder, model_seq_id=0, model_id=training.model_id)
    assert own.get_info().lora_rank == 2
    assert RestClient(client.holder).get_session(client.holder.get_session_id()).result().training_run_ids


def test_methods_have_the_signatures_of_the_native_methods():
    assert list(inspect.signature(tinker.SamplingClient.sample).parameters)[1:6] == [
        "prompt",
        "num_samples",
        "sampling_params",
        "include_prompt_logprobs",
        "topk_prompt_logprobs",
    ]
    assert inspect.iscoroutinefunction(inspect.unwrap(tinker.SamplingClient.sample_async, stop=_is_async))
    assert RestClient.list_sessions_async.__name__ == "list_sessions_async"


def _is_async(function):
    return inspect.iscoroutinefunction(function)


def test_a_blocking_method_in_an_event_loop_logs_a_warning(client, caplog):
    async def wrong():
        return client.get_server_capabilities()

    with caplog.at_level(logging.WARNING, "tinkex_sync.compat"):
        assert asyncio.run(wrong()).supported_models
    assert "get_server_capabilities_async" in caplog.text


def test_a_slow_call_does_not_block_the_event_loop(client, server):
    server.set_faults(Faults(try_again_polls=3))

    async def work():
        ticks = 0
        call = asyncio.ensure_future(client.create_lora_training_client_async("tinkex/tiny", rank=2))
        longest, last = 0.0, time.monotonic()
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return ticks, longest, await call

    ticks, longest, training = asyncio.run(work())
    assert ticks >= 5
    assert longest < 0.5
    assert training.get_info().lora_rank == 2


def test_an_operation_continues_after_the_timeout_of_its_wait(client, server):
    training = client.create_lora_training_client("tinkex/tiny", rank=2)
    server.set_faults(Faults(try_again_polls=3))
    future = training.save_state("later")

    async def impatient():
        with pytest.raises(asyncio.TimeoutError):
            await future.result_async(timeout=0.01)

    asyncio.run(impatient())
    assert future.result(30).path.endswith("weights/later")
    with pytest.raises(TimeoutError):
        training.save_state("again").result(timeout=0.001)
