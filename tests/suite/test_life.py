"""A script's whole life on every server: train, save, load, sample."""

import pytest
from lessons import ADAM, GREEDY, MODEL, TEXT, datum, datums, known, logprobs, loss, model, prompt

from tinkex_sync import types
from tinkex_sync.local import Faults

CLOSE = {"rel": 1e-4, "abs": 1e-5}


def test_training_learns(user, imitated):
    assert MODEL in [one.model_name for one in user.get_server_capabilities().supported_models]
    learner = model(user, user_metadata={"purpose": "suite"})
    info = learner.get_info()
    assert info.model_id == learner.model_id
    assert info.model_data.model_name == MODEL
    losses = [loss(learner.train_step([datum()], "cross_entropy", ADAM).forward_backward) for _ in range(8)]
    assert losses[-1] < 0.6 * losses[0]
    assert [number for number, _ in imitated.numbers()] == list(range(1, 17))


def test_a_batch_of_several_chunks_comes_back_as_one_in_order(quick, imitated):
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


def test_a_loss_of_the_users_own(quick):
    np = pytest.importorskip("numpy")
    learner = model(quick)

    def negative_mean(data, given):
        return (
            -sum(one.mean() for one in given),
            [-np.ones_like(one) / len(one) for one in given],
            {"mine": 1.0},
        )

    first = learner.forward_backward_custom(datums(3), negative_mean, backend="numpy")
    assert first.metrics["mine"] == 1.0
    learner.optim_step(ADAM)
    assert loss(learner.forward(datums(3), "cross_entropy")) < loss(first)


def test_state_comes_back_with_and_without_the_optimizer(user):
    learner = model(user)
    for _ in range(2):
        learner.train_step([datum()], "cross_entropy", ADAM)
    saved = learner.save_state("halfway").path
    halfway = known(learner)
    learner.train_step([datum()], "cross_entropy", ADAM)
    further = known(learner)
    assert further != pytest.approx(halfway, **CLOSE)

    learner.load_state_with_optimizer(saved)
    assert known(learner) == pytest.approx(halfway, **CLOSE)
    learner.train_step([datum()], "cross_entropy", ADAM)
    assert known(learner) == pytest.approx(further, **CLOSE)

    learner.load_state(saved)
    assert known(learner) == pytest.approx(halfway, **CLOSE)
    learner.train_step([datum()], "cross_entropy", ADAM)
    assert known(learner) != pytest.approx(further, **CLOSE)

    again = user.create_training_client_from_state_with_optimizer(saved)
    assert again.model_id != learner.model_id
    assert known(again) == pytest.approx(halfway, **CLOSE)
    again.train_step([datum()], "cross_entropy", ADAM)
    assert known(again) == pytest.approx(further, **CLOSE)
    assert known(user.create_training_client_from_state(saved)) == pytest.approx(halfway, **CLOSE)


def test_samplers_made_in_every_way_know_what_was_learned(user):
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
    replies = [one.sample(prompt(), 2, GREEDY).sequences for one in samplers]
    assert {bytes(one.tokens) for two in replies for one in two} == {TEXT[5:11]}
    assert all(one.logprobs is not None and len(one.logprobs) == 6 for two in replies for one in two)
    base = user.create_sampling_client(base_model=MODEL)
    assert bytes(base.sample(prompt(), 1, GREEDY).sequences[0].tokens) != TEXT[5:11]
    assert len({one.sampling_session_id for one in [*samplers, base]}) == 5

    learned, before = samplers[0].compute_logprobs(prompt(TEXT)), base.compute_logprobs(prompt(TEXT))
    assert len(learned) == len(before) == len(TEXT)
    assert learned[0] is None
    assert sum(learned[1:]) > sum(before[1:])
    assert learned[1:] == pytest.approx(known(learner), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("ordered", [True, False])
def test_many_samples_through_refusals_each_reply_to_its_prompt(quick, imitated, server, ordered):
    sampler = quick.create_sampling_client(base_model=MODEL)
    prompts = [prompt(bytes([65 + number, 66])) for number in range(24)]
    expected = [bytes(reply.sequences[0].tokens) for reply in sampler.sample_many(prompts, 1, GREEDY)]
    server.set_faults(Faults(admit_per_second=60.0, admit_burst=6, retry_after=0.2))
    before = server.stats()["samples_refused"]
    replies = list(sampler.sample_many(prompts, 1, GREEDY, ordered=ordered))
    if not ordered:
        replies = [reply for _, reply in sorted(replies, key=lambda pair: pair[0])]
    assert [bytes(reply.sequences[0].tokens) for reply in replies] == expected
    assert server.stats()["samples_refused"] > before
    numbers = [number for _, number, _, _ in imitated.requests_to("asample")]
    assert set(numbers) == set(range(48))


def test_samples_with_and_without_what_is_optional(user):
    sampler = user.create_sampling_client(base_model=MODEL)
    params = types.SamplingParams(max_tokens=3, seed=5, stop=[10], top_k=5, top_p=0.9, temperature=0.7)
    first, second = (sampler.sample(prompt(), 2, params, include_prompt_logprobs=True) for _ in range(2))
    assert first == second
    assert len(first.sequences) == 2
    assert first.prompt_logprobs is not None
    assert sampler.sample(prompt(), 1, params).prompt_logprobs is None
