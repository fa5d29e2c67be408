"""Gradients of the primitives."""

import numpy as np
import pytest
from autograd import make_vjp

from tinkex_sync.local.engine import primitives

BIAS = np.where(np.tri(4) > 0, -0.3 * np.subtract.outer(np.arange(4), np.arange(4)), -np.inf)[None]


STREAM = np.random.RandomState(2)


Q, K, V = (STREAM.standard_normal((2, 1, 4, 3)) for _ in range(3))


PLAIN = {
    "rms_norm": (primitives.rms_norm, [STREAM.standard_normal((5, 6))]),
    "relu_squared": (primitives.relu_squared, [STREAM.standard_normal((5, 6))]),
    "weights of q": (lambda q: primitives.attention_weights(q, K, BIAS), [Q]),
    "weights of k": (lambda k: primitives.attention_weights(Q, k, BIAS), [K]),
    "mix of weights": (lambda w: primitives.attention_mix(w, V), [np.tri(4)[None, None] / 4 + np.zeros((2, 1, 4, 4))]),
    "mix of values": (lambda v: primitives.attention_mix(primitives.attention_weights(Q, K, BIAS), v), [V]),
    "log_probability": (
        lambda x: primitives.log_probability(x, np.arange(5), np.array([1, 0, 5, 5, 2])),
        [3 * STREAM.standard_normal((5, 6))],
    ),
    "log_probability of several targets": (
        lambda x: primitives.log_probability(x, np.array([1, 0, 0, 2, 2]), np.array([1, 0, 5, 5, 5])),
        [3 * STREAM.standard_normal((3, 6))],
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_vector_jacobian_products_equal_finite_differences(name):
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
