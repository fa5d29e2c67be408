"""Train, save, load and sample with an official SDK of protocol 0.38 (SDK 0.25.0 or 0.38.0).

It uses the server in TINKER_BASE_URL and prints one JSON object with the results.
"""

import json
import os
import sys
import urllib.request

import tinker
from tinker import types


def datum(text):
    tokens = list(text.encode())
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )


def wait(client):
    """Return a client; some versions return a future of a client."""
    return client.result() if hasattr(client, "result") else client


def train(service, seen):
    seen["models"] = [m.model_name for m in service.get_server_capabilities().supported_models]
    training = wait(service.create_lora_training_client("tinkex/tiny", rank=8, seed=3, user_metadata={"who": "me"}))
    batch = [datum("the quick brown fox jumps over the lazy dog") for _ in range(4)]
    seen["forward"] = training.forward(batch, "cross_entropy").result().metrics["loss:sum"]
    losses = []
    for _ in range(6):
        backward = training.forward_backward(batch, "cross_entropy")
        step = training.optim_step(types.AdamParams(learning_rate=5e-3))
        losses.append(backward.result().metrics["loss:sum"])
        step.result()
    seen["losses"] = losses
    # 1,030 datums need two requests, because a request has at most 1,024.
    big = training.forward_backward([datum("abc")] * 1030, "cross_entropy").result()
    seen["chunked"] = [len(big.loss_fn_outputs), len(big.loss_fn_outputs[0]["logprobs"].data)]
    training.optim_step(types.AdamParams()).result()
    for loss_fn in ("importance_sampling", "ppo", "cispo", "dro"):
        rl = types.Datum(
            model_input=types.ModelInput.from_ints([1, 2, 3]),
            loss_fn_inputs={"target_tokens": [2, 3, 4], "logprobs": [-1.0, -2.0, -3.0], "advantages": [1.0, 0.5, -1.0]},
        )
        config = {"beta": 0.05} if loss_fn == "dro" else None
        seen[loss_fn] = training.forward([rl], loss_fn, config).result().metrics["loss:sum"]
    info = training.get_info()
    seen["info"] = [info.model_data.model_name, info.is_lora, info.lora_rank]
    try:
        training.forward_backward([datum("hello")], "ppo").result()
    except tinker.RequestFailedError as error:
        seen["user_error"] = [str(error.category), error.message]
    return training, batch


def loss(training, batch):
    return training.forward(batch, "cross_entropy").result().metrics["loss:sum"]


def checkpoints(service, training, batch, seen):
    state = training.save_state("first").result().path
    weights = training.save_weights_for_sampler("weights-1").result().path
    seen["paths"] = [state, weights]
    before = loss(training, batch)
    resumed = wait(service.create_training_client_from_state_with_optimizer(state))
    plain = wait(service.create_training_client_from_state(state))
    seen["restored"] = [before, loss(resumed, batch), loss(plain, batch)]
    resumed.forward_backward(batch, "cross_entropy").result()
    resumed.optim_step(types.AdamParams(learning_rate=5e-3)).result()
    seen["resumed_trains"] = loss(resumed, batch)
    return state, weights


def sample(service, training, weights, seen):
    prompt = types.ModelInput.from_ints(list(b"the quick "))
    params = types.SamplingParams(max_tokens=8, temperature=0.0, seed=1)
    by_path = wait(service.create_sampling_client(model_path=weights))
    response = by_path.sample(prompt, 2, params).result()
    seen["sample"] = [bytes(s.tokens).decode(errors="replace") for s in response.sequences]
    seen["logprobs"] = [len(s.logprobs) for s in response.sequences]
    seen["stop_reason"] = response.sequences[0].stop_reason
    seen["sequence_ids"] = len({getattr(s, "sequence_id", index) for index, s in enumerate(response.sequences)})
    ephemeral = wait(training.save_weights_and_get_sampling_client())
    seen["ephemeral"] = bytes(ephemeral.sample(prompt, 1, params).result().sequences[0].tokens).decode(errors="replace")
    base = wait(service.create_sampling_client(base_model="tinkex/tiny"))
    full = base.sample(
        prompt, 1, types.SamplingParams(max_tokens=3), include_prompt_logprobs=True, topk_prompt_logprobs=3
    ).result()
    seen["prompt_logprobs"] = [len(full.prompt_logprobs), full.prompt_logprobs[0], len(full.topk_prompt_logprobs)]
    seen["topk"] = len(full.topk_prompt_logprobs[1])
    seen["compute_logprobs"] = len(by_path.compute_logprobs(prompt).result())
    many = [base.sample(prompt, 1, types.SamplingParams(max_tokens=4, seed=i)) for i in range(60)]
    seen["many"] = sum(len(future.result().sequences[0].tokens) for future in many)


