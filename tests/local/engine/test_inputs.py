"""Images, chunks, and errors in inputs."""

import base64

import numpy as np
import pytest
from engine_data import CONFIG, batch_for, datum, randomized_model, tensor
from image_files import png

from tinkex_sync.local.engine import EngineError

CAT, DOG = (base64.b64encode(data).decode() for data in (png(1), png(2)))


@pytest.fixture(scope="module")
def model():
    return randomized_model()


def losses(model, chunks, length):
    item = datum([], [65] * length)
    item["model_input"]["chunks"] = chunks
    return model.forward([item], "cross_entropy", None)["loss_fn_outputs"][0]["logprobs"]["data"]


def test_image_takes_its_expected_tokens_and_its_contents_matter(model):
    def logprobs_with(image):
        return losses(model, [{"tokens": [1, 2]}, {"format": "png", **image}, {"tokens": [3]}], 7)

    cat = logprobs_with({"data": CAT, "expected_tokens": 4})
    assert len(cat) == 7
    assert cat.tolist() == logprobs_with({"data": CAT, "expected_tokens": 4, "type": "image"}).tolist()
    others = [{"data": DOG}, {"location": "tinker://cat.png"}, {"location": "tinker://dog.png"}]
    variants = [cat, *(logprobs_with({**other, "expected_tokens": 4}) for other in others)]
    for i, one in enumerate(variants):
        np.testing.assert_allclose(one[:1], cat[:1], atol=1e-6)  # nothing before the image differs
        for other in variants[:i]:
            assert np.abs(one[2:] - other[2:]).max() > 1e-2


def test_image_of_unknown_size_takes_16_tokens(model):
    assert len(losses(model, [{"data": CAT, "format": "png", "expected_tokens": None}], 16)) == 16
    assert len(losses(model, [{"location": "x", "format": "jpeg"}, {"tokens": [5]}], 17)) == 17


def test_image_in_a_prompt_has_no_prompt_logprobs(model):
    chunks = [{"tokens": [65]}, {"data": CAT, "format": "png", "expected_tokens": 2}, {"tokens": [66]}]
    response = model.snapshot().sample(chunks, 1, {"max_tokens": 3}, prompt_logprobs=True, topk_prompt_logprobs=2)
    assert [value is None for value in response["prompt_logprobs"]] == [True, True, True, False]
    assert [value is None for value in response["topk_prompt_logprobs"]] == [True, True, True, False]
    assert len(response["sequences"][0]["tokens"]) == 3


def test_completion_after_an_image_agrees_with_a_forward_pass(model):
    image = {"data": CAT, "format": "png", "expected_tokens": 3}
    (sequence,) = model.snapshot().sample([image], 1, {"max_tokens": 6, "seed": 1})["sequences"]
    tokens = sequence["tokens"]
    item = datum([], [0, 0, *tokens])
    item["model_input"]["chunks"] = [image, {"tokens": tokens[:-1]}]
    expected = model.forward([item], "cross_entropy", None)["loss_fn_outputs"][0]["logprobs"]["data"][2:]
    np.testing.assert_allclose(sequence["logprobs"], expected, atol=2e-4)


def test_chunk_borders_do_not_change_the_result(model):
    whole = losses(model, [{"tokens": [1, 2, 3, 4]}], 4)
    assert whole.tolist() == losses(model, [{"tokens": [1]}, {"tokens": []}, {"tokens": [2, 3, 4]}], 4).tolist()


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([], r"prompt has no tokens: give at least one"),
        ([{"tokens": []}], "prompt has no tokens"),
        (None, "chunks must be a list"),
        (["text"], "chunk 0: 'text' is not a chunk"),
        ([{"text": "hi"}], r"keys \['text'\] is not a chunk: send tokens, data or location"),
        ([{"tokens": [65, 258]}], r"chunk 0, tokens\[1\] is 258: tokens of this model are 0 to 257.*ByteTokenizer"),
        ([{"tokens": [-1]}], r"tokens\[0\] is -1"),
        ([{"tokens": [1.5]}], r"tokens\[0\] is 1.5"),
        ([{"tokens": ["a"]}], "flat list of token ids"),
        ([{"tokens": [[1], [2, 3]]}], "flat list of token ids"),
        ([{"tokens": [True]}], "flat list of token ids"),
        ([{"tokens": [65] * (CONFIG.context + 1)}], f"has 65 tokens, test/small accepts at most {CONFIG.context}"),
        ([{"data": "no base64!", "expected_tokens": 1}], "not base64"),
        ([{"data": "", "expected_tokens": 1}], "non-empty"),
        ([{"location": 7}], "location is 7"),
        ([{"data": CAT, "expected_tokens": 0}], "expected_tokens is 0"),
        ([{"data": CAT, "expected_tokens": 10**9}], "expected_tokens is 1000000000"),
    ],
)
def test_error_states_why_a_prompt_is_invalid(model, chunks, words):
    with pytest.raises(EngineError, match=words):
        model.snapshot().sample(chunks, 1, {"max_tokens": 1})


