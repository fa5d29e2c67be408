# Written for the official SDK; run unchanged under both packages.
import asyncio


async def work(tinker, result):
    from tinker import types

    service = tinker.ServiceClient()
    tokens = list(b"the quick brown fox jumps")
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
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
    prompt = types.ModelInput.from_ints(list(b"the quick "))
    params = types.SamplingParams(max_tokens=8, temperature=0.0, seed=1)
    replies = await asyncio.gather(*[sampler.sample_async(prompt, 1, params) for _ in range(5)])
    result["samples"] = [list(reply.sequences[0].tokens) for reply in replies]
    result["logprobs"] = await sampler.compute_logprobs_async(prompt)
    result["info"] = (await training.get_info_async()).lora_rank
    state = (await (await training.save_state_async("one"))).path
    again = await service.create_training_client_from_state_async(state)
    forward = await again.forward_async([datum], "cross_entropy")
    result["again"] = (await forward).metrics["loss:sum"]
    rest = service.create_rest_client()
    result["run"] = (await rest.get_training_run_async(training.model_id)).lora_rank
    sessions = await rest.list_sessions_async(limit=1)
    session = await rest.get_session_async(sessions.sessions[0])
    result["models"] = len(session.training_run_ids)
    service.holder.close()


def main(tinker, result):
    asyncio.run(work(tinker, result))
