# A script for the official SDK. The tests run it under both packages.
import asyncio

PROMPT = list(b"the quick ")
TEXT = list(b"the quick brown fox jumps")


async def work(tinker, result):
    service = tinker.ServiceClient()
    training = await supervised(tinker, service, result)
    await reinforced(tinker, service, result)
    await checkpoints(tinker, service, training, result)
    await errors(tinker, service, result)
    service.holder.close()


async def supervised(tinker, service, result):
    from tinker import types

    datum = types.Datum(
        model_input=types.ModelInput.from_ints(TEXT[:-1]),
        loss_fn_inputs={"target_tokens": TEXT[1:], "weights": [1.0] * (len(TEXT) - 1)},
    )
    training = await service.create_lora_training_client_async("tinkex/tiny", rank=4, seed=3)
    losses = []
    for _ in range(3):
        backward = await training.forward_backward_async([datum] * 2, "cross_entropy")
        step = await training.optim_step_async(types.AdamParams(learning_rate=5e-3))
        losses.append((await backward).metrics["loss:sum"])
        await step.result_async()
    result["losses"] = losses
    sampler = await training.save_weights_and_get_sampling_client_async()
    prompt = types.ModelInput.from_ints(PROMPT)
    params = types.SamplingParams(max_tokens=8, temperature=0.0, seed=1)
    responses = await asyncio.gather(*[sampler.sample_async(prompt, 1, params) for _ in range(5)])
    result["samples"] = [list(response.sequences[0].tokens) for response in responses]
    result["logprobs"] = await sampler.compute_logprobs_async(prompt)
    result["info"] = (await training.get_info_async()).lora_rank
    # Blocking methods return futures, which can be awaited or waited for.
    future = training.forward([datum], "cross_entropy")
    result["awaited"] = (await future).metrics["loss:sum"]
    result["asked"] = (await future.result_async(timeout=60)).metrics["loss:sum"]
    result["wrapped"] = list((await asyncio.wrap_future(sampler.sample(prompt, 1, params))).sequences[0].tokens)
    return training


async def reinforced(tinker, service, result):
    from tinker import types
    from tinker.types.tensor_data import TensorData

    training = await service.create_lora_training_client_async(base_model="tinkex/tiny", rank=4, seed=5)
    rewards, losses = [], []
    for step in range(2):
        path = (await (await training.save_weights_for_sampler_async(f"step-{step}"))).path
        sampler = await training.create_sampling_client_async(path)

        async def rollout(seed, sampler=sampler):
            params = types.SamplingParams(max_tokens=12, temperature=1.0, seed=seed)
            response = await sampler.sample_async(types.ModelInput.from_ints(PROMPT), 4, params)
            scores = [sum(token < ord("n") for token in one.tokens) for one in response.sequences]
            mean = sum(scores) / len(scores)
            return scores, [
                datum(list(one.tokens), list(one.logprobs), score - mean)
                for one, score in zip(response.sequences, scores)
            ]

        def datum(tokens, logprobs, advantage):
            given, count = len(PROMPT) - 1, len(tokens)
            targets = PROMPT[1:] + tokens
            return types.Datum(
                model_input=types.ModelInput.from_ints((PROMPT + tokens)[:-1]),
                loss_fn_inputs={
                    "target_tokens": TensorData(data=targets, dtype="int64", shape=[len(targets)]),
                    "logprobs": TensorData(data=[0.0] * given + logprobs, dtype="float32"),
                    "advantages": [0.0] * given + [advantage] * count,
                },
            )

        groups = await asyncio.gather(*[rollout(seed) for seed in range(3)])
        rewards += [scores for scores, _ in groups]
        data = [one for _, datums in groups for one in datums]
        backward = await training.forward_backward_async(data, "importance_sampling")
        optim = await training.optim_step_async(types.AdamParams(learning_rate=1e-2, beta2=0.99, grad_clip_norm=1.0))
        losses.append((await backward).metrics["loss:sum"])
        await optim
    result["rewards"], result["rl_losses"] = rewards, losses


async def checkpoints(tinker, service, training, result):
    from tinker import types

    datum = types.Datum(model_input=types.ModelInput.from_ints(TEXT[:-1]), loss_fn_inputs={"target_tokens": TEXT[1:]})
    state = (await (await training.save_state_async("one"))).path
    again = await service.create_training_client_from_state_async(state)
    result["again"] = (await (await again.forward_async([datum], "cross_entropy"))).metrics["loss:sum"]
    full = await service.create_training_client_from_state_with_optimizer_async(state)
    await (await full.load_state_async(state))
    await (await full.load_state_with_optimizer_async(state))
    rest = service.create_rest_client()
    result["run"] = (await rest.get_training_run_async(training.model_id)).lora_rank
    session = await rest.get_session_async(service.holder.get_session_id())
    result["models"] = len(session.training_run_ids)
    result["sessions"] = len((await rest.list_sessions_async(limit=1)).sessions)
    await rest.publish_checkpoint_from_tinker_path_async(state)
    found = (await rest.list_checkpoints_async(training.model_id)).checkpoints
    result["kept"] = [[one.checkpoint_id, one.public] for one in found]
    await rest.unpublish_checkpoint_from_tinker_path_async(state)
    result["url"] = bool((await rest.get_checkpoint_archive_url_async(training.model_id, "weights/one")).url)
    await rest.delete_checkpoint_from_tinker_path_async(state)
    result["left"] = len((await rest.list_checkpoints_async(training.model_id)).checkpoints)
    result["sampler"] = (await rest.get_sampler_async(session.sampler_ids[0])).base_model
    result["models_there"] = len((await service.get_server_capabilities_async()).supported_models)


async def errors(tinker, service, result):
    rest = service.create_rest_client()
    found = await asyncio.gather(
        rest.get_training_run_async("nothing"),
        rest.get_training_run_by_tinker_path_async("nothing"),
        service.create_sampling_client_async(),
        return_exceptions=True,
    )
    result["errors"] = [type(error).__name__ for error in found]
    result["status"] = found[0].status_code
    try:
        await asyncio.wait_for(rest.get_training_run_async("nothing"), timeout=30)
    except tinker.NotFoundError as error:
        result["body"] = sorted(error.body)


def main(tinker, result):
    asyncio.run(work(tinker, result))
