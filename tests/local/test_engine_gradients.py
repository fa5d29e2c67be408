"""Gradients held against central finite differences, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from autograd import make_vjp
from engine_data import batch_for, stirred

from tinkex_sync.local.engine import adapters as lora
from tinkex_sync.local.engine import primitives
from tinkex_sync.local.engine.network import hidden_states, target_logprobs

LOSSES = ["cross_entropy", "importance_sampling", "ppo", "cispo", "dro"]


def reference_losses(loss_fn, lp, inputs, lp_now):
    """The published formulas in plain numpy; ``lp_now`` stands where no gradient flows."""
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
    """A training model's loss as a function of its adapters, computed apart from its own batching."""

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
        return target_logprobs(model.base.config, weights, embedded, np.arange(len(tokens)), targets)

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
def test_every_adapters_gradient_is_the_slope_of_the_loss(loss_fn):
    model = stirred()
    data = batch_for(loss_fn, model)
    result = model.forward_backward(data, loss_fn, None)
    double = InDoublePrecision(model, data, loss_fn)
    if loss_fn != "cispo":  # whose value is the same, but the reference is written for its gradient
        assert result["metrics"]["loss:sum"] == pytest.approx(double.loss(double.adapters), rel=1e-4)
    stream = np.random.RandomState(0)
    names = {name.rsplit(".", 1)[0].split(".")[-1] for name in model.adapters}
    assert names == {"qkv", "out", "up", "down", "unembed"}
    for name, array in model.adapters.items():
        gradient = model.gradients[name].astype(np.float64)
        assert model.gradients[name].dtype == np.float32
        # Along itself every entry counts; along a random direction errors do not cancel.
        for direction in (gradient / np.linalg.norm(gradient), stream.standard_normal(array.shape)):
            along = float((gradient * direction).sum())
            bound = 2e-4 * np.linalg.norm(gradient) * np.linalg.norm(direction)
            assert abs(double.slope(name, direction) - along) < bound, name


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_single_entries_of_the_gradient_are_right(loss_fn):
    model = stirred()
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
            assert double.slope(name, direction) == pytest.approx(
                float(model.gradients[name][place]), abs=3e-4 * scale
            )


BIAS = np.where(np.tri(4) > 0, -0.3 * np.subtract.outer(np.arange(4), np.arange(4)), -np.inf)[None]
STREAM = np.random.RandomState(2)
Q, K, V = (STREAM.standard_normal((2, 1, 4, 3)) for _ in range(3))
PLAIN = {
    "rms_norm": (primitives.rms_norm, [STREAM.standard_normal((5, 6))]),
    "relu_squared": (primitives.relu_squared, [STREAM.standard_normal((5, 6))]),
    "weights of q": (lambda q: primitives.attention_weights(q, K, BIAS), [Q]),
    "weights of k": (lambda k: primitives.attention_weights(Q, k, BIAS), [K]),
    "mix of weights": (
        lambda w: primitives.attention_mix(w, V),
        [np.tri(4)[None, None] / 4 + np.zeros((2, 1, 4, 4))],
    ),
    "mix of values": (lambda v: primitives.attention_mix(primitives.attention_weights(Q, K, BIAS), v), [V]),
    "log_probability": (
        lambda x: primitives.log_probability(x, np.array([1, 0, 5, 5, 2])),
        [3 * STREAM.standard_normal((5, 6))],
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_primitives_product_is_that_of_its_finite_differences(name):
    function, (at,) = PLAIN[name]
    pull_back, value = make_vjp(function)(at)
    g = np.random.RandomState(9).standard_normal(value.shape)
    found = pull_back(g)
    expected = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[place] = 1e-6
        expected[place] = ((function(at + step) - function(at - step)) * g).sum() / 2e-6
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_a_position_never_sees_a_later_one():
    model = stirred()
    config, weights = model.base.config, model.base.weights
    embedded = np.random.RandomState(4).standard_normal((1, 12, config.dim)).astype(np.float32)
    changed = embedded.copy()
    changed[:, 7:] = 0
    before, after = (hidden_states(config, weights, x) for x in (embedded, changed))
    np.testing.assert_allclose(before[:7], after[:7], atol=1e-6)
    assert np.abs(before[7:] - after[7:]).max() > 0.1


def test_the_order_of_earlier_tokens_counts():
    model = stirred()
    config, weights = model.base.config, model.base.weights
    embedded = np.random.RandomState(4).standard_normal((1, 12, config.dim)).astype(np.float32)
    swapped = embedded[:, [0, 2, 1, *range(3, 12)]]
    before, after = (hidden_states(config, weights, x) for x in (embedded, swapped))
    assert np.abs(before[5:] - after[5:]).max() > 1e-2
