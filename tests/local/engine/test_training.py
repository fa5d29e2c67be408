"""Training over several calls: gradients, checkpoints and learning."""

import json
import math
import random

import numpy as np
import pytest
from engine_data import SMALL, batch_for, datum, randomized_model, text_datum

from tinkex_sync.local.engine import DEFAULT_MODEL, EngineError, SamplingModel, TrainingModel
from tinkex_sync.local.engine import adapters as lora
from tinkex_sync.local.engine.network import target_logprobs
from tinkex_sync.tokenizers.byte_tokenizer import ByteTokenizer

ADAM = {"learning_rate": 0.01, "weight_decay": 0.01, "grad_clip_norm": 5.0}


def train(model, steps=3, start=0):
    results = []
    for step in range(start, start + steps):
        data = [text_datum(f"step {step} of the run"), text_datum(f"and {step * 7}")]
        results.append(model.forward_backward(data, "cross_entropy", None)["metrics"])
        results.append(model.optim_step(ADAM))
    return results


def same_bits(one, other):
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_equal_calls_give_equal_bits():
    runs = [TrainingModel(SMALL, rank=4, seed=9) for _ in range(2)]
    assert train(runs[0]) == train(runs[1])
    assert same_bits(runs[0].arrays(True), runs[1].arrays(True))


def test_seeds_give_different_adapters_and_none_is_seed_0():
    zero, none, one = (TrainingModel(SMALL, rank=4, seed=seed).arrays(False) for seed in (0, None, 1))
    assert same_bits(zero, none)
    assert not same_bits(zero, one)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_any_integer_can_be_a_seed(seed):
    TrainingModel(SMALL, rank=1, seed=seed)


def test_untrained_model_equals_its_base_and_is_nearly_uniform():
    model = TrainingModel(DEFAULT_MODEL, rank=8, seed=3)
    metrics = model.forward([text_datum("Anything at all, as long as it is text.")], "cross_entropy", None)["metrics"]
    assert metrics["loss:sum"] / metrics["tokens:sum"] == pytest.approx(math.log(258), abs=0.1)
    base = SamplingModel.base(DEFAULT_MODEL).sample([{"tokens": [1, 2]}], 1, {"max_tokens": 5, "seed": 1})
    assert model.snapshot().sample([{"tokens": [1, 2]}], 1, {"max_tokens": 5, "seed": 1}) == base


def test_gradients_of_two_calls_are_summed():
    model = randomized_model()
    one, other = batch_for("ppo", model)[:1], [text_datum("something else")]
    parts = []
    for data, loss_fn in ((one, "ppo"), (other, "cross_entropy")):
        alone = randomized_model()
        alone.forward_backward(data, loss_fn, None)
        parts.append(alone.gradients)
        model.forward_backward(data, loss_fn, None)
    for name, total in model.gradients.items():
        np.testing.assert_array_equal(total, parts[0][name] + parts[1][name])


def test_gradient_of_a_batch_is_the_sum_over_its_datums():
    data = batch_for("importance_sampling", randomized_model())
    together, apart = randomized_model(), randomized_model()
    together.forward_backward(data, "importance_sampling", None)
    for item in data:
        apart.forward_backward([item], "importance_sampling", None)
    for name, total in together.gradients.items():
        np.testing.assert_allclose(total, apart.gradients[name], rtol=1e-3, atol=1e-4 * np.abs(total).max())


def test_large_batch_is_computed_in_several_parts(monkeypatch):
    data = [text_datum("x" * n + "yz") for n in (9, 3, 5, 30, 1)]
    whole, pieces = randomized_model(), randomized_model()
    expected = whole.forward_backward(data, "cross_entropy", None)
    monkeypatch.setattr("tinkex_sync.local.engine.training._BATCH_POSITIONS", 12)
    found = pieces.forward_backward(data, "cross_entropy", None)
    assert found["metrics"]["loss:sum"] == pytest.approx(expected["metrics"]["loss:sum"], rel=1e-5)
    for name, total in whole.gradients.items():
        np.testing.assert_allclose(total, pieces.gradients[name], rtol=1e-3, atol=1e-4 * np.abs(total).max())


def test_forward_leaves_no_gradient():
    model = randomized_model()
    model.forward([text_datum("evaluate only")], "cross_entropy", None)
    assert model.gradients is None


@pytest.mark.parametrize(
    ("options", "maps"),
    [
        ({"train_mlp": False, "train_unembed": False}, {"qkv", "out"}),
        ({"train_attn": False, "train_unembed": False}, {"up", "down"}),
        ({"train_attn": False, "train_mlp": False}, {"unembed"}),
    ],
)
def test_only_the_selected_maps_are_trained(options, maps):
    model = TrainingModel(SMALL, rank=2, seed=0, **options)
    assert {name.split(".")[-2] for name in model.adapters} == maps
    before = model.forward([text_datum("learn this")], "cross_entropy", None)["metrics"]["loss:sum"]
    for _ in range(10):
        model.forward_backward([text_datum("learn this")], "cross_entropy", None)
        model.optim_step({"learning_rate": 0.01})
    assert model.forward([text_datum("learn this")], "cross_entropy", None)["metrics"]["loss:sum"] < before - 1


