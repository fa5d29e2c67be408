"""AdamW against the algorithm written out, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine_data import stirred, text_datum

from tinkex_sync.local.engine import EngineError
from tinkex_sync.local.engine.optimizer import AdamSettings, AdamW, global_norm


def written_out(weights, gradients_by_step, lr, beta1, beta2, eps, decay, clip):
    """Bias-corrected Adam with decoupled decay on a flat list of numbers."""
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
def test_adamw_is_the_algorithm_as_published(adam):
    stream = np.random.RandomState(0)
    start = stream.standard_normal(7).astype(np.float32)
    steps = [stream.standard_normal(7).astype(np.float32) for _ in range(6)]
    weights = {"a": start[:4].reshape(2, 2).copy(), "b": start[4:].copy()}
    optimizer, checked = AdamW(weights), AdamSettings.parse(adam)
    for g in steps:
        norm = optimizer.step(weights, {"a": g[:4].reshape(2, 2), "b": g[4:]}, checked)
        assert norm == pytest.approx(float(np.linalg.norm(g)), rel=1e-6)
    found = [*weights["a"].ravel().tolist(), *weights["b"].tolist()]
    expected = written_out(
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


def test_without_gradient_decay_shrinks_by_exactly_its_rate():
    model = stirred()
    before = model.arrays(False)
    model.optim_step({"learning_rate": 0.5, "weight_decay": 0.25})
    for name, array in model.arrays(False).items():
        np.testing.assert_array_equal(array, before[name] * np.float32(1 - 0.125))


def test_without_gradient_momentum_still_moves_the_weights():
    model = stirred()
    model.forward_backward([text_datum("momentum")], "cross_entropy", None)
    model.optim_step({"learning_rate": 0.01})
    before = model.arrays(False)
    metrics = model.optim_step({"learning_rate": 0.01})
    assert metrics["grad_norm:mean"] == 0.0
    assert all(np.abs(array - before[name]).max() > 1e-4 for name, array in model.arrays(False).items())


def test_the_clipped_gradients_norm_is_the_limit_and_its_direction_stays():
    model, free = stirred(), stirred()
    for each in (model, free):
        each.forward_backward([text_datum("clip me")], "cross_entropy", None)
    gradients = dict(model.gradients)
    norm = global_norm(gradients)
    # With beta1 0 and one step the first moment is the gradient that was used.
    metrics = model.optim_step({"grad_clip_norm": norm / 1.25, "beta1": 0.0})
    assert metrics["grad_norm:mean"] == norm
    assert global_norm(model.optimizer.first) == pytest.approx(norm / 1.25, rel=1e-5)
    for name, used in model.optimizer.first.items():
        np.testing.assert_allclose(used, gradients[name] / 1.25, rtol=1e-5)
    free.optim_step({"grad_clip_norm": norm * 1.01, "beta1": 0.0})
    assert global_norm(free.optimizer.first) == pytest.approx(norm, rel=1e-6)


def test_a_step_uses_the_gradient_up():
    model = stirred()
    model.forward_backward([text_datum("once")], "cross_entropy", None)
    assert model.optim_step({})["grad_norm:mean"] > 0
    assert model.gradients is None


def test_missing_parameters_take_the_wires_defaults():
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
def test_wrong_parameters_are_named_and_nothing_moves(adam, words):
    model = stirred()
    model.forward_backward([text_datum("kept")], "cross_entropy", None)
    before, gradients = model.arrays(True), model.gradients
    with pytest.raises(EngineError, match=words):
        model.optim_step(adam)
    assert model.gradients is gradients
    assert all((array == before[name]).all() for name, array in model.arrays(True).items())