GOOD = {"target_tokens": tensor([1, 2], "int64")}


RATIO = {"logprobs": tensor([-1.0, -1.0]), "advantages": tensor([1.0, 1.0])}


@pytest.mark.parametrize(
    ("loss_fn", "inputs", "words"),
    [
        ("cross_entropy", {}, "datum 1: loss_fn_inputs lacks target_tokens"),
        (
            "ppo",
            GOOD,
            r"datum 1: loss_fn_inputs lacks logprobs, advantages: ppo accepts .*clip_low_threshold \(optional\)",
        ),
        ("cross_entropy", {**GOOD, "weight": tensor([1, 1])}, r"unknown key 'weight'.*weights \(optional\)"),
        ("cross_entropy", {"target_tokens": tensor([1, 2, 3])}, "datum 1, target_tokens has 3 numbers.*2 positions"),
        ("cross_entropy", {"target_tokens": tensor([1, 300])}, r"datum 1, target_tokens\[1\] is 300.*0 to 257"),
        ("cross_entropy", {**GOOD, "weights": tensor([1.0])}, "datum 1, weights has 1 numbers.*2 positions"),
        ("cross_entropy", {**GOOD, "weights": tensor([1.0, float("nan")])}, r"datum 1, weights\[1\] is nan"),
        ("cross_entropy", {**GOOD, "weights": tensor([1.0, None])}, r"datum 1, weights"),
        ("cross_entropy", {**GOOD, "weights": tensor([1.0, 1e39])}, r"datum 1, weights\[1\] is 1e\+39"),
        ("cross_entropy", {**GOOD, "weights": tensor([1.0, "x"])}, "datum 1, weights must be a flat list"),
        ("cross_entropy", {**GOOD, "weights": [1.0, 1.0]}, "datum 1, weights must be an object with data"),
        (
            "cross_entropy",
            {"target_tokens": {"data": [1, 2], "dtype": "int64", "shape": [1, 2]}},
            r"datum 1, target_tokens has shape \[1, 2\]",
        ),
        (
            "cross_entropy",
            {"target_tokens": {"data": [[1, 2], [3]], "dtype": "int64"}},
            r"target_tokens, row 1 is \[3\]: all rows must be lists of 2 numbers",
        ),
        ("cross_entropy", {"target_tokens": {"data": [[], []], "dtype": "int64"}}, r"has shape \[2, 0\] for 0 numbers"),
        (
            "cross_entropy",
            {"target_tokens": {"data": [1, 2, 3, 4], "dtype": "int64", "shape": [2, 2]}, "weights": tensor([1, 1])},
            r"weights has shape \[2\] and target_tokens has shape \[2, 2\]",
        ),
        (
            "ppo",
            {**RATIO, "target_tokens": {"data": [1, 2, 3, 4], "dtype": "int64", "shape": [2, 2]}},
            "ppo accepts one target per position",
        ),
        ("dro", {**GOOD, **RATIO, "advantages": tensor([float("inf"), 0.0])}, r"datum 1, advantages\[0\] is inf"),
    ],
)
def test_invalid_datum_is_named_and_leaves_no_gradient(loss_fn, inputs, words):
    model = randomized_model()
    good = batch_for(loss_fn, model)[0]
    bad = {"model_input": {"chunks": [{"tokens": [5, 6]}]}, "loss_fn_inputs": inputs}
    with pytest.raises(EngineError, match=words):
        model.forward_backward([good, bad], loss_fn, None)
    assert model.gradients is None


def test_inputs_of_other_losses_are_ignored(model):
    plain = model.forward([datum([1, 2], [3, 4])], "cross_entropy", None)
    rich = datum([1, 2], [3, 4], logprobs=[-1.0, -1.0], advantages=[1.0, 2.0])
    assert model.forward([rich], "cross_entropy", None)["metrics"] == plain["metrics"]


def test_shape_can_be_absent_null_or_a_wildcard(model):
    plain = model.forward([datum([1, 2], [3, 4])], "cross_entropy", None)
    for shape in ({}, {"shape": None}, {"shape": [-1]}):
        item = datum([1, 2], [3, 4])
        item["loss_fn_inputs"]["target_tokens"] = {"data": [3.0, 4.0], "dtype": "float32", **shape}
        assert model.forward([item], "cross_entropy", None)["metrics"] == plain["metrics"]