def test_training_from_a_checkpoint_gives_equal_bits():
    model = TrainingModel(SMALL, rank=4, seed=9)
    train(model)
    meta, arrays = json.loads(json.dumps(model.meta())), model.arrays(True)
    expected = train(model, start=3)
    restored = TrainingModel.from_checkpoint(meta, arrays)
    assert train(restored, start=3) == expected
    assert same_bits(restored.arrays(True), model.arrays(True))
    loaded = TrainingModel(SMALL, rank=4, seed=123)
    train(loaded, steps=1, start=50)
    loaded.forward_backward([text_datum("discarded by the load")], "cross_entropy", None)
    loaded.load(meta, arrays, True)
    assert train(loaded, start=3) == expected


def test_loading_without_optimizer_resets_the_optimizer():
    model = TrainingModel(SMALL, rank=4, seed=9)
    train(model)
    loaded = TrainingModel(SMALL, rank=4, seed=0)
    loaded.load(model.meta(), model.arrays(True), False)
    assert same_bits(loaded.arrays(False), model.arrays(False))
    assert loaded.optimizer.steps == 0
    assert not any(array.any() for array in loaded.optimizer.first.values())


def test_checkpoints_and_snapshots_are_copies():
    model = TrainingModel(SMALL, rank=4, seed=9)
    train(model, 1)
    arrays, snapshot = model.arrays(True), model.snapshot()
    kept = {name: array.copy() for name, array in arrays.items()}
    before = snapshot.sample([{"tokens": [65]}], 1, {"max_tokens": 8, "seed": 0})
    train(model, 2)
    assert same_bits(arrays, kept)
    assert snapshot.sample([{"tokens": [65]}], 1, {"max_tokens": 8, "seed": 0}) == before
    assert model.snapshot().sample([{"tokens": [65]}], 1, {"max_tokens": 8, "seed": 0}) != before


def test_sampler_of_a_checkpoint_equals_the_snapshot():
    model = randomized_model()
    sampler = SamplingModel.from_checkpoint(model.meta(), model.arrays(False))
    request = {"max_tokens": 8, "seed": 4}
    assert sampler.sample([{"tokens": [65]}], 2, request) == model.snapshot().sample([{"tokens": [65]}], 2, request)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rank": 5}, "rank 4.*this model 5"), ({"rank": 4, "train_attn": False}, "train_attn True.*False")],
)
def test_checkpoint_of_another_shape_is_rejected_and_changes_nothing(options, words):
    saved = TrainingModel(SMALL, rank=4, seed=9)
    model = TrainingModel(SMALL, seed=1, **options)
    before = model.arrays(True)
    with pytest.raises(EngineError, match=words):
        model.load(saved.meta(), saved.arrays(True), True)
    assert same_bits(model.arrays(True), before)


def test_error_names_missing_arrays_of_a_checkpoint():
    saved = TrainingModel(SMALL, rank=4, seed=9)
    with pytest.raises(EngineError, match="no optimizer state first.layers.0.qkv.A"):
        saved.load(saved.meta(), saved.arrays(False), True)
    with pytest.raises(EngineError, match="no adapter lora.layers.0.qkv.A"):
        saved.load(saved.meta(), {}, False)
    with pytest.raises(EngineError, match="lacks 'rank'"):
        SamplingModel.from_checkpoint({"base_model": SMALL}, saved.arrays(False))
    with pytest.raises(EngineError, match="lacks 'train_attn'"):
        TrainingModel.from_checkpoint({"base_model": SMALL}, saved.arrays(True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_model": "unknown/model"}, "unknown base model 'unknown/model'.*tinkex/tiny"),
        ({"base_model": None}, "unknown base model None"),
        ({"rank": 0}, "rank is 0: use a whole number from 1 to 256"),
        ({"rank": 257}, "rank is 257"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"train_attn": False, "train_mlp": False, "train_unembed": False}, "set at least one to true"),
    ],
)
def test_error_names_an_invalid_option_of_a_model(options, words):
    arguments = {"base_model": SMALL, "rank": 4, "seed": 0, **options}
    with pytest.raises(EngineError, match=words):
        TrainingModel(arguments.pop("base_model"), **arguments)


