# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Ordinary user code, for type checkers. Nothing executes it.

A line with ``type: ignore`` is a mistake that type checkers must find. They report an ignore without an error.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy
from typing_extensions import assert_type

import tinkex_sync
import tinkex_sync.compat as tinker
from tinkex_sync import Future, RestClient, SamplingClient, ServiceClient, TrainingClient, types

MODEL = "Qwen/Qwen3-8B"
PATH = "tinker://run-1/weights/c1"


def datum(tokens: List[int]) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": types.TensorData(data=tokens[1:], dtype="int64"),
            "weights": types.TensorData(data=[1.0] * (len(tokens) - 1), dtype="float32"),
        },
    )


def datums(tokens: List[int], array: numpy.ndarray[Any, Any]) -> List[types.Datum]:
    prompt = types.ModelInput.from_ints(tokens[:-1])
    inputs = {"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)}
    tensors = {"target_tokens": types.TensorData.from_numpy(array)}
    made = [
        types.Datum(model_input=prompt, loss_fn_inputs={"target_tokens": tokens[1:], "weights": [0.5]}),
        types.Datum(loss_fn_inputs=inputs, model_input=prompt),
        types.Datum(prompt, {"target_tokens": [[1, 2], [3, 4]], "weights": array}),
        types.Datum(prompt, tensors),
        tinker.Datum(model_input=prompt, loss_fn_inputs={"target_tokens": array, "advantages": (0.5,)}),
    ]
    assert_type(made[0].loss_fn_inputs, Dict[str, types.TensorData])
    types.Datum(tokens, inputs)  # type: ignore[arg-type]
    types.Datum(prompt)  # type: ignore[call-arg]
    return made


def train(batches: Iterator[List[types.Datum]]) -> None:
    with ServiceClient(user_metadata={"run": "1"}) as service:
        training = service.create_lora_training_client(MODEL, rank=32, timeout=60.0)
        assert_type(training, TrainingClient)
        adam = types.AdamParams(learning_rate=1e-4)
        for batch in batches:
            step = training.train_step(batch, "cross_entropy", adam)
            assert_type(step, tinkex_sync.TrainStepOutput)
            print(step.metrics["loss:sum"])
        backward = training.submit_forward_backward([datum([1, 2, 3])], "cross_entropy")
        assert_type(backward, Future[types.ForwardBackwardOutput])
        optimizer = training.submit_optim_step(adam)
        assert_type(optimizer, Future[types.OptimStepResponse])
        assert_type(backward.result(10.0), types.ForwardBackwardOutput)
        assert_type(optimizer.result().metrics, Optional[dict[str, float]])
        assert_type(training.save_state("c1").path, str)
        assert_type(training.submit_save_state("c2"), Future[types.SaveWeightsResponse])
        training.train_step(adam, "cross_entropy", adam)  # type: ignore[arg-type]
        training.optim_step(learning_rate=1e-4)  # type: ignore[call-arg]


def create(service: ServiceClient) -> None:
    assert_type(service.submit_create_lora_training_client(MODEL, 8), Future[TrainingClient])
    assert_type(service.create_training_client_from_state(PATH), TrainingClient)
    assert_type(service.submit_create_training_client_from_state(PATH), Future[TrainingClient])
    assert_type(service.create_training_client_from_state_with_optimizer(PATH), TrainingClient)
    assert_type(service.create_sampling_client(base_model=MODEL), SamplingClient)
    assert_type(service.submit_create_sampling_client(PATH), Future[SamplingClient])
    assert_type(service.get_server_capabilities(timeout=5.0), types.GetServerCapabilitiesResponse)
    assert_type(service.submit_get_server_capabilities(), Future[types.GetServerCapabilitiesResponse])
    service.create_lora_training_client(MODEL, rank="32")  # type: ignore[arg-type]
    service.submit_create_lora_training_client()  # type: ignore[call-arg]
    service.get_server_capabilities(timeout="5")  # type: ignore[arg-type]
    service.submit_get_server_capabilities(5.0)  # type: ignore[call-arg]


def sample(sampler: SamplingClient, prompts: List[types.ModelInput]) -> None:
    params = types.SamplingParams(max_tokens=16, temperature=0.7)
    response = sampler.sample(prompts[0], num_samples=4, sampling_params=params, timeout=30)
    assert_type(response, types.SampleResponse)
    tokens: List[int] = list(response.sequences[0].tokens)
    print(tokens)
    assert_type(sampler.submit_sample(prompts[0], 1, params), Future[types.SampleResponse])
    assert_type(sampler.compute_logprobs(prompts[0]), List[Optional[float]])
    assert_type(sampler.submit_compute_logprobs(prompts[0]), Future[List[Optional[float]]])

    def sample_one(prompt: types.ModelInput) -> types.SampleResponse:
        return sampler.sample(prompt, 1, params)

    with ThreadPoolExecutor(64) as pool:
        responses = list(pool.map(sample_one, prompts))
        assert_type(responses, List[types.SampleResponse])
    sampler.sample(prompts[0], 1)  # type: ignore[call-arg]
    sampler.submit_sample("text", 1, params)  # type: ignore[arg-type]


def manage(rest: RestClient) -> Tuple[str, ...]:
    assert_type(rest.list_training_runs(limit=5), types.TrainingRunsResponse)
    assert_type(rest.submit_list_training_runs(5, 0, "accessible"), Future[types.TrainingRunsResponse])
    assert_type(rest.submit_delete_checkpoint("run-1", "weights/c1"), Future[None])
    assert_type(rest.copy_weights(PATH, ttl_seconds=3600), str)
    assert_type(rest.submit_copy_weights(PATH), Future[str])
    assert_type(rest.get_checkpoint_archive_url_from_tinker_path(PATH).url, str)
    rest.list_training_runs(access_scope="all")  # type: ignore[arg-type]
    rest.submit_get_session()  # type: ignore[call-arg]
    return tuple(run.training_run_id for run in rest.iter_training_runs())


async def use_official_names(service: tinker.ServiceClient) -> None:
    assert_type(tinker.types.ModelInput.from_ints([1, 2]), types.ModelInput)
    assert_type(tinker.AdamParams(), types.AdamParams)
    sampler = service.create_sampling_client(base_model=MODEL)
    assert_type(sampler, tinker.SamplingClient)
    prompt, params = tinker.ModelInput.from_ints([1, 2]), tinker.SamplingParams(max_tokens=2)
    assert_type(sampler.sample(prompt, 1, params).result().sequences[0].stop_reason, types.StopReason)
    step = service.create_rest_client().get_sampler("sampler-1")
    assert_type(step, tinker.APIFuture[types.GetSamplerResponse])
    assert_type((await step).base_model, str)
    print(tinker.no_such_name)  # type: ignore[attr-defined]
    sampler.no_such_method()  # type: ignore[attr-defined]
