"""The operations of the network as autograd primitives.

Each is one operation with its own vector-Jacobian product. An autograd graph of elementary numpy calls gives the same
numbers at two to three times the cost. The floating type of the arguments is preserved, so tests can compare the
gradients with finite differences in double precision.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence, Tuple

import numpy as np
from autograd.core import defvjp_argnums
from autograd.extend import defvjp, primitive

#: An ndarray, or a traced array of autograd.
Array = Any

_EPSILON = 1e-6


@primitive  # type: ignore[untyped-decorator]
def rms_norm(x: Array) -> Array:
    """Divide each row of ``x`` (rows, dim) by its root mean square."""
    return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + _EPSILON)


def _rms_norm_vjp(ans: Array, x: Array) -> Callable[[Array], Array]:
    def vjp(g: Array) -> Array:
        inverse = 1.0 / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + _EPSILON)
        return (g - ans * np.mean(g * ans, axis=1, keepdims=True)) * inverse

    return vjp


defvjp(rms_norm, _rms_norm_vjp)


@primitive  # type: ignore[untyped-decorator]
def relu_squared(x: Array) -> Array:
    """Compute the square of max(x, 0) (So et al. 2021, arXiv:2109.08668)."""
    positive = np.maximum(x, 0)
    return positive * positive


defvjp(relu_squared, lambda ans, x: lambda g: g * 2 * np.maximum(x, 0))


@primitive  # type: ignore[untyped-decorator]
def attention_weights(q: Array, k: Array, bias: Array) -> Array:
    """Compute the softmax over keys of the scaled scores plus ``bias``.

    ``q`` and ``k`` have shape (batch, heads, time, size). ``bias`` has shape (heads, time, time) and is -inf at masked
    keys.
    """
    scores = np.matmul(q, k.swapaxes(-1, -2))
    scores *= q.shape[-1] ** -0.5
    scores += bias
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _attention_weights_vjp(
    argnums: Sequence[int], ans: Array, args: Tuple[Array, ...], kwargs: Any
) -> Callable[[Array], Tuple[Array, ...]]:
    q, k, _bias = args
    if any(argnum > 1 for argnum in argnums):
        raise TypeError("the attention bias has no gradient: pass a constant")

    def vjp(g: Array) -> Tuple[Array, ...]:
        inner = np.einsum("bhij,bhij->bhi", g, ans)
        scores = g - inner[..., None]
        scores *= ans
        scores *= q.shape[-1] ** -0.5
        sides = (lambda: np.matmul(scores, k), lambda: np.matmul(scores.swapaxes(-1, -2), q))
        return tuple(sides[argnum]() for argnum in argnums)

    return vjp


defvjp_argnums(attention_weights, _attention_weights_vjp)


@primitive  # type: ignore[untyped-decorator]
def attention_mix(weights: Array, v: Array) -> Array:
    """Average the values (batch, heads, time, size) with ``weights`` (batch, heads, time, time)."""
    return np.matmul(weights, v)


defvjp(
    attention_mix,
    lambda ans, weights, v: lambda g: np.matmul(g, v.swapaxes(-1, -2)),
    lambda ans, weights, v: lambda g: np.matmul(weights.swapaxes(-1, -2), g),
)


@primitive  # type: ignore[untyped-decorator]
def log_probability(logits: Array, rows: Array, targets: Array) -> Array:
    """Return the natural log of the softmax of ``logits`` (positions, vocab) at pairs of a row and a target, (pairs,).

    Every row must be part of a pair. It may be part of several.
    """
    top = logits.max(axis=1)
    norm = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
    return logits[rows, targets] - norm[rows]


def _log_probability_vjp(ans: Array, logits: Array, rows: Array, targets: Array) -> Callable[[Array], Array]:
    def vjp(g: Array) -> Array:
        norm, total = np.empty(len(logits), logits.dtype), np.zeros(len(logits), g.dtype)
        norm[rows] = logits[rows, targets] - ans
        np.add.at(total, rows, g)
        gradient = np.exp(logits - norm[:, None])
        gradient *= -total[:, None]
        np.add.at(gradient, (rows, targets), g)
        return gradient

    return vjp


defvjp(log_probability, _log_probability_vjp, argnums=(0,))
