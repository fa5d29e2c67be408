"""Scores that a sample reports besides its tokens."""

import re

import numpy as np
import pytest
from engine_data import datum, randomized_model


def scored(wire, **fields):
    sampler = wire.sampler(wire.session())
    return wire.result(wire.sample(sampler, 0, **fields).json())


def test_most_likely_tokens_of_each_position_are_reported(wire_0_38):
    (sequence,) = scored(wire_0_38, topk_sample_logprobs=3)["sequences"]
    assert [len(row) for row in sequence["topk_sampled_logprobs"]] == [3] * len(sequence["tokens"])
    for token, logprob, row in zip(sequence["tokens"], sequence["logprobs"], sequence["topk_sampled_logprobs"]):
        assert row == sorted(row, key=lambda cell: -cell[1])
        assert [logprob] == [value for id, value in row if id == token] or logprob < row[-1][1]


def test_targets_and_alternatives_have_the_log_probabilities_of_their_positions(wire_0_38):
    prompt = list(b"hello")
    targets = {"data": [7, -1, *prompt[2:3], 7, 7, -1, *prompt[4:5], 9], "dtype": "int64", "shape": [4, 2]}
    response = scored(
        wire_0_38, prompt_logprobs=True, topk_prompt_logprobs=258, target_prompt_logprobs=targets, prompt_alt_tokens_k=3
    )
    table = [dict(row) for row in response["topk_prompt_logprobs"][1:]]
    found = response["target_prompt_logprobs"]
    assert found["shape"] == [4, 2]
    expected = [0.0 if token == -1 else table[place // 2][token] for place, token in enumerate(targets["data"])]
    assert found["data"] == pytest.approx(expected)
    assert found["data"][2] == pytest.approx(response["prompt_logprobs"][2])
    sampled = response["prompt_alt_tokens"]
    assert sampled["tokens"]["shape"] == sampled["logprobs"]["shape"] == [4, 3]
    expected_logprobs = [table[place // 3][token] for place, token in enumerate(sampled["tokens"]["data"])]
    assert sampled["logprobs"]["data"] == pytest.approx(expected_logprobs)

    sparse = {
        "data": [prompt[2], prompt[4]],
        "dtype": "int64",
        "shape": [4, 2],
        "sparse_crow_indices": [0, 0, 1, 1, 2],
        "sparse_col_indices": [1, 0],
    }
    listed = scored(wire_0_38, target_prompt_logprobs=sparse)["target_prompt_logprobs"]
    assert listed["data"] == pytest.approx([response["prompt_logprobs"][2], response["prompt_logprobs"][4]])
    assert listed["sparse_crow_indices"] == [0, 0, 1, 1, 2]


def test_only_the_last_tokens_of_the_prompt_are_scored(wire_0_38):
    response = scored(wire_0_38, prompt_logprobs=True, topk_prompt_logprobs=2, prompt_logprobs_last_n=2)
    for name in ("prompt_logprobs", "topk_prompt_logprobs"):
        assert [value is None for value in response[name]] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_logprobs_last_n": 2}, "needs prompt_logprobs"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 5}, "from 1 to 4"),
        ({"topk_sample_logprobs": 1000}, "topk_sample_logprobs"),
        ({"prompt_alt_tokens_k": 1000}, "prompt_alt_tokens_k"),
        ({"target_prompt_logprobs": {"data": [1], "dtype": "int64", "shape": [1]}}, r"\[4, K\]"),
        ({"target_prompt_logprobs": {"data": [1], "dtype": "int64", "shape": [4, 1]}}, "1 numbers"),
        ({"target_prompt_logprobs": {"data": ["x"] * 4, "dtype": "int64", "shape": [4, 1]}}, "token ids"),
        ({"target_prompt_logprobs": {"data": [-2] * 4, "dtype": "int64", "shape": [4, 1]}}, "-2"),
    ],
)
def test_error_names_an_invalid_score_option(wire_0_38, fields, message):
    assert re.search(message, scored(wire_0_38, **fields)["error"])


PROMPT = list(b"ab cd")


@pytest.fixture(scope="module")
def model():
    return randomized_model()


@pytest.fixture(scope="module")
def sampler(model):
    return model.snapshot()


def forward_logprobs(model, tokens):
    """Return the log probability of each token except the first, computed by a forward pass."""
    result = model.forward([datum(tokens[:-1], tokens[1:])], "cross_entropy", None)
    return result["loss_fn_outputs"][0]["logprobs"]["data"]


def test_prompt_logprobs_equal_those_of_a_forward_pass(model, sampler):
    response = sampler.sample([{"tokens": PROMPT}], 1, {"max_tokens": 1}, prompt_logprobs=True)
    assert response["prompt_logprobs"][0] is None
    np.testing.assert_allclose(response["prompt_logprobs"][1:], forward_logprobs(model, PROMPT), atol=2e-4)
    assert response["topk_prompt_logprobs"] is None


def test_top_prompt_logprobs_are_the_most_likely_tokens_in_order(sampler):
    response = sampler.sample(
        [{"tokens": PROMPT}], 1, {"max_tokens": 1}, prompt_logprobs=True, topk_prompt_logprobs=258
    )
    tops = response["topk_prompt_logprobs"]
    assert tops[0] is None
    assert len(tops) == len(PROMPT)
    for token, logprob, top in zip(PROMPT[1:], response["prompt_logprobs"][1:], tops[1:]):
        assert dict(map(tuple, top))[token] == logprob
        values = [value for _, value in top]
        assert values == sorted(values, reverse=True)
        assert sum(np.exp(values)) == pytest.approx(1, rel=1e-4)
    short = sampler.sample([{"tokens": PROMPT}], 1, {"max_tokens": 1}, topk_prompt_logprobs=3)
    assert short["prompt_logprobs"] is None
    assert short["topk_prompt_logprobs"][1:] == [top[:3] for top in tops[1:]]
