"""Rules of other servers."""

import pytest
from server_calls import Wire, connect, datum, example

from tinkex_sync import errors, types
from tinkex_sync.local import Faults, LocalServer

ADAM = types.AdamParams(learning_rate=1e-2)


@pytest.fixture(scope="module")
def tuft():
    with LocalServer(like="tuft") as server:
        yield server


@pytest.fixture(scope="module")
def skyrl():
    with LocalServer(like="skyrl") as server:
        yield server


def test_unknown_server_is_refused_before_the_start():
    with pytest.raises(ValueError, match="like must be one of tuft, skyrl"):
        LocalServer(like="x")


def test_tuft_accepts_only_the_next_number(tuft):
    with Wire(tuft) as wire:
        model = wire.model()

        def status(seq, **headers):
            return wire.post("optim_step", {"model_id": model, "seq_id": seq, "adam_params": {}}, **headers)

        for number in (0, 2, None):
            rejected = status(number)
            assert rejected.status_code == 409
            assert "expected 1, got" in rejected.json()["detail"]
        assert status("x").status_code == 422
        key = {"X-Idempotency-Key": "k"}
        assert status(1, **key).status_code == 200
        # A repetition is not recognized.
        assert status(1, **key).status_code == 409
        assert status(2).status_code == 200
        # A refused request does not use its number.
        refused = wire.post("save_weights", {"model_id": model, "seq_id": 3, "path": "a/b"})
        assert refused.status_code == 422
        assert status(3).status_code == 200
        assert status(1).json()["detail"].startswith("Sequence conflict: expected 4, got 1")


def test_client_trains_on_a_server_with_consecutive_numbers(tuft):
    with connect(tuft) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
        futures = [training.submit_forward_backward([example()], "cross_entropy") for _ in range(3)]
        path = training.submit_save_state("a")
        with pytest.raises(errors.RequestFailedError):
            bad = example()
            bad.loss_fn_inputs["target_tokens"].data[0] = 9999
            training.forward_backward([bad], "cross_entropy")
        training.optim_step(ADAM)
        assert all(future.result(60).metrics for future in futures)
        assert path.result(60).path


def test_client_survives_lost_responses_of_a_server_with_consecutive_numbers(tuft):
    with connect(tuft) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
        tuft.set_faults(Faults(fail_first={"optim_step": [503, 503]}))
        try:
            assert training.optim_step(ADAM).metrics
        finally:
            tuft.set_faults(Faults())


def test_skyrl_does_not_overwrite_checkpoints(skyrl):
    with Wire(skyrl) as wire:
        model = wire.model()
        wire.save(model, "a")
        body = {"model_id": model, "seq_id": 5, "path": "a", "overwrite": True}
        assert wire.post("save_weights", body).status_code == 409


def test_skyrl_returns_no_metrics(skyrl):
    with Wire(skyrl) as wire:
        model = wire.model()
        output = wire.result(wire.backward(model))
        assert (output["metrics"], len(output["loss_fn_outputs"])) == ({}, 1)
        assert wire.result(wire.step(model))["metrics"] == {}


def test_skyrl_returns_no_logprob_for_the_first_token(skyrl):
    with Wire(skyrl) as wire:
        sampler = wire.sampler(wire.session())
        result = wire.result(wire.sample(sampler, 1, prompt_logprobs=True).json())
        assert len(result["prompt_logprobs"]) == len("hello") - 1
        assert None not in result["prompt_logprobs"]


def test_skyrl_rejects_what_it_does_not_support(skyrl):
    with Wire(skyrl) as wire:
        sampler, model = wire.sampler(wire.session()), wire.model()
        assert wire.sample(sampler, 1, sampling_params={"max_tokens": None}).status_code == 400
        assert wire.sample(sampler, 1, topk_prompt_logprobs=2).status_code == 400
        fields = {"data": [datum()], "loss_fn": "dro", "loss_fn_config": None}
        body = {"model_id": model, "seq_id": 1, "forward_backward_input": fields}
        assert wire.post("forward_backward", body).status_code == 422
        assert wire.result(wire.backward(model, seq=1))["loss_fn_outputs"]


def test_skyrl_lacks_endpoints(skyrl):
    with Wire(skyrl) as wire:
        session = wire.session()
        model = wire.model(session)
        for path in ("save_weights", "save_weights_for_sampler"):
            wire.save(model, "a", path)
        run = f"training_runs/{model}/checkpoints"
        for path in ("checkpoints", "sessions", f"sessions/{session}", f"{run}/weights/a/archive"):
            assert wire.get(path).status_code == 404
        assert wire.post(f"{run}/sampler_weights/a/publish", {}).status_code == 404
        assert wire.get(run).status_code == 200
        assert wire.get(f"{run}/sampler_weights/a/archive").status_code == 302
        assert wire.ok("session_heartbeat", {"session_id": session})


def test_client_trains_and_samples_with_the_rules_of_skyrl(skyrl):
    with connect(skyrl) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
        training.train_step([example()], "cross_entropy", ADAM)
        sampler = training.save_weights_and_get_sampling_client()
        prompt = types.ModelInput.from_ints([1, 2, 3])
        assert sampler.compute_logprobs(prompt)[0] is None
        params = types.SamplingParams(max_tokens=2)
        assert len(sampler.sample(prompt, 1, params).sequences[0].tokens) == 2
