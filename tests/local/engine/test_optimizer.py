"""AdamW, compared with the published algorithm."""

import math

import numpy as np
import pytest
from engine_data import randomized_model, text_datum

from tinkex_sync.local.engine import EngineError
from tinkex_sync.local.engine.optimizer import AdamSettings, AdamW, global_norm


def reference_adamw(weights, gradients_by_step, lr, beta1, beta2, eps, decay, clip):
    """Apply bias-corrected Adam with decoupled weight decay to a flat list of numbers."""
    weights = list(weights)
    m, v = [0.0] * len(weights), [0.0] * len(weights)
    for t, gradients in enumerate(gradients_by_step, 1):
        norm = math.sqrt(sum(g * g for g in gradients))
        if clip and norm > clip:
            gradients = [g * clip / norm for g in gradients]
        for i, g in enumerate(gradients):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            m_hat, v_hat = m[i] / (1 - beta1**t), v[i] / (1 - beta2**t)
            weights[i] = weights[i] - lr * decay * weights[i] - lr * m_hat / (math.sqrt(v_hat) + eps)
    return weights


@pytest.mark.parametrize(
    "adam",
    [
        {},
        {"learning_rate": 0.03, "beta1": 0.5, "beta2": 0.7, "eps": 1e-3},
        {"learning_rate": 0.03, "weight_decay": 0.4},
        {"learning_rate": 0.03, "weight_decay": 0.1, "grad_clip_norm": 0.8},
        {"learning_rate": 0.03, "beta1": 0.0, "beta2": 0.0, "eps": 0.0},
    ],
)
def test_adamw_equals_the_published_algorithm(adam):
    stream = np.random.RandomState(0)
    start = stream.standard_normal(7).astype(np.float32)
    steps = [stream.standard_normal(7).astype(np.float32) for _ in range(6)]
    weights = {"a": start[:4].reshape(2, 2).copy(), "b": start[4:].copy()}
    optimizer, settings = AdamW(weights), AdamSettings.parse(adam)
    for g in steps:
        norm = optimizer.step(weights, {"a": g[:4].reshape(2, 2), "b": g[4:]}, settings)
        assert norm == pytest.approx(float(np.linalg.norm(g)), rel=1e-6)
    found = [*weights["a"].ravel().tolist(), *weights["b"].tolist()]
    expected = reference_adamw(
        start.tolist(),
        [g.tolist() for g in steps],
        adam.get("learning_rate", 1e-4),
        adam.get("beta1", 0.9),
        adam.get("beta2", 0.95),
        adam.get("eps", 1e-12),
        adam.get("weight_decay", 0.0),
        adam.get("grad_clip_norm", 0.0),
    )
    assert found == pytest.approx(expected, rel=2e-5, abs=2e-6)
    assert all(array.dtype == np.float32 for array in (*weights.values(), *optimizer.second.values()))


def test_weight_decay_applies_without_a_gradient():
    model = randomized_model()
    before = model.arrays(False)
    model.optim_step({"learning_rate": 0.5, "weight_decay": 0.25})
    for name, array in model.arrays(False).items():
        np.testing.assert_array_equal(array, before[name] * np.float32(1 - 0.125))


def test_momentum_updates_the_weights_without_a_gradient():
    model = randomized_model()
    model.forward_backward([text_datum("momentum")], "cross_entropy", None)
    model.optim_step({"learning_rate": 0.01})
    before = model.arrays(False)
    metrics = model.optim_step({"learning_rate": 0.01})
    assert metrics["grad_norm:mean"] == 0.0
    assert all(np.abs(array - before[name]).max() > 1e-4 for name, array in model.arrays(False).items())


def test_clipped_gradient_has_the_maximal_norm_and_the_same_direction():
    model, free = randomized_model(), randomized_model()
    for each in (model, free):
        each.forward_backward([text_datum("clip me")], "cross_entropy", None)
    gradients = dict(model.gradients)
    norm = global_norm(gradients)
    # With beta1 0, the first moment after one step is the clipped gradient.
    metrics = model.optim_step({"grad_clip_norm": norm / 1.25, "beta1": 0.0})
    assert metrics["grad_norm:mean"] == norm
    assert global_norm(model.optimizer.first) == pytest.approx(norm / 1.25, rel=1e-5)
    for name, used in model.optimizer.first.items():
        np.testing.assert_allclose(used, gradients[name] / 1.25, rtol=1e-5)
    free.optim_step({"grad_clip_norm": norm * 1.01, "beta1": 0.0})
    assert global_norm(free.optimizer.first) == pytest.approx(norm, rel=1e-6)


def test_optimizer_step_resets_the_gradient():
    model = randomized_model()
    model.forward_backward([text_datum("once")], "cross_entropy", None)
    assert model.optim_step({})["grad_norm:mean"] > 0
    assert model.gradients is None


def test_absent_parameters_have_their_defaults():
    assert AdamSettings.parse({}) == AdamSettings(1e-4, 0.9, 0.95, 1e-12, 0.0, 0.0)
    assert AdamSettings.parse({"learning_rate": 1, "type": "optim_step"}).learning_rate == 1.0


@pytest.mark.parametrize(
    ("adam", "words"),
    [
        ({"lr": 0.1}, "'lr'.*learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0.*at least 0"),
        ({"beta1": 1.0}, "beta1 is 1.0.*below 1"),
        ({"eps": None}, "eps is None"),
        ({"grad_clip_norm": "1"}, "grad_clip_norm is '1'"),
    ],
)
def test_invalid_parameters_are_named_and_change_nothing(adam, words):
    model = randomized_model()
    model.forward_backward([text_datum("kept")], "cross_entropy", None)
    before, gradients = model.arrays(True), model.gradients
    with pytest.raises(EngineError, match=words):
        model.optim_step(adam)
    assert model.gradients is gradients
    assert all((array == before[name]).all() for name, array in model.arrays(True).items())