def test_model_learns_a_text():
    text = ByteTokenizer().encode(
        "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. " * 2
    )
    model, choice, losses = TrainingModel(DEFAULT_MODEL, rank=32, seed=0), random.Random(0), []
    for _ in range(60):
        starts = [choice.randrange(len(text) - 48) for _ in range(8)]
        data = [datum(text[i : i + 48], text[i + 1 : i + 49]) for i in starts]
        metrics = model.forward_backward(data, "cross_entropy", None)["metrics"]
        losses.append(metrics["loss:sum"] / metrics["tokens:sum"])
        model.optim_step({"learning_rate": 0.01})
    assert losses[0] > 5
    assert losses[-1] < losses[0] / 10
    response = model.snapshot().sample([{"tokens": text[:10]}], 1, {"max_tokens": 50, "temperature": 0.0})
    assert response["sequences"][0]["tokens"] == text[10:60]


@pytest.fixture(scope="module")
def model():
    return randomized_model()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "data is empty: send at least one datum"),
        (None, "data is empty"),
        ([7], "datum 0 has no model_input"),
        ([{"model_input": {"chunks": []}}], "datum 0 has no loss_fn_inputs"),
    ],
)
def test_error_names_invalid_data(model, data, words):
    with pytest.raises(EngineError, match=words):
        model.forward(data, "cross_entropy", None)


def test_loss_is_the_sum_over_tokens_and_outputs_are_per_token():
    model = randomized_model()
    result = model.forward([text_datum("abcdef"), text_datum("xyz")], "cross_entropy", None)
    outputs = result["loss_fn_outputs"]
    assert [output["logprobs"]["shape"] for output in outputs] == [[5], [2]]
    assert all(output["logprobs"]["dtype"] == "float32" for output in outputs)
    total = -sum(float(np.sum(output["logprobs"]["data"])) for output in outputs)
    assert result["metrics"]["loss:sum"] == pytest.approx(total, rel=1e-5)
    assert result["metrics"]["tokens:sum"] == 7
    assert all(key.count(":") == 1 for key in result["metrics"])
    assert isinstance(result["loss_fn_output_type"], str)


def test_outputs_have_the_order_of_the_data():
    model = randomized_model()
    texts = ["a long one, sorted last", "ab", "of middling size"]
    together = model.forward([text_datum(text) for text in texts], "cross_entropy", None)["loss_fn_outputs"]
    for text, output in zip(texts, together):
        alone = model.forward([text_datum(text)], "cross_entropy", None)["loss_fn_outputs"][0]
        np.testing.assert_allclose(output["logprobs"]["data"], alone["logprobs"]["data"], atol=1e-5)


def test_loss_that_is_not_finite_is_rejected_and_leaves_no_gradient():
    model = randomized_model()
    good = batch_for("ppo", model)
    bad = datum([1, 2], [3, 4], logprobs=[-1.0, -500.0], advantages=[1.0, 1.0])
    with pytest.raises(EngineError, match=r"datum 3.*not finite.*logprobs"):
        model.forward_backward([*good, bad], "importance_sampling", None)
    assert model.gradients is None


LOSSES = ["cross_entropy", "importance_sampling", "ppo", "cispo", "dro"]


def reference_losses(loss_fn, lp, inputs, lp_now):
    """Compute the published formulas in numpy. ``lp_now`` replaces ``lp`` where there is no gradient."""
    if loss_fn == "cross_entropy":
        return -inputs["weights"] * lp
    q, advantages = inputs["logprobs"], inputs["advantages"]
    ratio = np.exp(lp - q)
    if loss_fn == "importance_sampling":
        return -ratio * advantages
    if loss_fn == "ppo":
        return -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)
    if loss_fn == "cispo":
        return -np.clip(np.exp(lp_now - q), 0.8, 1.2) * advantages * lp
    return -(advantages * lp - 0.05 / 2 * (lp - q) ** 2)


