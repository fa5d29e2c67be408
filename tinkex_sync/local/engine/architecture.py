"""The base models: their shapes, and their weights, which are random numbers from a fixed seed.

The network is a pre-norm decoder-only transformer over bytes. Positions are encoded as a linear penalty on distance
(ALiBi, Press, Smith and Lewis 2022, arXiv:2108.12409), so the model also works at positions that no training example
reached. The input of a position also contains an echo: a fixed function of the embeddings of a few preceding positions.
Random base weights therefore have features of short byte sequences, and adapters learn a text in seconds. RMSNorm
(Zhang and Sennrich 2019, arXiv:1910.07467) has no gain, and linear maps have no bias.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Dict, List, Tuple

import numpy as np

from ...tokenizers.byte_tokenizer import ByteTokenizer
from .errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_MODEL = "tinkex/tiny"
CHAT_MODEL = "tinkex/chat"

#: The special tokens of the chat model. The first two have the ids of the special tokens of the other models.
CHAT_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a base model.

    ``context`` is the maximal number of positions of a training input, or of a prompt with its completion. ``seed``
    determines the base weights. ``nearest`` and ``farthest`` are the smallest and the largest reach of an attention
    head in positions. The reach is the distance at which ALiBi reduces a weight to 1/e. ``echoes`` is the number of
    preceding positions that the input of a position contains. ``special_tokens`` are the texts of the tokens from 256,
    if texts can contain them. A completion ends with one of ``end_tokens``.
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
    special_tokens: Tuple[str, ...] = ()
    end_tokens: Tuple[int, ...] = (ByteTokenizer.eos_token_id,)

    def encode(self, text: str) -> List[int]:
        """Encode text as bytes and special tokens."""
        tokens: List[int] = []
        pattern = "(" + "|".join(map(re.escape, self.special_tokens)) + ")"
        for part in re.split(pattern, text) if self.special_tokens else [text]:
            if part in self.special_tokens:
                tokens.append(256 + self.special_tokens.index(part))
            else:
                tokens.extend(ByteTokenizer().encode(part))
        return tokens

    def shapes(self) -> Dict[str, Tuple[int, int]]:
        """Return the name and (inputs, outputs) of every linear map, in a fixed order."""
        shapes: Dict[str, Tuple[int, int]] = {}
        for layer in range(self.layers):
            shapes[f"layers.{layer}.qkv"] = (self.dim, 3 * self.dim)
            shapes[f"layers.{layer}.out"] = (self.dim, self.dim)
            shapes[f"layers.{layer}.up"] = (self.dim, self.hidden)
            shapes[f"layers.{layer}.down"] = (self.hidden, self.dim)
        shapes["unembed"] = (self.dim, self.vocab)
        return shapes

    def slopes(self) -> NDArray[np.float32]:
        """Return the penalty of ALiBi per position of distance, one number per head."""
        reach = np.geomspace(self.nearest, self.farthest, self.heads)
        return (1.0 / reach).astype(np.float32)


BASE_MODELS: Dict[str, ModelConfig] = {
    DEFAULT_MODEL: ModelConfig(),
    "tinkex/small": ModelConfig(dim=192, layers=2, heads=6, hidden=768, seed=20261),
    CHAT_MODEL: ModelConfig(
        vocab=256 + len(CHAT_TOKENS),
        seed=20262,
        special_tokens=CHAT_TOKENS,
        end_tokens=(ByteTokenizer.eos_token_id, 256 + CHAT_TOKENS.index("<|im_end|>")),
    ),
}


class BaseModel:
    """The constant weights of a base model. Immutable, so threads may share it."""

    _lock = threading.Lock()
    _cache: ClassVar[Dict[Tuple[str, ModelConfig], BaseModel]] = {}  # guarded by _lock

    def __init__(self, name: str, config: ModelConfig) -> None:
        self.name = name
        self.config = config
        self.weights = _random_weights(config)

    @classmethod
    def get(cls, name: str, config: ModelConfig) -> BaseModel:
        """Return the only instance with these weights in this process."""
        with cls._lock:
            if (name, config) not in cls._cache:
                cls._cache[name, config] = cls(name, config)
            return cls._cache[name, config]

    @classmethod
    def named(cls, name: str) -> BaseModel:
        """Return the base model of a name.

        Raises:
            EngineError: There is none.
        """
        config = BASE_MODELS.get(name) if isinstance(name, str) else None
        if config is None:
            raise EngineError(f"unknown base model {name!r}: this server has {', '.join(sorted(BASE_MODELS))}")
        return cls.get(name, config)


def _random_weights(config: ModelConfig) -> Dict[str, NDArray[np.float32]]:
    # RandomState, not default_rng: its streams are frozen, so every numpy version generates the same bits.
    stream = np.random.RandomState(config.seed)

    def normal(shape: Tuple[int, int], deviation: float) -> NDArray[np.float32]:
        return (stream.standard_normal(shape) * deviation).astype(np.float32)

    weights = {"embed": normal((config.vocab, config.dim), 1.0)}
    for name, shape in config.shapes().items():
        # With a small unembedding the model starts near the uniform distribution, at a loss of ln(vocab) per token.
        gain = 0.1 if name == "unembed" else 1.0
        weights[name] = normal(shape, gain / shape[0] ** 0.5)
    for array in weights.values():
        array.setflags(write=False)
    return weights
