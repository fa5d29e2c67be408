"""Call every operation of the official SDK 0.7.0 with the server in TINKER_BASE_URL.

It prints one JSON object with the results, which test_official_0_7.py compares.
"""

import base64
import json
import os
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import tinker
import torch
from tinker import types

#: An image of two by two red pixels.
RED = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGM8ISfHwMDAxMDAwMDAAAANBAEIfXHKZgAAAABJRU5ErkJggg=="
)


def datum(text):
    tokens = list(text.encode())
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )


def train(service, seen):
    seen["models"] = [m.model_name for m in service.get_server_capabilities().supported_models]
    training = service.create_lora_training_client("tinkex/tiny", rank=8, seed=3, user_metadata={"who": "me"})
    batch = [datum("the quick brown fox jumps over the lazy dog") for _ in range(4)]
    seen["forward"] = training.forward(batch, "cross_entropy").result().metrics
    losses = []
    for _ in range(6):
        backward = training.forward_backward(batch, "cross_entropy")
        step = training.optim_step(types.AdamParams(learning_rate=5e-3))
        losses.append(backward.result().metrics["loss:sum"])
        seen["step_metrics"] = step.result().metrics
    seen["losses"] = losses
    # 1,030 datums need two requests, because a request has at most 1,024.
    big = training.forward_backward([datum("abc")] * 1030, "cross_entropy").result()
    seen["chunked"] = [len(big.loss_fn_outputs), len(big.loss_fn_outputs[0]["logprobs"].data)]

    def custom(data, logprobs):
        loss = -torch.cat(logprobs).sum()
        return loss, {"mine": loss.item()}

    seen["custom"] = training.forward_backward_custom(batch, custom).result().metrics["mine"]
    for loss_fn in ("importance_sampling", "ppo", "cispo", "dro"):
        rl = types.Datum(
            model_input=types.ModelInput.from_ints([1, 2, 3]),
            loss_fn_inputs={"target_tokens": [2, 3, 4], "logprobs": [-1.0, -2.0, -3.0], "advantages": [1.0, 0.5, -1.0]},
        )
        config = {"beta": 0.05} if loss_fn == "dro" else None
        seen[loss_fn] = training.forward_backward([rl], loss_fn, config).result().metrics
    training.optim_step(types.AdamParams()).result()
    info = training.get_info()
    seen["info"] = [info.model_data.model_name, info.is_lora, info.lora_rank]
    try:
        training.forward_backward([datum("hello")], "ppo").result()
    except tinker.RequestFailedError as error:
        seen["user_error"] = [str(error.category), error.message]
    return training, batch


def checkpoints(service, training, batch, seen):
    state = training.save_state("first").result().path
    weights = training.save_weights_for_sampler("weights-1").result().path
    seen["paths"] = [state, weights]
    before = training.forward(batch, "cross_entropy").result().metrics["loss:sum"]
    training.forward_backward(batch, "cross_entropy").result()
    training.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    training.load_state(state).result()
    training.load_state_with_optimizer(state).result()
    after = training.forward(batch, "cross_entropy").result().metrics["loss:sum"]
    again = service.create_training_client_from_state_with_optimizer(state)
    resumed = again.forward(batch, "cross_entropy").result().metrics["loss:sum"]
    plain = service.create_training_client_from_state(state)
    plainly = plain.forward(batch, "cross_entropy").result().metrics["loss:sum"]
    seen["restored"] = [before, after, resumed, plainly]
    return state, weights


