"""What a sample tells beside its tokens: log probabilities of the prompt, of alternatives to it, and of rivals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import EngineError
from .inputs import Prompt, integers, whole

__all__ = ["Asked", "prompt_scores", "tops"]

#: In ``target_prompt_logprobs``: nothing is asked for here.
_NOTHING = -1


@dataclass(frozen=True)
class Asked:
    """The scores a request asks for, checked.

    ``last_n`` limits prompt log probabilities to the last so many tokens. ``targets`` are places (row, token) and the
    layout in which they came; row i is about prompt position i + 1.
    """

    prompt: bool = False
    top_prompt: int = 0
    top_sampled: int = 0
    alternatives: int = 0
    last_n: Optional[int] = None
    targets: Optional[Tuple[Any, Any, Mapping[str, Any]]] = None

    @classmethod
    def checked(cls, body: Mapping[str, Any], vocab: int, length: int) -> Asked:
        """From the body of an asample.

        Raises:
            EngineError: a value is out of range.
        """
        counts = {
            name: whole(body.get(name) or 0, name, "(0 for none)", low=0, high=vocab)
            for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k")
        }
        prompt = bool(body.get("prompt_logprobs"))
        last_n = body.get("prompt_logprobs_last_n")
        if last_n is not None:
            last_n = whole(last_n, "prompt_logprobs_last_n", "", low=1, high=length - 1)
            if not prompt:
                raise EngineError("prompt_logprobs_last_n limits prompt_logprobs, which was not asked for")
        targets = body.get("target_prompt_logprobs")
        return cls(
            prompt=prompt,
            top_prompt=counts["topk_prompt_logprobs"],
            top_sampled=counts["topk_sample_logprobs"],
            alternatives=counts["prompt_alt_tokens_k"],
            last_n=last_n,
            targets=None if targets is None else _targets(targets, vocab, length),
        )

    @property
    def whole_prompt(self) -> bool:
        """Whether the distributions at all prompt positions are needed."""
        return self.prompt or self.top_prompt > 0 or self.alternatives > 0 or self.targets is not None


def _targets(tensor: Any, vocab: int, length: int) -> Tuple[Any, Any, Mapping[str, Any]]:
    where = "target_prompt_logprobs"
    given = tensor if isinstance(tensor, Mapping) else {}
    shape = given.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and shape[0] == length - 1):
        raise EngineError(
            f"{where} has shape {shape}: use [{length - 1}, K], one row per position but the first"
        )
    data = given.get("data")
    if not isinstance(data, list):
        raise EngineError(f"{where}: data must be a flat list of token ids, not {data!r:.80}")
    there = np.array([token != _NOTHING for token in data], bool)
    tokens = np.full(len(data), _NOTHING)
    tokens[there] = integers([token for token in data if token != _NOTHING], where, vocab)
    layout: Dict[str, Any] = {"shape": shape}
    crow, columns = given.get("sparse_crow_indices"), given.get("sparse_col_indices")
    if crow is None:
        if len(tokens) != shape[0] * shape[1]:
            raise EngineError(f"{where} has {len(tokens)} numbers, which do not fit shape {shape}")
        rows = np.repeat(np.arange(shape[0]), shape[1])
    else:
        counts = np.diff(crow) if len(crow) == shape[0] + 1 else np.array([-1])
        if (counts < 0).any() or counts.sum() != len(tokens) or len(columns or ()) != len(tokens):
            raise EngineError(
                f"{where}: the sparse indices do not fit {len(tokens)} numbers in shape {shape}"
            )
        rows = np.repeat(np.arange(shape[0]), counts)
        layout.update(sparse_crow_indices=crow, sparse_col_indices=columns)
    return rows, tokens, layout


def prompt_scores(
    asked: Asked, start: Prompt, scores: Any, temperature: float, seed: Optional[int]
) -> Dict[str, Any]:
    """The parts of a SampleResponse that are about the prompt; ``scores`` are log probabilities (time, vocab).

    Nothing is told of the first position, of images, and of what comes before the last ``last_n``.
    """
    first = 1 if asked.last_n is None else start.length - asked.last_n
    told = [
        None if token is None or place < first else token for place, token in enumerate(start.tokens) if place
    ]
    found: Dict[str, Any] = {"prompt_logprobs": None, "topk_prompt_logprobs": None}
    if asked.prompt:
        found["prompt_logprobs"] = [
            None,
            *(None if token is None else float(scores[row, token]) for row, token in enumerate(told)),
        ]
    if asked.top_prompt:
        best = tops(scores[:-1], asked.top_prompt)
        rows = [None if token is None else row for token, row in zip(told, best)]
        found["topk_prompt_logprobs"] = [None, *rows]
    if asked.targets is not None:
        rows_, tokens, layout = asked.targets
        picked = np.where(tokens == _NOTHING, np.float32(0.0), scores[rows_, tokens])
        found["target_prompt_logprobs"] = {"data": picked, "dtype": "float32", **layout}
    if asked.alternatives:
        drawn = _drawn(scores[:-1], asked.alternatives, temperature, seed)
        shape = list(drawn.shape)
        logprobs = np.take_along_axis(scores[:-1], drawn, axis=1).ravel()
        found["prompt_alt_tokens"] = {
            "tokens": {"data": drawn.ravel(), "dtype": "int64", "shape": shape},
            "logprobs": {"data": logprobs, "dtype": "float32", "shape": shape},
        }
    return found


def tops(scores: Any, count: int) -> List[List[List[Any]]]:
    """Per row of ``scores`` the ``count`` most likely tokens with their log probabilities, likeliest first."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    likely = np.take_along_axis(scores, best, axis=1)
    return [[[int(i), float(value)] for i, value in zip(*row)] for row in zip(best, likely)]


def _drawn(scores: Any, count: int, temperature: float, seed: Optional[int]) -> Any:
    """``count`` tokens per row, independently and with replacement."""
    if temperature == 0.0:
        return np.repeat(scores.argmax(axis=1)[:, None], count, axis=1)
    # Not the streams of the completions, which must not depend on what else was asked for.
    stream = np.random.default_rng(None if seed is None else [seed, 0x616C74])
    with np.errstate(over="ignore"):
        likely = np.exp((scores - scores.max(axis=1, keepdims=True)).astype(np.float64) / temperature)
    heights = np.cumsum(likely, axis=1)
    draws = stream.random((len(scores), count)) * heights[:, -1:]
    rows: Sequence[Any] = [np.searchsorted(high, draw, side="right") for high, draw in zip(heights, draws)]
    return np.minimum(np.reshape(rows, draws.shape).astype(np.int64), scores.shape[1] - 1)
