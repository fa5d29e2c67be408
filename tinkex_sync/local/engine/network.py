"""The network as a function of its weights: from embeddings to hidden states to log probabilities."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, List, Mapping, Optional, Tuple

import autograd.numpy as anp
import numpy as np

from .architecture import ModelConfig
from .primitives import Array, attention_mix, attention_weights, log_probability, relu_squared, rms_norm


@lru_cache(maxsize=8)
def _bias(config: ModelConfig, time: int) -> Any:
    """ALiBi's penalties and the causal mask, (heads, time, time)."""
    distance = np.arange(time)[:, None] - np.arange(time)[None, :]
    bias = -config.slopes()[:, None, None] * distance.astype(np.float32)
    bias[:, distance < 0] = -np.inf
    bias.setflags(write=False)
    return bias


def with_echoes(config: ModelConfig, embeddings: Any) -> Any:
    """``embeddings`` (..., time, dim) plus those of the preceding positions, each turned by its own angle.

    The turn is a rotation of the components, which makes random vectors nearly orthogonal to themselves and
    so keeps the order of the positions legible.
    """
    total = embeddings.copy()
    for back in range(1, config.echoes + 1):
        turned = np.roll(embeddings, back * config.dim // (config.echoes + 1), axis=-1)
        total[..., back:, :] += turned[..., :-back, :]
    return total


def hidden_states(
    config: ModelConfig,
    weights: Mapping[str, Array],
    embeddings: Array,
    cache: Optional[List[Tuple[Array, Array]]] = None,
) -> Array:
    """The normalised last hidden states, (batch * time, dim), of ``embeddings`` (batch, time, dim).

    Echoes are added here; ``embeddings`` are a constant, gradients flow to ``weights``.
    Positions see themselves and earlier ones only, so padding at the end of a row changes nothing before it.
    ``cache`` collects each layer's keys and values, (batch, heads, time, size).
    """
    batch, time, dim = embeddings.shape
    bias = _bias(config, time)
    x = with_echoes(config, embeddings).reshape(batch * time, dim)  # matmuls stay 2-D: one BLAS call each
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
    config: ModelConfig, weights: Mapping[str, Array], embeddings: Array, positions: Array, targets: Array
) -> Array:
    """Log probabilities of ``targets`` at the flat ``positions`` of ``embeddings`` (batch, time, dim)."""
    states = hidden_states(config, weights, embeddings)
    return log_probability(anp.dot(states[positions], weights["unembed"]), targets)
