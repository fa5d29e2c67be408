"""How tokens are chosen, and where completions end."""

import numpy as np
import pytest
from engine_data import CONFIG, SMALL, datum, randomized_model

from tinkex_sync.local.engine import EngineError, SamplingModel
from tinkex_sync.local.engine.sampling import SamplingRules, choose_tokens

PROMPT = list(b"ab cd")


@pytest.fixture(scope="module")
def model():
    return randomized_model()


@pytest.fixture(scope="module")
def sampler(model):
    return model.snapshot()


def complete(sampler, count=1, prompt=PROMPT, **params):
    return sampler.sample([{"tokens": prompt}], count, params)["sequences"]


def forward_logprobs(model, tokens):
    """Return the log probability of each token except the first, computed by a forward pass."""
    result = model.forward([datum(tokens[:-1], tokens[1:])], "cross_entropy", None)
    return result["loss_fn_outputs"][0]["logprobs"]["data"]


def test_temperature_0_chooses_the_most_likely_token_each_time(model, sampler):
    (sequence,) = complete(sampler, temperature=0, max_tokens=12)
    tokens = list(PROMPT)
    for token in sequence["tokens"]:
        every = [datum([*tokens], [*tokens[1:], other]) for other in range(CONFIG.vocab)]
        outputs = model.forward(every, "cross_entropy", None)["loss_fn_outputs"]
        assert token == int(np.argmax([output["logprobs"]["data"][-1] for output in outputs]))
        tokens.append(token)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 2.5])
def test_reported_logprobs_do_not_depend_on_the_temperature(model, sampler, temperature):
    for sequence in complete(sampler, 3, temperature=temperature, top_p=0.9, top_k=50, max_tokens=20, seed=1):
        expected = forward_logprobs(model, PROMPT + sequence["tokens"])[len(PROMPT) - 1 :]
        np.testing.assert_allclose(sequence["logprobs"], expected, atol=2e-4)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 30])
def test_cache_gives_the_same_logprobs_as_the_whole_computation(model, sampler, length):
    prompt = list(range(70, 70 + length))
    (sequence,) = complete(sampler, prompt=prompt, max_tokens=10, seed=2)
    expected = forward_logprobs(model, prompt + sequence["tokens"])[length - 1 :]
    np.testing.assert_allclose(sequence["logprobs"], expected, atol=2e-4)


def test_same_seed_gives_the_same_tokens_and_completions_differ(sampler):
    one, again, other = (complete(sampler, 4, max_tokens=10, seed=seed) for seed in (11, 11, 12))
    assert one == again
    assert one != other
    assert len({tuple(sequence["tokens"]) for sequence in one}) == 4
    assert [s["tokens"] for s in complete(sampler, 2, max_tokens=10, seed=11)] == [s["tokens"] for s in one[:2]]


def test_requests_without_a_seed_differ(sampler):
    assert complete(sampler, max_tokens=20) != complete(sampler, max_tokens=20)


def test_completions_of_several_batches_differ(sampler):
    sequences = complete(sampler, 130, max_tokens=8, seed=5)
    assert len({tuple(sequence["tokens"]) for sequence in sequences}) == 130


def test_top_k_of_one_and_a_tiny_top_p_equal_temperature_0(sampler):
    greedy = complete(sampler, temperature=0, max_tokens=12)
    assert complete(sampler, top_k=1, max_tokens=12) == greedy
    assert complete(sampler, top_p=1e-6, max_tokens=12) == greedy
    assert complete(sampler, temperature=1e-9, max_tokens=12) == greedy


def frequencies(probabilities, **params):
    """Return the frequency of each token in many choices with the given probabilities."""
    rules = SamplingRules.parse(params, CONFIG, 1)
    count = 4000
    scores = np.log(np.tile(np.float32(probabilities), (count, 1)))
    streams = [np.random.default_rng([7, row]) for row in range(count)]
    return np.bincount(choose_tokens(scores, rules, streams), minlength=len(probabilities)) / count