class InDoublePrecision:
    """The loss of a training model as a function of its adapters, in double precision and without batches."""

    def __init__(self, model, data, loss_fn):
        self.model, self.data, self.loss_fn = model, data, loss_fn
        self.base = {name: array.astype(np.float64) for name, array in model.base.weights.items()}
        self.adapters = {name: array.astype(np.float64) for name, array in model.adapters.items()}
        self.now = [self.logprobs(self.adapters, item) for item in data]

    def logprobs(self, adapters, item):
        model = self.model
        weights = lora.merge_adapters(self.base, adapters, model._names, model.rank)
        tokens = item["model_input"]["chunks"][0]["tokens"]
        targets = np.array(item["loss_fn_inputs"]["target_tokens"]["data"])
        embedded = self.base["embed"][np.array(tokens)][None]
        places = np.arange(len(tokens))
        rows = np.repeat(places, len(targets) // len(tokens))
        return target_logprobs(model.base.config, weights, embedded, places, rows, targets)

    def loss(self, adapters):
        total = 0.0
        for item, now in zip(self.data, self.now):
            inputs = {key: np.array(value["data"]) for key, value in item["loss_fn_inputs"].items()}
            total += reference_losses(self.loss_fn, self.logprobs(adapters, item), inputs, now).sum()
        return total

    def slope(self, name, direction, step=1e-5):
        sides = []
        for sign in (1, -1):
            moved = dict(self.adapters)
            moved[name] = moved[name] + sign * step * direction
            sides.append(self.loss(moved))
        return (sides[0] - sides[1]) / (2 * step)


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_gradient_of_every_adapter_equals_finite_differences(loss_fn):
    model = randomized_model()
    data = batch_for(loss_fn, model)
    result = model.forward_backward(data, loss_fn, None)
    double = InDoublePrecision(model, data, loss_fn)
    if loss_fn != "cispo":  # The reference of cispo has the right gradient, but another value.
        assert result["metrics"]["loss:sum"] == pytest.approx(double.loss(double.adapters), rel=1e-4)
    stream = np.random.RandomState(0)
    names = {name.rsplit(".", 1)[0].split(".")[-1] for name in model.adapters}
    assert names == {"qkv", "out", "up", "down", "unembed"}
    for name, array in model.adapters.items():
        gradient = model.gradients[name].astype(np.float64)
        assert model.gradients[name].dtype == np.float32
        # In the direction of the gradient all entries matter. In a random direction errors do not cancel.
        for direction in (gradient / np.linalg.norm(gradient), stream.standard_normal(array.shape)):
            along = float((gradient * direction).sum())
            bound = 2e-4 * np.linalg.norm(gradient) * np.linalg.norm(direction)
            assert abs(double.slope(name, direction) - along) < bound, name


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_single_entries_of_the_gradient_equal_finite_differences(loss_fn):
    model = randomized_model()
    data = batch_for(loss_fn, model)
    model.forward_backward(data, loss_fn, None)
    double = InDoublePrecision(model, data, loss_fn)
    stream = np.random.RandomState(1)
    for name, array in model.adapters.items():
        scale = float(np.abs(model.gradients[name]).max())
        for _ in range(3):
            place = tuple(stream.randint(0, n) for n in array.shape)
            direction = np.zeros(array.shape)
            direction[place] = 1.0
            assert double.slope(name, direction) == pytest.approx(float(model.gradients[name][place]), abs=3e-4 * scale)


def soft_datum(stream, length, width):
    """Return a datum with several weighted targets per position."""
    targets, weights = stream.randint(0, 258, (length, width)), stream.random_sample((length, width))
    item = datum(stream.randint(0, 258, length), targets.ravel(), weights=weights.ravel())
    for tensor in item["loss_fn_inputs"].values():
        tensor["shape"] = [length, width]
    return item


def test_gradient_for_several_targets_equals_finite_differences():
    stream = np.random.RandomState(4)
    data = [soft_datum(stream, 5, 3), soft_datum(stream, 9, 2), text_datum("abc", weights=[1.0, 0.5])]
    model = randomized_model()
    expected = InDoublePrecision(model, data, "cross_entropy")
    output = model.forward_backward(data, "cross_entropy")
    assert output["metrics"]["loss:sum"] == pytest.approx(expected.loss(expected.adapters), rel=1e-5)
    assert output["metrics"]["tokens:sum"] == 16
    assert [one["logprobs"]["shape"] for one in output["loss_fn_outputs"]] == [[5, 3], [9, 2], [2]]
    for name, gradient in model.gradients.items():
        direction = stream.standard_normal(gradient.shape)
        found = float((gradient * direction).sum())
        assert found == pytest.approx(expected.slope(name, direction), rel=2e-3, abs=1e-4)


def test_loss_of_several_targets_is_the_weighted_sum_over_single_targets():
    model, tokens, targets = randomized_model(), [1, 2, 3], [[4, 5], [6, 7], [8, 9]]
    weights = [[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]]
    wanted = 0.0
    for column in (0, 1):
        one = datum(tokens, [row[column] for row in targets], weights=[row[column] for row in weights])
        wanted += model.forward([one], "cross_entropy")["metrics"]["loss:sum"]
    item = datum(tokens, [token for row in targets for token in row], weights=[w for row in weights for w in row])
    forms = []
    for shape in ([3, 2], [-1, 2], [3, -1]):
        for tensor in item["loss_fn_inputs"].values():
            tensor["shape"] = shape
        forms.append(model.forward([item], "cross_entropy"))
    for key, rows in (("target_tokens", targets), ("weights", weights)):
        item["loss_fn_inputs"][key] = {"data": rows, "dtype": "int64", "shape": None}
    forms.append(model.forward([item], "cross_entropy"))
    for form in forms:
        assert form["metrics"]["loss:sum"] == pytest.approx(wanted, rel=1e-5)