def sample(service, training, weights, seen):
    prompt = types.ModelInput.from_ints(list(b"the quick "))
    params = types.SamplingParams(max_tokens=8, temperature=0.0, seed=1)
    by_path = service.create_sampling_client(model_path=weights)
    response = by_path.sample(prompt, 2, params).result()
    seen["sample"] = [bytes(s.tokens).decode(errors="replace") for s in response.sequences]
    seen["logprobs"] = [len(s.logprobs) for s in response.sequences]
    seen["stop_reason"] = response.sequences[0].stop_reason
    ephemeral = training.save_weights_and_get_sampling_client(name="ignored")
    seen["ephemeral"] = bytes(ephemeral.sample(prompt, 1, params).result().sequences[0].tokens).decode(errors="replace")
    base = service.create_sampling_client(base_model="tinkex/tiny")
    stopped = base.sample(prompt, 1, types.SamplingParams(max_tokens=50, seed=2, stop=list(range(128)))).result()
    seen["stopped"] = stopped.sequences[0].stop_reason
    full = base.sample(
        prompt, 1, types.SamplingParams(max_tokens=3), include_prompt_logprobs=True, topk_prompt_logprobs=3
    ).result()
    seen["prompt_logprobs"] = [len(full.prompt_logprobs), full.prompt_logprobs[0], len(full.topk_prompt_logprobs)]
    seen["topk"] = len(full.topk_prompt_logprobs[1])
    seen["compute_logprobs"] = len(by_path.compute_logprobs(prompt).result())
    many = [base.sample(prompt, 1, types.SamplingParams(max_tokens=4, seed=i)) for i in range(60)]
    seen["many"] = sum(len(future.result().sequences[0].tokens) for future in many)
    image = types.ModelInput(
        chunks=[
            types.EncodedTextChunk(tokens=[1, 2]),
            types.ImageChunk(data=RED, format="png", expected_tokens=4),
            types.ImageAssetPointerChunk(format="jpeg", location="https://example.com/a.jpg", expected_tokens=3),
            types.EncodedTextChunk(tokens=[3]),
        ]
    )
    seen["image"] = len(base.sample(image, 1, types.SamplingParams(max_tokens=2)).result().sequences[0].tokens)


def rest(service, training, state, weights, seen):
    client = service.create_rest_client()
    runs = client.list_training_runs(limit=2).result()
    seen["runs"] = [len(runs.training_runs), runs.cursor.total_count]
    run = client.get_training_run(training.model_id).result()
    seen["run"] = [run.base_model, run.lora_rank, run.user_metadata, run.last_checkpoint.tinker_path]
    seen["same_run"] = client.get_training_run_by_tinker_path(state).result().training_run_id == training.model_id
    info = client.get_weights_info_by_tinker_path(state).result()
    seen["weights_info"] = [info.base_model, info.is_lora, info.lora_rank]
    listed = client.list_checkpoints(training.model_id).result().checkpoints
    seen["checkpoints"] = sorted(c.checkpoint_id for c in listed)
    client.publish_checkpoint_from_tinker_path(weights).result()
    mine = client.list_user_checkpoints().result()
    seen["public"] = [c.public for c in mine.checkpoints if c.tinker_path == weights]
    client.unpublish_checkpoint_from_tinker_path(weights).result()
    link = client.get_checkpoint_archive_url_from_tinker_path(weights).result()
    seen["expires"] = link.expires.isoformat()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.tar.gz"
        urllib.request.urlretrieve(link.url, file)
        with tarfile.open(file) as tar:
            seen["archive"] = tar.getnames()
    sessions = client.list_sessions().result().sessions
    seen["sessions"] = len(sessions)
    session = client.get_session(sessions[0]).result()
    seen["session"] = [training.model_id in session.training_run_ids, len(session.sampler_ids)]
    sampler = client.get_sampler(session.sampler_ids[0]).result()
    seen["sampler"] = [sampler.base_model, sampler.model_path]
    client.delete_checkpoint_from_tinker_path(weights).result()
    left = client.list_checkpoints(training.model_id).result().checkpoints
    seen["after_delete"] = [c.checkpoint_id for c in left]
    try:
        client.delete_checkpoint_from_tinker_path(weights).result()
    except tinker.NotFoundError as error:
        seen["deleted_twice"] = str(error)


def retry(service, seen):
    """Sample and train while the server has the faults that test_official_0_7.py sets."""
    base = service.create_sampling_client(base_model="tinkex/tiny")
    prompt = types.ModelInput.from_ints([1, 2, 3])
    futures = [base.sample(prompt, 1, types.SamplingParams(max_tokens=4, seed=i)) for i in range(40)]
    seen["sampled_with_faults"] = sum(len(future.result().sequences[0].tokens) for future in futures)
    training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
    losses = []
    for _ in range(3):
        backward = training.forward_backward([datum("abcdef")], "cross_entropy")
        training.optim_step(types.AdamParams(learning_rate=1e-2)).result()
        losses.append(backward.result().metrics["loss:sum"])
    seen["losses_with_faults"] = losses


def everything(service, seen):
    training, batch = train(service, seen)
    state, weights = checkpoints(service, training, batch, seen)
    sample(service, training, weights, seen)
    rest(service, training, state, weights, seen)
    try:
        service.create_lora_training_client("no/such-model", rank=4)
    except tinker.BadRequestError as error:
        seen["unknown_model"] = str(error)


def main():
    seen = {}
    service = tinker.ServiceClient(user_metadata={"a": "b"})
    {"everything": everything, "retry": retry}[sys.argv[1]](service, seen)
    json.dump(seen, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # background threads of the SDK would delay the exit


main()
