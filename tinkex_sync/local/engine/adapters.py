"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685): which maps have one, their start, their merging."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

import autograd.numpy as anp
import numpy as np

from .architecture import ModelConfig
from .errors import EngineError
from .primitives import Array

#: LoRA's alpha: an adapter counts ``ALPHA / rank``, so that a learning rate suits every rank.
ALPHA = 32.0
MAX_RANK = 256

_ATTENTION = ("qkv", "out")
_MLP = ("up", "down")


def targets(config: ModelConfig, *, train_attn: bool, train_mlp: bool, train_unembed: bool) -> List[str]:
    """Names of the linear maps that get an adapter.

    Raises:
        EngineError: none would.
    """
    wanted = {
        **dict.fromkeys(_ATTENTION, train_attn),
        **dict.fromkeys(_MLP, train_mlp),
        "unembed": train_unembed,
    }
    names = [name for name in config.shapes() if wanted[name.rsplit(".", 1)[-1]]]
    if not names:
        raise EngineError(
            "train_attn, train_mlp and train_unembed are all false, so nothing would train: set one to true"
        )
    return names


def initial(config: ModelConfig, names: List[str], rank: int, seed: int) -> Dict[str, Any]:
    """Fresh adapters: A (inputs, rank) normal with variance 1/inputs, B (rank, outputs) zero, so they
    change nothing.

    Raises:
        EngineError: the rank is out of range.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise EngineError(f"rank is {rank!r}: use a whole number from 1 to {MAX_RANK}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise EngineError(f"seed is {seed!r}: use a whole number or null")
    stream = np.random.RandomState([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF])
    arrays: Dict[str, Any] = {}
    for name, (inputs, outputs) in config.shapes().items():
        # Drawn for untrained maps too: what one map starts from does not depend on which others are trained.
        a = stream.standard_normal((inputs, rank)) / inputs**0.5
        if name in names:
            arrays[f"{name}.A"] = a.astype(np.float32)
            arrays[f"{name}.B"] = np.zeros((rank, outputs), np.float32)
    return arrays


def merged(
    base: Mapping[str, Array], adapters: Mapping[str, Array], names: List[str], rank: int
) -> Dict[str, Array]:
    """The weights with the adapters added in: W + (ALPHA / rank) A B. Differentiable in ``adapters``."""
    weights = dict(base)
    for name in names:
        weights[name] = base[name] + ALPHA / rank * anp.dot(adapters[f"{name}.A"], adapters[f"{name}.B"])
    return weights
