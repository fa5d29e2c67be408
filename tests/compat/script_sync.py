# A script for the official SDK. The tests run it under both packages.
import concurrent.futures
import math

PROMPT = list(b"the quick ")
TEXT = list(b"the quick brown fox jumps")


def main(tinker, result):
    from tinker.lib.public_interfaces.rest_client import RestClient

    service = tinker.ServiceClient(user_metadata={"a": "b"}, timeout=30.0, max_retries=3)
    training = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    result["capabilities"] = [model.model_name for model in service.get_server_capabilities().supported_models]
    info = training.get_info()
    result["info"] = [info.lora_rank, info.is_lora, info.model_data.model_name]
    state = supervised(tinker, training, result)
    sampling(tinker, training, result)
    reinforced(tinker, service, result)
    rest = service.create_rest_client()
    assert isinstance(rest, RestClient)
    checkpoints(tinker, service, training, rest, state, result)
    errors(tinker, service, training, rest, result)
    types(tinker, result)
    service.holder.close()


def supervised(tinker, training, result):
    from tinker import types
    from tinker.types.tensor_data import TensorData

    datum = types.Datum(
        model_input=types.ModelInput.from_ints(TEXT[:-1]),
        loss_fn_inputs={
            "target_tokens": TensorData(data=TEXT[1:], dtype="int64", shape=[len(TEXT) - 1]),
            "weights": [1.0] * (len(TEXT) - 1),
        },
    )
    losses = []
    for _ in range(3):
        backward = training.forward_backward([datum] * 2, "cross_entropy")
        step = training.optim_step(types.AdamParams(learning_rate=5e-3))
        losses.append(backward.result(60).metrics["loss:sum"])
        step.result()
    result["losses"] = losses
    forward = training.forward(data=[datum], loss_fn="cross_entropy", loss_fn_config=None).result()
    logprobs = forward.loss_fn_outputs[0]["logprobs"]
    result["nll"] = -sum(logprobs.to_numpy().tolist())
    result["outputs"] = [logprobs.dtype, logprobs.shape, sorted(forward.loss_fn_outputs[0])]
    empty = training.forward_backward([], "cross_entropy").result()
    result["empty"] = [empty.loss_fn_output_type, empty.loss_fn_outputs, empty.metrics]
    return training.save_state("one").result().path


def sampling(tinker, training, result):
    from tinker import types

    prompt = types.ModelInput.from_ints(PROMPT)
    params = types.SamplingParams(max_tokens=8, temperature=0.0, seed=1)
    sampler = training.save_weights_and_get_sampling_client()
    response = sampler.sample(prompt, 2, params).result()
    result["sample"] = list(response.sequences[0].tokens)
    result["stop"] = [sequence.stop_reason for sequence in response.sequences]
    result["logprobs"] = sampler.compute_logprobs(prompt).result()
    full = sampler.sample(prompt, 1, params, include_prompt_logprobs=True, topk_prompt_logprobs=2).result()
    result["prompt_logprobs"] = full.prompt_logprobs
    result["topk"] = [row and [list(pair) for pair in row] for row in full.topk_prompt_logprobs]
    submitted = training.save_weights_and_get_sampling_client_submit().result()
    future = submitted.sample(prompt=prompt, num_samples=1, sampling_params=params)
    result["submitted"] = list(future.result(timeout=60).sequences[0].tokens)
    path = training.save_weights_for_sampler("kept").result().path
    named = training.create_sampling_client(path)
    result["named"] = list(named.sample(prompt, 1, params).result().sequences[0].tokens)


def reinforced(tinker, service, result):
    """Train with a policy gradient; the reward of a sample is its number of letters before n."""
    import numpy
    from tinker import types

    training = service.create_lora_training_client(base_model="tinkex/tiny", rank=4, seed=5)
    prompt = types.ModelInput.from_ints(PROMPT)
    rewards, lengths, losses = [], [], []
    for step in range(2):
        sampler = training.save_weights_and_get_sampling_client(name=f"step-{step}")
        futures = {
            sampler.sample(prompt, 4, types.SamplingParams(max_tokens=12, temperature=1.0, seed=seed)): seed
            for seed in range(3)
        }
        concurrent.futures.wait(futures)
        groups = [future.result().sequences for future in sorted(futures, key=futures.get)]
        data = []
        for sequences in groups:
            scores = [sum(token < ord("n") for token in one.tokens) for one in sequences]
            mean = sum(scores) / len(scores)
            rewards.append(scores)
            lengths += [len(one.tokens) for one in sequences]
            for one, score in zip(sequences, scores):
                given = len(PROMPT) - 1
                tokens = PROMPT + list(one.tokens)
                data.append(
                    types.Datum(
                        model_input=types.ModelInput.from_ints(tokens[:-1]),
                        loss_fn_inputs={
                            "target_tokens": numpy.array(tokens[1:], dtype=numpy.int64),
                            "logprobs": numpy.array([0.0] * given + list(one.logprobs), dtype=numpy.float32),
                            "advantages": [0.0] * given + [score - mean] * len(one.tokens),
                        },
                    )
                )
        backward = training.forward_backward(data, loss_fn="importance_sampling")
        optim = training.optim_step(types.AdamParams(learning_rate=1e-2, beta2=0.99, grad_clip_norm=1.0))
        losses.append(backward.result().metrics["loss:sum"])
        optim.result()
    result["rewards"], result["lengths"], result["rl_losses"] = rewards, lengths, losses


