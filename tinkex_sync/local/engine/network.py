"""The network as a function of its weights: embeddings, hidden states, log probabilities."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, List, Mapping, Optional, Tuple

import autograd.numpy as anp
import numpy as np

from .architecture import ModelConfig
from .primitives import Array, attention_mix, attention_weights, log_probability, relu_squared, rms_norm


@lru_cache(maxsize=8)
def _bias(config: ModelConfig, time: int) -> Any:
    """Return the penalties of ALiBi with the causal mask, of shape (heads, time, time)."""
    distance = np.arange(time)[:, None] - np.arange(time)[None, :]
    bias = -config.slopes()[:, None, None] * distance.astype(np.float32)
    bias[:, distance < 0] = -np.inf
    bias.setflags(write=False)
    return bias


def with_echoes(config: ModelConfig, embeddings: Any) -> Any:
    """Add the embeddings of preceding positions to ``embeddings`` of shape (..., time, dim).

    The components of each addend are shifted cyclically by a number that depends on the distance. A random vector and
    its shifted copy are nearly orthogonal, so the order of the positions is preserved.
    """
    total = embeddings.copy()
    for back in range(1, config.echoes + 1):
        shifted = np.roll(embeddings, back * config.dim // (config.echoes + 1), axis=-1)
        total[..., back:, :] += shifted[..., :-back, :]
    return total


def hidden_states(
    config: ModelConfig,
    weights: Mapping[str, Array],
    embeddings: Array,
    cache: Optional[List[Tuple[Array, Array]]] = None,
) -> Array:
    """Compute the normalized last hidden states.

    A position depends on itself and on earlier positions only, so padding at the end of a row has no effect on the
    positions before it.

    Args:
        config: The shape of the model.
        weights: The weights, with respect to which the result is differentiable.
        embeddings: Constant embeddings without echoes, of shape (batch, time, dim).
        cache: A list to which the keys and values of each layer are added, of shape (batch, heads, time, size).

    Returns:
        An array of shape (batch * time, dim).
    """
    batch, time, dim = embeddings.shape
    bias = _bias(config, time)
    # Two dimensions, so that each product is one BLAS call.
    x = with_echoes(config, embeddings).reshape(batch * time, dim)
    for layer in range(config.layers):
        qkv = anp.dot(rms_norm(x), weights[f"layers.{layer}.qkv"])
        parts = anp.reshape(qkv, (batch, time, 3, config.heads, dim // config.heads))
        q, k, v = anp.transpose(parts, (2, 0, 3, 1, 4))
        if cache is not None:
            cache.append((k, v))
        mixed = attention_mix(attention_weights(q, k, bias), v)
        joined = anp.reshape(anp.transpose(mixed, (0, 2, 1, 3)), (batch * time, dim))
        x = x + anp.dot(joined, weights[f"layers.{layer}.out"])
        wide = relu_squared(anp.dot(rms_norm(x), weights[f"layers.{layer}.up"]))
        x = x + anp.dot(wide, weights[f"layers.{layer}.down"])
    return rms_norm(x)


def target_logprobs(
    config: ModelConfig, weights: Mapping[str, Array], embeddings: Array, positions: Array, rows: Array, targets: Array
) -> Array:
    """Return log probabilities of targets.

    Args:
        config: The shape of the model.
        weights: The weights, with respect to which the result is differentiable.
        embeddings: Constant embeddings without echoes, of shape (batch, time, dim).
        positions: The flat positions in ``embeddings`` that have targets.
        rows: The index into ``positions`` of each target. Each index occurs.
        targets: The target tokens, of the shape of ``rows``.

    Returns:
        An array of the shape of ``targets``.
    """
    states = hidden_states(config, weights, embeddings)
    return log_probability(anp.dot(states[positions], weights["unembed"]), rows, targets)
