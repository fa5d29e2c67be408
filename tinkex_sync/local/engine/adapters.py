"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685): selection of linear maps, initial values and merging."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

import autograd.numpy as anp
import numpy as np

from .architecture import ModelConfig
from .errors import EngineError
from .primitives import Array

#: LoRA's alpha. An adapter is scaled by ``ALPHA / rank``, so the same learning rate works for every rank.
ALPHA = 32.0
MAX_RANK = 256

_ATTENTION = ("qkv", "out")
_MLP = ("up", "down")


def adapted_maps(config: ModelConfig, *, train_attn: bool, train_mlp: bool, train_unembed: bool) -> List[str]:
    """Return the names of the linear maps that have an adapter.

    Raises:
        EngineError: All three flags are false.
    """
    is_trained = {**dict.fromkeys(_ATTENTION, train_attn), **dict.fromkeys(_MLP, train_mlp), "unembed": train_unembed}
    names = [name for name in config.shapes() if is_trained[name.rsplit(".", 1)[-1]]]
    if not names:
        raise EngineError("train_attn, train_mlp and train_unembed are all false: set at least one to true")
    return names


def initial_adapters(config: ModelConfig, names: List[str], rank: int, seed: int) -> Dict[str, Any]:
    """Create adapters that do not change the model.

    Args:
        config: The shape of the base model.
        names: The linear maps that get an adapter.
        rank: The rank, 1 to MAX_RANK.
        seed: Determines the values.

    Returns:
        Per map, A of shape (inputs, rank), normally distributed with variance 1/inputs, and B of shape
        (rank, outputs), zero.

    Raises:
        EngineError: The rank or the seed is out of range.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise EngineError(f"rank is {rank!r}: use a whole number from 1 to {MAX_RANK}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise EngineError(f"seed is {seed!r}: use a whole number or null")
    stream = np.random.RandomState([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF])
    arrays: Dict[str, Any] = {}
    for name, (inputs, outputs) in config.shapes().items():
        # Random numbers are used for untrained maps too, so the values of a map do not depend on the other maps.
        a = stream.standard_normal((inputs, rank)) / inputs**0.5
        if name in names:
            arrays[f"{name}.A"] = a.astype(np.float32)
            arrays[f"{name}.B"] = np.zeros((rank, outputs), np.float32)
    return arrays


def merge_adapters(
    base: Mapping[str, Array], adapters: Mapping[str, Array], names: List[str], rank: int
) -> Dict[str, Array]:
    """Return the weights plus the adapters: W + (ALPHA / rank) A B. The result is differentiable in ``adapters``."""
    weights = dict(base)
    for name in names:
        weights[name] = base[name] + ALPHA / rank * anp.dot(adapters[f"{name}.A"], adapters[f"{name}.B"])
    return weights
