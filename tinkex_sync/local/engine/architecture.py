"""The base models: their shapes, and their weights drawn from a fixed seed.

The network is a pre-norm decoder-only transformer over bytes. Positions enter as a linear penalty on distance
(ALiBi, Press, Smith and Lewis 2022, arXiv:2108.12409), so nothing has to be learnt about positions that
training never reached. A position's input also holds an echo of the few before it, a fixed function of the
embeddings, so that even random base weights offer features of short byte sequences and adapters learn a
text in seconds. RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) has no gain, linear maps have no bias.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Dict, Tuple

import numpy as np

from ...tokenizers.byte_tokenizer import ByteTokenizer
from .errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_MODEL = "tinkex/tiny"


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a base model.

    ``context`` is the most positions a training input, or a prompt with its completion, may have. ``seed``
    fixes the base weights. ``nearest`` and ``farthest`` are the smallest and largest reach of an attention
    head, in positions: the distance at which ALiBi has cut its weight to 1/e. ``echoes`` is how many
    preceding positions sound in a position's input.
    """

    vocab: int = ByteTokenizer.vocab_size
    dim: int = 128
    layers: int = 1
    heads: int = 4
    hidden: int = 512
    context: int = 2048
    seed: int = 20260
    nearest: float = 0.5
    farthest: float = 16.0
    echoes: int = 3

    def shapes(self) -> Dict[str, Tuple[int, int]]:
        """Name and (inputs, outputs) of every linear map, in a fixed order."""
        shapes: Dict[str, Tuple[int, int]] = {}
        for layer in range(self.layers):
            shapes[f"layers.{layer}.qkv"] = (self.dim, 3 * self.dim)
            shapes[f"layers.{layer}.out"] = (self.dim, self.dim)
            shapes[f"layers.{layer}.up"] = (self.dim, self.hidden)
            shapes[f"layers.{layer}.down"] = (self.hidden, self.dim)
        shapes["unembed"] = (self.dim, self.vocab)
        return shapes

    def slopes(self) -> NDArray[np.float32]:
        """ALiBi's penalty per position of distance, one per head."""
        reach = np.geomspace(self.nearest, self.farthest, self.heads)
        return (1.0 / reach).astype(np.float32)


BASE_MODELS: Dict[str, ModelConfig] = {
    DEFAULT_MODEL: ModelConfig(),
    "tinkex/small": ModelConfig(dim=192, layers=2, heads=6, hidden=768, seed=20261),
}


class BaseModel:
    """A base model's frozen weights. Threads may share it; ``weights`` is never written to."""

    _lock = threading.Lock()
    _cache: ClassVar[Dict[Tuple[str, ModelConfig], BaseModel]] = {}  # guarded by _lock

    def __init__(self, name: str, config: ModelConfig) -> None:
        self.name = name
        self.config = config
        self.weights = _draw(config)

    @classmethod
    def get(cls, name: str, config: ModelConfig) -> BaseModel:
        """The one copy of these weights in this process."""
        with cls._lock:
            if (name, config) not in cls._cache:
                cls._cache[name, config] = cls(name, config)
            return cls._cache[name, config]

    @classmethod
    def named(cls, name: str) -> BaseModel:
        """The base model of that name.

        Raises:
            EngineError: there is none.
        """
        config = BASE_MODELS.get(name) if isinstance(name, str) else None
        if config is None:
            raise EngineError(
                f"unknown base model {name!r}: this server has {', '.join(sorted(BASE_MODELS))}"
            )
        return cls.get(name, config)


def _draw(config: ModelConfig) -> Dict[str, NDArray[np.float32]]:
    # RandomState, not default_rng: its streams are frozen, so every numpy version draws the same bits.
    stream = np.random.RandomState(config.seed)

    def normal(shape: Tuple[int, int], deviation: float) -> NDArray[np.float32]:
        return (stream.standard_normal(shape) * deviation).astype(np.float32)

    weights = {"embed": normal((config.vocab, config.dim), 1.0)}
    for name, shape in config.shapes().items():
        # A small unembedding starts the model near the uniform distribution: loss ln(vocab) per token.
        gain = 0.1 if name == "unembed" else 1.0
        weights[name] = normal(shape, gain / shape[0] ** 0.5)
    for array in weights.values():
        array.setflags(write=False)
    return weights
