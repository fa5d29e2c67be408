"""Log probabilities that a sample reports besides its tokens: of the prompt, of targets, and of likely tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..shortened import shortened
from .errors import EngineError
from .inputs import Prompt, integers, whole

__all__ = ["ScoreOptions", "prompt_scores", "top_tokens"]

#: In ``target_prompt_logprobs``: no log probability is requested at this place.
_NO_TARGET = -1


@dataclass(frozen=True)
class ScoreOptions:
    """The scores that a request contains, validated.

    ``last_n`` limits prompt log probabilities to the last tokens. ``targets`` are rows, tokens and the layout of the
    request. Row i is about prompt position i + 1.
    """

    prompt: bool = False
    top_prompt: int = 0
    top_sampled: int = 0
    alternatives: int = 0
    last_n: Optional[int] = None
    targets: Optional[Tuple[Any, Any, Mapping[str, Any]]] = None

    @classmethod
    def parse(cls, fields: Mapping[str, Any], vocab: int, length: int) -> ScoreOptions:
        """Validate the fields of an asample.

        Args:
            fields: The fields.
            vocab: The size of the vocabulary.
            length: The number of positions of the prompt.

        Raises:
            EngineError: A value is out of range.
        """
        counts = {
            name: whole(fields.get(name) or 0, name, "(0 for none)", low=0, high=vocab)
            for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k")
        }
        prompt = bool(fields.get("prompt_logprobs"))
        last_n = fields.get("prompt_logprobs_last_n")
        if last_n is not None:
            last_n = whole(last_n, "prompt_logprobs_last_n", "", low=1, high=length - 1)
            if not prompt:
                raise EngineError("prompt_logprobs_last_n needs prompt_logprobs: set prompt_logprobs, or omit it")
        targets = fields.get("target_prompt_logprobs")
        return cls(
            prompt=prompt,
            top_prompt=counts["topk_prompt_logprobs"],
            top_sampled=counts["topk_sample_logprobs"],
            alternatives=counts["prompt_alt_tokens_k"],
            last_n=last_n,
            targets=None if targets is None else _parse_targets(targets, vocab, length),
        )

    @property
    def needs_prompt_distributions(self) -> bool:
        """Whether the distributions at all prompt positions are needed."""
        return self.prompt or self.top_prompt > 0 or self.alternatives > 0 or self.targets is not None


def _parse_targets(tensor: Any, vocab: int, length: int) -> Tuple[Any, Any, Mapping[str, Any]]:
    """Validate ``target_prompt_logprobs``. Return rows, tokens and the layout."""
    where = "target_prompt_logprobs"
    fields = tensor if isinstance(tensor, Mapping) else {}
    shape = fields.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and shape[0] == length - 1):
        raise EngineError(f"{where} has shape {shape}: use [{length - 1}, K], one row per position except the first")
    data = fields.get("data")
    if not isinstance(data, list):
        raise EngineError(f"{where}: data must be a flat list of token ids, not {shortened(data)}")
    is_target = np.array([token != _NO_TARGET for token in data], bool)
    tokens = np.full(len(data), _NO_TARGET)
    tokens[is_target] = integers([token for token in data if token != _NO_TARGET], where, vocab)
    layout: Dict[str, Any] = {"shape": shape}
    crow, columns = fields.get("sparse_crow_indices"), fields.get("sparse_col_indices")
    if crow is None:
        if len(tokens) != shape[0] * shape[1]:
            raise EngineError(f"{where} has {len(tokens)} numbers, which do not fit shape {shape}")
        rows = np.repeat(np.arange(shape[0]), shape[1])
    else:
        counts = np.diff(crow) if len(crow) == shape[0] + 1 else np.array([-1])
        if (counts < 0).any() or counts.sum() != len(tokens) or len(columns or ()) != len(tokens):
            raise EngineError(f"{where}: the sparse indices do not fit {len(tokens)} numbers in shape {shape}")
        rows = np.repeat(np.arange(shape[0]), counts)
        layout.update(sparse_crow_indices=crow, sparse_col_indices=columns)
    return rows, tokens, layout


def prompt_scores(
    options: ScoreOptions, prompt: Prompt, scores: Any, temperature: float, seed: Optional[int]
) -> Dict[str, Any]:
    """Compute the fields of a SampleResponse that are about the prompt.

    Args:
        options: The requested scores.
        prompt: The prompt.
        scores: Log probabilities of shape (time, vocab).
        temperature: The temperature at which alternative tokens are sampled.
        seed: The seed of the request, which determines the alternative tokens.

    Returns:
        The fields. Log probabilities are None at the first position, at images, and before the last ``last_n``.
    """
    first = 1 if options.last_n is None else prompt.length - options.last_n
    scored = [
        None if token is None or position < first else token for position, token in enumerate(prompt.tokens) if position
    ]
    fields: Dict[str, Any] = {"prompt_logprobs": None, "topk_prompt_logprobs": None}
    if options.prompt:
        fields["prompt_logprobs"] = [
            None,
            *(None if token is None else float(scores[row, token]) for row, token in enumerate(scored)),
        ]
    if options.top_prompt:
        best = top_tokens(scores[:-1], options.top_prompt)
        top = [None if token is None else row for token, row in zip(scored, best)]
        fields["topk_prompt_logprobs"] = [None, *top]
    if options.targets is not None:
        rows, tokens, layout = options.targets
        logprobs = np.where(tokens == _NO_TARGET, np.float32(0.0), scores[rows, tokens])
        fields["target_prompt_logprobs"] = {"data": logprobs, "dtype": "float32", **layout}
    if options.alternatives:
        sampled = _sample_alternatives(scores[:-1], options.alternatives, temperature, seed)
        shape = list(sampled.shape)
        logprobs = np.take_along_axis(scores[:-1], sampled, axis=1).ravel()
        fields["prompt_alt_tokens"] = {
            "tokens": {"data": sampled.ravel(), "dtype": "int64", "shape": shape},
            "logprobs": {"data": logprobs, "dtype": "float32", "shape": shape},
        }
    return fields


def top_tokens(scores: Any, count: int) -> List[List[List[Any]]]:
    """Return the ``count`` most likely tokens per row of ``scores`` with their log probabilities, likeliest first."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    likely = np.take_along_axis(scores, best, axis=1)
    return [[[int(i), float(value)] for i, value in zip(*row)] for row in zip(best, likely)]


def _sample_alternatives(scores: Any, count: int, temperature: float, seed: Optional[int]) -> Any:
    """Sample ``count`` tokens per row, independently and with replacement."""
    if temperature == 0.0:
        return np.repeat(scores.argmax(axis=1)[:, None], count, axis=1)
    # A stream of its own, because completions must not depend on other options of the request.
    stream = np.random.default_rng(None if seed is None else [seed, 0x616C74])
    with np.errstate(over="ignore"):
        likely = np.exp((scores - scores.max(axis=1, keepdims=True)).astype(np.float64) / temperature)
    cumulative = np.cumsum(likely, axis=1)
    thresholds = stream.random((len(scores), count)) * cumulative[:, -1:]
    rows: Sequence[Any] = [np.searchsorted(sums, row, side="right") for sums, row in zip(cumulative, thresholds)]
    return np.minimum(np.reshape(rows, thresholds.shape).astype(np.int64), scores.shape[1] - 1)