def sample_with_options(service, seen):
    """Sample with the options that are newer than 0.7.0."""
    base = wait(service.create_sampling_client(base_model="tinkex/tiny"))
    tokens = list(b"the quick ")
    targets = types.TensorData(data=tokens[1:], dtype="int64", shape=[9, 1])
    response = base.sample(
        types.ModelInput.from_ints(tokens),
        2,
        types.SamplingParams(max_tokens=3, seed=1),
        include_prompt_logprobs=True,
        topk_sample_logprobs=2,
        target_prompt_logprobs=targets,
        prompt_alt_tokens_k=3,
        prompt_logprobs_last_n=4,
    ).result()
    seen["scored"] = [value is None for value in response.prompt_logprobs]
    seen["targets"] = [float(value) for value in response.target_prompt_logprobs.to_numpy().ravel()[-4:]]
    seen["last"] = response.prompt_logprobs[-4:]
    seen["alternatives"] = list(response.prompt_alt_tokens.tokens.shape)
    seen["topk_sampled"] = [len(row) for row in response.sequences[1].topk_logprobs]


def rest(service, training, state, weights, seen):
    client = tinker.RestClient() if hasattr(tinker, "RestClient") else service.create_rest_client()
    run = client.get_training_run(training.model_id).result()
    seen["run"] = [run.base_model, run.lora_rank, run.user_metadata, run.last_checkpoint.tinker_path]
    info = client.get_weights_info_by_tinker_path(state).result()
    seen["weights_info"] = [info.base_model, info.is_lora, info.lora_rank]
    listed = client.list_checkpoints(training.model_id).result().checkpoints
    seen["checkpoints"] = sorted(c.checkpoint_id for c in listed)
    client.delete_checkpoint_from_tinker_path(weights).result()
    left = client.list_checkpoints(training.model_id).result().checkpoints
    seen["after_delete"] = [c.checkpoint_id for c in left]


def save(training, client, seen):
    """Save with the options that are newer than 0.7.0."""
    saved = training.save_state("kept", ttl_seconds=7200, user_metadata={"a": "b"}).result()
    # Without overwrite the server returns 409, which the official client retries for 300 seconds.
    training.save_state("kept", overwrite=True).result()
    client.set_checkpoint_ttl_from_tinker_path(saved.path, 3600).result()
    external = training.save_weights_external("out").result()
    seen["external"] = external.path.split("/", 3)[3]
    run_id = external.path.split("/")[2]
    listed = client.list_checkpoints(run_id).result().checkpoints
    seen["kept"] = sorted([c.checkpoint_id, c.checkpoint_type, bool(c.expires_at)] for c in listed)
    urls = client.get_external_weights_urls(external.path).result().urls
    seen["downloaded"] = {name: len(urllib.request.urlopen(url).read()) > 0 for name, url in urls.items()}
    copied = client.copy_weights(saved.path, destination_project_id="p").result()
    seen["copied"] = copied.split("/", 3)[3]


def main():
    seen = {"version": tinker.__version__}
    service = tinker.ServiceClient(user_metadata={"a": "b"})
    training, batch = train(service, seen)
    state, weights = checkpoints(service, training, batch, seen)
    sample(service, training, weights, seen)
    rest(service, training, state, weights, seen)
    if hasattr(training, "save_weights_external"):
        save(training, tinker.RestClient(), seen)
        sample_with_options(service, seen)
    if hasattr(service, "__exit__"):
        service.__exit__(None, None, None)
    json.dump(seen, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # background threads of the SDK would delay the exit


main()
