"""What a training model does over several calls: accumulate, repeat, save, load, learn."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from engine_data import CONFIG, SMALL, batch_for, datum, stirred, text_datum

from tinkex_sync.local.engine import DEFAULT_MODEL, BaseModel, EngineError, SamplingModel, TrainingModel
from tinkex_sync.local.engine import adapters as lora
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


def test_base_weights_are_the_same_bits_every_time():
    assert same_bits(BaseModel("one", CONFIG).weights, BaseModel("other", CONFIG).weights)
    assert BaseModel.get(SMALL, CONFIG) is BaseModel.get(SMALL, CONFIG)
    # Drawn once by hand: the seed's first numbers, which no numpy version may change.
    first = np.random.RandomState(CONFIG.seed).standard_normal((258, CONFIG.dim)).astype(np.float32)
    assert BaseModel("one", CONFIG).weights["embed"].tobytes() == first.tobytes()


def test_the_same_calls_give_the_same_bits():
    runs = [TrainingModel(SMALL, rank=4, seed=9) for _ in range(2)]
    assert train(runs[0]) == train(runs[1])
    assert same_bits(runs[0].arrays(True), runs[1].arrays(True))


def test_another_seed_starts_elsewhere_and_none_is_seed_zero():
    zero, none, one = (TrainingModel(SMALL, rank=4, seed=seed).arrays(False) for seed in (0, None, 1))
    assert same_bits(zero, none)
    assert not same_bits(zero, one)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_any_integer_is_a_seed(seed):
    TrainingModel(SMALL, rank=1, seed=seed)


def test_an_untrained_model_is_its_base_and_nearly_uniform():
    model = TrainingModel(DEFAULT_MODEL, rank=8, seed=3)
    metrics = model.forward([text_datum("Anything at all, as long as it is text.")], "cross_entropy", None)[
        "metrics"
    ]
    assert metrics["loss:sum"] / metrics["tokens:sum"] == pytest.approx(math.log(258), abs=0.1)
    base = SamplingModel.base(DEFAULT_MODEL).sample([{"tokens": [1, 2]}], 1, {"max_tokens": 5, "seed": 1})
    assert model.snapshot().sample([{"tokens": [1, 2]}], 1, {"max_tokens": 5, "seed": 1}) == base


def test_two_backwards_accumulate_to_their_sum():
    model = stirred()
    one, other = batch_for("ppo", model)[:1], [text_datum("something else")]
    parts = []
    for data, loss_fn in ((one, "ppo"), (other, "cross_entropy")):
        alone = stirred()
        alone.forward_backward(data, loss_fn, None)
        parts.append(alone.gradients)
        model.forward_backward(data, loss_fn, None)
    for name, total in model.gradients.items():
        np.testing.assert_array_equal(total, parts[0][name] + parts[1][name])


def test_a_batchs_gradient_is_the_sum_over_its_datums():
    data = batch_for("importance_sampling", stirred())
    together, apart = stirred(), stirred()
    together.forward_backward(data, "importance_sampling", None)
    for item in data:
        apart.forward_backward([item], "importance_sampling", None)
    for name, total in together.gradients.items():
        np.testing.assert_allclose(total, apart.gradients[name], rtol=1e-3, atol=1e-4 * np.abs(total).max())


def test_a_batch_too_large_for_one_go_is_computed_in_several(monkeypatch):
    data = [text_datum("x" * n + "yz") for n in (9, 3, 5, 30, 1)]
    whole, pieces = stirred(), stirred()
    expected = whole.forward_backward(data, "cross_entropy", None)
    monkeypatch.setattr("tinkex_sync.local.engine.training._BATCH_POSITIONS", 12)
    found = pieces.forward_backward(data, "cross_entropy", None)
    assert found["metrics"]["loss:sum"] == pytest.approx(expected["metrics"]["loss:sum"], rel=1e-5)
    for name, total in whole.gradients.items():
        np.testing.assert_allclose(total, pieces.gradients[name], rtol=1e-3, atol=1e-4 * np.abs(total).max())


def test_forward_alone_leaves_no_gradient():
    model = stirred()
    model.forward([text_datum("look only")], "cross_entropy", None)
    assert model.gradients is None


@pytest.mark.parametrize(
    ("options", "maps"),
    [
        ({"train_mlp": False, "train_unembed": False}, {"qkv", "out"}),
        ({"train_attn": False, "train_unembed": False}, {"up", "down"}),
        ({"train_attn": False, "train_mlp": False}, {"unembed"}),
    ],
)
def test_only_what_is_asked_for_is_trained(options, maps):
    model = TrainingModel(SMALL, rank=2, seed=0, **options)
    assert {name.split(".")[-2] for name in model.adapters} == maps
    before = model.forward([text_datum("learn this")], "cross_entropy", None)["metrics"]["loss:sum"]
    for _ in range(10):
        model.forward_backward([text_datum("learn this")], "cross_entropy", None)
        model.optim_step({"learning_rate": 0.01})
    assert (
        model.forward([text_datum("learn this")], "cross_entropy", None)["metrics"]["loss:sum"] < before - 1
    )


def test_an_adapter_starts_alike_whatever_else_is_trained():
    every, only = TrainingModel(SMALL, rank=2, seed=5), TrainingModel(SMALL, rank=2, seed=5, train_attn=False)
    assert same_bits(only.adapters, {name: every.adapters[name] for name in only.adapters})


@pytest.mark.parametrize("rank", [2, 64])
def test_an_adapter_counts_thirty_two_over_its_rank(rank):
    model = TrainingModel(SMALL, rank=rank, seed=0)
    weights = lora.merge_adapters(model.base.weights, model.adapters, ["unembed"], rank)
    assert weights["unembed"].tobytes() == model.base.weights["unembed"].tobytes()
    model.adapters["unembed.B"] += 1
    weights = lora.merge_adapters(model.base.weights, model.adapters, ["unembed"], rank)
    change = model.adapters["unembed.A"].sum(axis=1, keepdims=True) * 32 / rank
    np.testing.assert_allclose(
        weights["unembed"] - model.base.weights["unembed"], change + np.zeros(258), atol=1e-4
    )
    assert weights["unembed"].dtype == np.float32


def test_a_checkpoint_continues_bit_for_bit():
    model = TrainingModel(SMALL, rank=4, seed=9)
    train(model)
    meta, arrays = json.loads(json.dumps(model.meta())), model.arrays(True)
    expected = train(model, start=3)
    restored = TrainingModel.from_checkpoint(meta, arrays)
    assert train(restored, start=3) == expected
    assert same_bits(restored.arrays(True), model.arrays(True))
    loaded = TrainingModel(SMALL, rank=4, seed=123)
    train(loaded, steps=1, start=50)
    loaded.forward_backward([text_datum("dropped by the load")], "cross_entropy", None)
    loaded.load(meta, arrays, True)
    assert train(loaded, start=3) == expected


def test_loading_without_the_optimizer_starts_it_afresh():
    model = TrainingModel(SMALL, rank=4, seed=9)
    train(model)
    loaded = TrainingModel(SMALL, rank=4, seed=0)
    loaded.load(model.meta(), model.arrays(True), False)
    assert same_bits(loaded.arrays(False), model.arrays(False))
    assert loaded.optimizer.steps == 0
    assert not any(array.any() for array in loaded.optimizer.first.values())


def test_a_checkpoint_is_a_copy_and_so_is_a_snapshot():
    model = TrainingModel(SMALL, rank=4, seed=9)
    train(model, 1)
    arrays, snapshot = model.arrays(True), model.snapshot()
    kept = {name: array.copy() for name, array in arrays.items()}
    before = snapshot.sample([{"tokens": [65]}], 1, {"max_tokens": 8, "seed": 0})
    train(model, 2)
    assert same_bits(arrays, kept)
    assert snapshot.sample([{"tokens": [65]}], 1, {"max_tokens": 8, "seed": 0}) == before
    assert model.snapshot().sample([{"tokens": [65]}], 1, {"max_tokens": 8, "seed": 0}) != before


def test_a_sampler_from_a_checkpoint_is_the_snapshot():
    model = stirred()
    sampler = SamplingModel.from_checkpoint(model.meta(), model.arrays(False))
    request = {"max_tokens": 8, "seed": 4}
    assert sampler.sample([{"tokens": [65]}], 2, request) == model.snapshot().sample(
        [{"tokens": [65]}], 2, request
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 5}, "rank 4.*this model 5"),
        ({"rank": 4, "train_attn": False}, "train_attn True.*False"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(options, words):
    saved = TrainingModel(SMALL, rank=4, seed=9)
    model = TrainingModel(SMALL, seed=1, **options)
    before = model.arrays(True)
    with pytest.raises(EngineError, match=words):
        model.load(saved.meta(), saved.arrays(True), True)
    assert same_bits(model.arrays(True), before)


def test_missing_optimizer_state_or_arrays_are_named():
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
        ({"base_model": "nobody/nothing"}, "unknown base model 'nobody/nothing'.*tinkex/tiny"),
        ({"base_model": None}, "unknown base model None"),
        ({"rank": 0}, "rank is 0: use a whole number from 1 to 256"),
        ({"rank": 257}, "rank is 257"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"train_attn": False, "train_mlp": False, "train_unembed": False}, "set at least one to true"),
    ],
)
def test_a_model_that_cannot_be_is_refused(options, words):
    arguments = {"base_model": SMALL, "rank": 4, "seed": 0, **options}
    with pytest.raises(EngineError, match=words):
        TrainingModel(arguments.pop("base_model"), **arguments)


def test_it_learns_a_text_by_heart():
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
    reply = model.snapshot().sample([{"tokens": text[:10]}], 1, {"max_tokens": 50, "temperature": 0.0})
    assert reply["sequences"][0]["tokens"] == text[10:60]
