"""The operations of a script on every server: train, save, load and sample."""

import pytest
from lessons import ADAM, GREEDY, MODEL, TEXT, current_logprobs, datum, datums, logprobs, loss, model, prompt

from tinkex_sync import types
from tinkex_sync.local import Faults

CLOSE = {"rel": 1e-4, "abs": 1e-5}


def test_training_reduces_the_loss(user, imitated):
    assert MODEL in [one.model_name for one in user.get_server_capabilities().supported_models]
    learner = model(user, user_metadata={"purpose": "suite"})
    info = learner.get_info()
    assert info.model_id == learner.model_id
    assert info.model_data.model_name == MODEL
    losses = [loss(learner.train_step([datum()], "cross_entropy", ADAM).forward_backward) for _ in range(8)]
    assert losses[-1] < 0.6 * losses[0]
    assert [number for number, _ in imitated.numbers()] == list(range(1, 17))


def test_batch_of_several_chunks_returns_one_result_in_order(quick, imitated):
    learner = model(quick)
    data = datums(7)
    many = learner.forward(data, "cross_entropy")
    assert [len(one) for one in logprobs(many)] == [2 + index for index in range(7)]
    assert len(imitated.requests_to("forward")) == 4
    one_by_one = [logprobs(learner.forward([one], "cross_entropy"))[0] for one in data]
    for whole, alone in zip(logprobs(many), one_by_one):
        assert whole == pytest.approx(alone, **CLOSE)
    step = learner.train_step(data, "cross_entropy", ADAM)
    assert len(step.loss_fn_outputs) == 7
    assert loss(learner.forward(data, "cross_entropy")) < loss(many)


def test_custom_loss_trains_the_model(quick):
    np = pytest.importorskip("numpy")
    learner = model(quick)

    def negative_mean(data, logprobs):
        return (
            -sum(one.mean() for one in logprobs),
            [-np.ones_like(one) / len(one) for one in logprobs],
            {"custom": 1.0},
        )

    first = learner.forward_backward_custom(datums(3), negative_mean, backend="numpy")
    assert first.metrics["custom"] == 1.0
    learner.optim_step(ADAM)
    assert loss(learner.forward(datums(3), "cross_entropy")) < loss(first)


def test_state_is_loaded_with_and_without_optimizer(user):
    learner = model(user)
    for _ in range(2):
        learner.train_step([datum()], "cross_entropy", ADAM)
    saved = learner.save_state("halfway").path
    halfway = current_logprobs(learner)
    learner.train_step([datum()], "cross_entropy", ADAM)
    further = current_logprobs(learner)
    assert further != pytest.approx(halfway, **CLOSE)

    learner.load_state_with_optimizer(saved)
    assert current_logprobs(learner) == pytest.approx(halfway, **CLOSE)
    learner.train_step([datum()], "cross_entropy", ADAM)
    assert current_logprobs(learner) == pytest.approx(further, **CLOSE)

    learner.load_state(saved)
    assert current_logprobs(learner) == pytest.approx(halfway, **CLOSE)
    learner.train_step([datum()], "cross_entropy", ADAM)
    assert current_logprobs(learner) != pytest.approx(further, **CLOSE)

    again = user.create_training_client_from_state_with_optimizer(saved)
    assert again.model_id != learner.model_id
    assert current_logprobs(again) == pytest.approx(halfway, **CLOSE)
    again.train_step([datum()], "cross_entropy", ADAM)
    assert current_logprobs(again) == pytest.approx(further, **CLOSE)
    assert current_logprobs(user.create_training_client_from_state(saved)) == pytest.approx(halfway, **CLOSE)


def test_samplers_created_in_every_way_use_the_trained_weights(user):
    learner = model(user)
    for _ in range(12):
        learner.train_step([datum()], "cross_entropy", ADAM)
    saved = learner.save_weights_for_sampler("learned").path
    samplers = [
        learner.save_weights_and_get_sampling_client(),
        learner.save_weights_and_get_sampling_client("named"),
        user.create_sampling_client(model_path=saved),
        learner.create_sampling_client(saved),
    ]
    responses = [one.sample(prompt(), 2, GREEDY).sequences for one in samplers]
    assert {bytes(one.tokens) for two in responses for one in two} == {TEXT[5:11]}
    assert all(one.logprobs is not None and len(one.logprobs) == 6 for two in responses for one in two)
    base = user.create_sampling_client(base_model=MODEL)
    assert bytes(base.sample(prompt(), 1, GREEDY).sequences[0].tokens) != TEXT[5:11]
    assert len({one.sampling_session_id for one in [*samplers, base]}) == 5

    learned, before = samplers[0].compute_logprobs(prompt(TEXT)), base.compute_logprobs(prompt(TEXT))
    assert len(learned) == len(before) == len(TEXT)
    assert learned[0] is None
    assert sum(learned[1:]) > sum(before[1:])
    assert learned[1:] == pytest.approx(current_logprobs(learner), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("ordered", [True, False])
def test_sample_many_returns_every_response_through_429_errors(quick, imitated, server, ordered):
    sampler = quick.create_sampling_client(base_model=MODEL)
    prompts = [prompt(bytes([65 + number, 66])) for number in range(24)]
    expected = [bytes(response.sequences[0].tokens) for response in sampler.sample_many(prompts, 1, GREEDY)]
    server.set_faults(Faults(admit_per_second=60.0, admit_burst=6, retry_after=0.2))
    before = server.stats()["samples_refused"]
    responses = list(sampler.sample_many(prompts, 1, GREEDY, ordered=ordered))
    if not ordered:
        responses = [response for _, response in sorted(responses, key=lambda pair: pair[0])]
    assert [bytes(response.sequences[0].tokens) for response in responses] == expected
    assert server.stats()["samples_refused"] > before
    numbers = [number for _, number, _, _ in imitated.requests_to("asample")]
    assert set(numbers) == set(range(48))


def test_samples_with_and_without_optional_parameters(user):
    sampler = user.create_sampling_client(base_model=MODEL)
    params = types.SamplingParams(max_tokens=3, seed=5, stop=[10], top_k=5, top_p=0.9, temperature=0.7)
    first, second = (sampler.sample(prompt(), 2, params, include_prompt_logprobs=True) for _ in range(2))
    assert first == second
    assert len(first.sequences) == 2
    assert first.prompt_logprobs is not None
    assert sampler.sample(prompt(), 1, params).prompt_logprobs is None
