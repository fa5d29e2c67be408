# Written for the official SDK; run unchanged under both packages.
def main(tinker, result):
    from tinker import types
    from tinker.lib.public_interfaces.rest_client import RestClient
    from tinker.types.tensor_data import TensorData

    service = tinker.ServiceClient(user_metadata={"a": "b"}, timeout=30.0, max_retries=3)
    tokens = list(b"the quick brown fox jumps")
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": TensorData(data=tokens[1:], dtype="int64", shape=[len(tokens) - 1]),
            "weights": [1.0] * (len(tokens) - 1),
        },
    )
    training = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    losses = []
    for _ in range(3):
        backward = training.forward_backward([datum] * 2, "cross_entropy")
        step = training.optim_step(types.AdamParams(learning_rate=5e-3))
        losses.append(backward.result(60).metrics["loss:sum"])
        step.result()
    result["losses"] = losses
    empty = training.forward_backward([], "cross_entropy").result()
    result["empty"] = [empty.loss_fn_output_type, empty.loss_fn_outputs, empty.metrics]
    state = training.save_state("one").result().path
    result["name"] = types.ParsedCheckpointTinkerPath.from_tinker_path(state).checkpoint_id
    prompt = types.ModelInput.from_ints(list(b"the quick "))
    params = types.SamplingParams(max_tokens=8, temperature=0.0, seed=1)
    sampler = training.save_weights_and_get_sampling_client()
    result["sample"] = list(sampler.sample(prompt, 2, params).result().sequences[0].tokens)
    result["logprobs"] = sampler.compute_logprobs(prompt).result()
    submitted = training.save_weights_and_get_sampling_client_submit().result()
    result["submitted"] = list(
        submitted.sample(prompt=prompt, num_samples=1, sampling_params=params).result().sequences[0].tokens
    )
    again = service.create_training_client_from_state_with_optimizer(state)
    result["again"] = again.forward([datum], "cross_entropy").result().metrics["loss:sum"]
    rest = service.create_rest_client()
    assert isinstance(rest, RestClient)
    result["run"] = rest.get_training_run(training.model_id).result().lora_rank
    result["rank"] = rest.get_weights_info_by_tinker_path(state).result().lora_rank
    result["kept"] = [c.checkpoint_id for c in rest.list_checkpoints(training.model_id).result().checkpoints]
    try:
        rest.get_training_run("nothing").result()
    except tinker.NotFoundError as error:
        result["missing"] = [
            error.status_code,
            error.response.status_code,
            isinstance(error, tinker.APIError),
        ]
        result["request"] = error.request.method
    try:
        service.create_sampling_client()
    except ValueError as error:
        result["neither"] = str(error)
    service.holder.close()