PROBABILITIES = [0.1, 0.4, 0.05, 0.3, 0.15]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, PROBABILITIES),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 50}, PROBABILITIES),
        ({"top_p": 0.6}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.4}, [0, 1, 0, 0, 0]),  # one token has exactly this probability
        ({"top_p": 0.75}, [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),  # 0.4/0.85 is below 0.5
        ({"temperature": 0.5}, [p * p / 0.285 for p in PROBABILITIES]),
        ({"temperature": 0.5, "top_k": 2}, [0, 0.64, 0, 0.36, 0]),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_chosen_with_the_probabilities_of_the_rules(params, expected):
    found = frequencies(PROBABILITIES, **params)
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert [bool(f) for f in found] == [bool(e) for e in expected]


def test_max_tokens_ends_a_completion_with_length(sampler):
    (sequence,) = complete(sampler, max_tokens=7, seed=3)
    assert (sequence["stop_reason"], len(sequence["tokens"]), len(sequence["logprobs"])) == ("length", 7, 7)


def test_context_ends_a_completion_without_max_tokens(sampler):
    (sequence,) = complete(sampler, temperature=0, max_tokens=None)
    assert len(PROMPT) + len(sequence["tokens"]) == CONFIG.context + 1
    assert sequence["stop_reason"] == "length"
    (sequence,) = complete(sampler, prompt=[65] * CONFIG.context, max_tokens=9, temperature=0)
    assert len(sequence["tokens"]) == 1


def ascii_tail(sampler):
    """Return a seed, its completion, and the end of a part of it that is ASCII text."""
    for seed in range(500):
        tokens = complete(sampler, max_tokens=40, seed=seed)[0]["tokens"]
        for start in range(2, 38):
            stop = tokens[start : start + 2]
            if (
                max(stop) < 128
                and all(tokens[i : i + 2] != stop for i in range(start))
                and stop[1] not in tokens[:start]
            ):
                return seed, tokens, start + 2
    raise AssertionError("no completion has two ASCII characters in a row")


def test_stop_sequence_ends_a_completion_and_is_included(sampler):
    seed, tokens, end = ascii_tail(sampler)
    text = bytes(tokens[end - 2 : end]).decode()
    for stop in (text, [text], ["\x00\x00never\x00", text], text[1], [tokens[end - 1]], [tokens[end - 1], 257]):
        (sequence,) = complete(sampler, max_tokens=40, seed=seed, stop=stop)
        assert (sequence["tokens"], sequence["stop_reason"]) == (tokens[:end], "stop"), stop
        assert len(sequence["logprobs"]) == end
    (sequence,) = complete(sampler, max_tokens=40, seed=seed, stop=["\x00\x00never\x00"])
    assert sequence["tokens"] == tokens


def test_rows_that_end_early_do_not_change_other_rows(sampler):
    seed = 1
    free = complete(sampler, 8, max_tokens=30, seed=seed)
    stop = [free[0]["tokens"][3]]
    for sequence, full in zip(complete(sampler, 8, max_tokens=30, seed=seed, stop=stop), free):
        assert sequence["tokens"] == full["tokens"][: len(sequence["tokens"])]
        assert sequence["stop_reason"] == ("stop" if stop[0] in full["tokens"] else "length")


def test_end_of_text_token_ends_a_completion():
    model = randomized_model()
    for _ in range(80):
        model.forward_backward([datum([65, 66, 67], [66, 67, 257])], "cross_entropy", None)
        model.optim_step({"learning_rate": 0.005})
    (sequence,) = complete(model.snapshot(), prompt=[65], max_tokens=9, temperature=0)
    assert (sequence["tokens"], sequence["stop_reason"]) == ([66, 67, 257], "stop")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"temperature": -0.1}, "temperature is -0.1.*at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": None}, "temperature is None"),
        ({"top_k": 0}, "top_k is 0.*-1 disables it"),
        ({"top_k": -2}, "top_k is -2"),
        ({"top_p": 0.0}, "top_p is 0.*up to 1"),
        ({"top_p": 1.5}, "top_p is 1.5.*from 0 to 1"),
        ({"max_tokens": 0}, "max_tokens is 0.*at least 1"),
        ({"max_tokens": "9"}, "max_tokens is '9'"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": float("inf")}, "seed is inf"),
        ({"stop": 7}, "stop is 7"),
        ({"stop": ""}, "stop contains ''.*non-empty"),
        ({"stop": [258]}, "stop.* is 258.*0 to 257"),
        ({"stop": [[1, 2]]}, r"stop contains \[1, 2\]"),
    ],
)
def test_error_names_an_invalid_parameter_and_the_remedy(sampler, params, words):
    with pytest.raises(EngineError, match=words):
        complete(sampler, **params)


@pytest.mark.parametrize(
    ("count", "extra", "words"),
    [(0, {}, "num_samples is 0"), (5000, {}, "from 1 to 4096"), (1, {"topk_prompt_logprobs": -1}, "topk.* is -1")],
)
def test_error_names_an_invalid_count(sampler, count, extra, words):
    with pytest.raises(EngineError, match=words):
        sampler.sample([{"tokens": PROMPT}], count, {}, **extra)


def test_error_for_an_unknown_base_model_lists_the_known_ones():
    with pytest.raises(EngineError, match="'gpt'.*tinkex/tiny"):
        SamplingModel.base("gpt")
    assert SamplingModel.base(SMALL).sample([{"tokens": [1]}], 1, {"max_tokens": 2})["sequences"]