def checkpoints(tinker, service, training, rest, state, result):
    from tinker import types

    result["name"] = types.ParsedCheckpointTinkerPath.from_tinker_path(state).checkpoint_id
    datum = types.Datum(model_input=types.ModelInput.from_ints(TEXT[:-1]), loss_fn_inputs={"target_tokens": TEXT[1:]})
    again = service.create_training_client_from_state_with_optimizer(state)
    result["again"] = again.forward([datum], "cross_entropy").result().metrics["loss:sum"]
    fresh = service.create_training_client_from_state(state)
    result["fresh"] = fresh.forward([datum], "cross_entropy").result().metrics["loss:sum"]
    again.load_state(state).result()
    again.load_state_with_optimizer(state).result()
    run = training.model_id
    result["run"] = rest.get_training_run(run).result().lora_rank
    result["same"] = rest.get_training_run_by_tinker_path(state).result().training_run_id == run
    result["rank"] = rest.get_weights_info_by_tinker_path(state).result().lora_rank

    def kept():
        found = rest.list_checkpoints(run).result().checkpoints
        return sorted([one.checkpoint_id, one.checkpoint_type, one.public] for one in found)

    result["kept"] = kept()
    rest.publish_checkpoint_from_tinker_path(state).result()
    result["published"] = kept()
    rest.unpublish_checkpoint_from_tinker_path(state).result()
    result["url"] = bool(rest.get_checkpoint_archive_url_from_tinker_path(state).result().url)
    result["users"] = state in [one.tinker_path for one in rest.list_user_checkpoints(limit=50).result().checkpoints]
    rest.delete_checkpoint(run, "weights/one").result()
    result["left"] = kept()
    result["runs"] = run in [one.training_run_id for one in rest.list_training_runs().result().training_runs]
    session = rest.get_session(service.holder.get_session_id()).result()
    result["models"] = len(session.training_run_ids)
    result["sampler"] = rest.get_sampler(session.sampler_ids[0]).result().base_model


def errors(tinker, service, training, rest, result):
    from tinker import types

    def raised(call):
        try:
            call()
        except tinker.APIStatusError as error:
            return [
                type(error).__name__,
                error.status_code,
                error.response.status_code,
                error.request.method,
                isinstance(error, tinker.APIError) and isinstance(error, tinker.TinkerError),
                "detail" in error.body,
            ]
        except tinker.RequestFailedError as error:
            return [type(error).__name__, str(error.category), error.category == "user", bool(error.request_id)]
        except ValueError as error:
            return ["ValueError", str(error) if "must be provided" in str(error) else ""]
        return None

    result["missing"] = raised(lambda: rest.get_training_run("nothing").result())
    result["undeletable"] = raised(lambda: rest.delete_checkpoint("nothing", "weights/x").result())
    result["neither"] = raised(lambda: service.create_sampling_client())
    result["no_path"] = raised(lambda: service.create_sampling_client(model_path="weights/x"))
    result["bad_path"] = raised(lambda: rest.get_training_run_by_tinker_path("tinker://x").result())
    wrong = types.Datum(model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [1, 2, 3]})
    result["refused"] = raised(lambda: training.forward([wrong], "cross_entropy").result())
    result["lost"] = raised(lambda: training.load_state("tinker://nothing/weights/x").result())
    # The client is usable after these errors.
    result["after"] = training.optim_step(types.AdamParams(learning_rate=0.0)).result().metrics is not None


def types(tinker, result):
    from tinker import types

    prompt = types.ModelInput.empty().append(types.EncodedTextChunk(tokens=[1, 2])).append_int(3)
    result["prompt"] = [prompt.length, prompt.to_ints(), prompt.model_dump()]
    params = types.SamplingParams(max_tokens=3, stop=["\n"])
    result["params"] = [
        params.model_dump(),
        params.model_dump(exclude_none=True),
        params.model_copy(update={"max_tokens": 4}).max_tokens,
        types.SamplingParams.model_validate({"seed": 7}).seed,
        sorted(types.AdamParams.model_fields),
        types.LoraConfig(rank=8).model_dump(),
    ]
    tensor = types.TensorData(data=[1.0, 2.0, 3.0, 4.0], dtype="float32", shape=[2, 2])
    result["tensor"] = [tensor.tolist(), tensor.to_numpy().shape[0], math.isclose(sum(tensor.data), 10.0)]
    result["enums"] = [str(member) for member in types.RequestErrorCategory]
