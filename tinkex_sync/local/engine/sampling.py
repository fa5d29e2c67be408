"""Sampling: constant weights, a key-value cache, and the rules for choosing tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np

from ..shortened import shortened
from . import adapters as lora
from .architecture import BaseModel, ModelConfig
from .errors import EngineError
from .inputs import Prompt, embed_prompt, integers, number, whole
from .network import hidden_states, with_echoes
from .primitives import relu_squared, rms_norm
from .scores import ScoreOptions, prompt_scores, top_tokens

#: The number of completions of one request that are computed together.
_ROWS = 64
MAX_SAMPLES = 4096

Model = TypeVar("Model", bound="SamplingModel")


@dataclass(frozen=True)
class SamplingRules:
    """Validated SamplingParams. ``stops`` are token sequences; ``budget`` is the maximal length of a completion."""

    budget: int
    seed: Optional[int]
    stops: Tuple[Tuple[int, ...], ...]
    temperature: float
    top_k: int
    top_p: float

    @classmethod
    def parse(
        cls, params: Mapping[str, Any], config: ModelConfig, prompt_length: int, *, literal_stop: bool = False
    ) -> SamplingRules:
        """Validate the ``sampling_params`` of a request. Absent keys have their defaults, unknown keys are ignored.

        Args:
            params: The parameters.
            config: The shape of the model.
            prompt_length: The number of positions of the prompt.
            literal_stop: An empty list of stops means no stop, not even the end-of-text token.

        Raises:
            EngineError: A value is out of range.
        """
        # The last token of a completion is not an input of the model, so it needs no position.
        room = config.context - prompt_length + 1
        max_tokens, stop, seed = params.get("max_tokens"), params.get("stop"), params.get("seed")
        if max_tokens is not None:
            max_tokens = whole(max_tokens, "max_tokens", "or null for the rest of the context", low=1)
        top_k = params.get("top_k", -1)
        if top_k != -1:
            top_k = whole(top_k, "top_k", "(-1 disables it)", low=1)
        top_p = number(params.get("top_p", 1.0), "top_p", 0.0, 1.0)
        if top_p == 0.0:
            raise EngineError("top_p is 0, which excludes all tokens: use a number above 0 up to 1, or top_k 1")
        return cls(
            budget=room if max_tokens is None else min(room, max_tokens),
            seed=None if seed is None else whole(seed, "seed", "or null") & 0xFFFFFFFFFFFFFFFF,
            stops=() if literal_stop and stop == [] else _parse_stops(stop, config),
            temperature=number(params.get("temperature", 1.0), "temperature", 0.0),
            top_k=top_k,
            top_p=top_p,
        )

    def stop_reason(self, tokens: Sequence[int]) -> Optional[str]:
        """Return why a completion ends after ``tokens``: "stop", "length", or None if it does not end."""
        if any(tuple(tokens[-len(stop) :]) == stop for stop in self.stops):
            return "stop"
        return "length" if len(tokens) == self.budget else None


class SamplingModel:
    """Constant weights to sample from. Immutable, so threads may share it."""

    def __init__(self, base: BaseModel, weights: Mapping[str, Any]) -> None:
        self.base_model = base
        self._weights = weights

    @classmethod
    def base(cls: Type[Model], base_model: str) -> Model:
        """Return the base model of a name, without adapters.

        Raises:
            EngineError: There is none.
        """
        found = BaseModel.named(base_model)
        return cls(found, found.weights)

    @classmethod
    def from_checkpoint(cls: Type[Model], meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> Model:
        """Create the model of a training or sampler checkpoint.

        Raises:
            EngineError: ``meta`` does not describe ``arrays``.
        """
        try:
            base = BaseModel.named(meta["base_model"])
            rank = meta["rank"]
            parts = {key: meta[key] for key in ("train_attn", "train_mlp", "train_unembed")}
        except KeyError as error:
            raise EngineError(f"the description of the checkpoint lacks {error}: save it again") from None
        names = lora.adapted_maps(base.config, **parts)
        loaded = adapters_from(arrays, "lora", lora.initial_adapters(base.config, names, rank, 0))
        return cls(base, lora.merge_adapters(base.weights, loaded, names, rank))

    def sample(
        self,
        chunks: Sequence[Any],
        num_samples: int,
        params: Mapping[str, Any],
        *,
        literal_stop: bool = False,
        **score_fields: Any,
    ) -> Dict[str, Any]:
        """Sample completions of one prompt.

        A completion ends with the end-of-text token or a stop sequence, which it includes ("stop"), or when
        ``max_tokens`` or the context is used up ("length"). Log probabilities are those of the model: temperature,
        top_k and top_p change which tokens are sampled, not the reported numbers. With a seed, the same request returns
        the same tokens, and completion i does not depend on ``num_samples``.

        Args:
            chunks: The chunks of the prompt.
            num_samples: The number of completions.
            params: The ``sampling_params`` of the request.
            literal_stop: See :meth:`SamplingRules.parse`.
            score_fields: The fields of the request that ask for scores, such as ``prompt_logprobs``.

        Returns:
            The JSON object of a SampleResponse.

        Raises:
            EngineError: The prompt or a parameter is out of range.
        """
        config = self.base_model.config
        prompt = embed_prompt(self.base_model, chunks, "prompt")
        count = whole(num_samples, "num_samples", "", low=1, high=MAX_SAMPLES)
        options = ScoreOptions.parse(score_fields, config.vocab, prompt.length)
        rules = SamplingRules.parse(params, config, prompt.length, literal_stop=literal_stop)
        cache: List[Tuple[Any, Any]] = []
        states = hidden_states(config, self._weights, prompt.embeddings[None], cache)
        first = _log_softmax(states[-1:] @ self._weights["unembed"])
        sequences: List[Dict[str, Any]] = []
        for low in range(0, count, _ROWS):
            rows = range(low, min(low + _ROWS, count))
            batch = _CompletionBatch(self._weights, config, prompt, cache, rules, rows)
            sequences.extend(batch.run(first, options.top_sampled))
        response: Dict[str, Any] = {"type": "sample", "sequences": sequences}
        if not options.needs_prompt_distributions:
            return {**response, "prompt_logprobs": None, "topk_prompt_logprobs": None}
        scores = _log_softmax(states @ self._weights["unembed"])
        return {**response, **prompt_scores(options, prompt, scores, rules.temperature, rules.seed)}


@dataclass
class _Completion:
    tokens: List[int] = field(default_factory=list)
    logprobs: List[float] = field(default_factory=list)
    #: The most likely tokens at each position with their log probabilities.
    top: List[List[List[Any]]] = field(default_factory=list)
    stop_reason: Optional[str] = None

    def to_dict(self, *, has_top: bool) -> Dict[str, Any]:
        fields = {"stop_reason": self.stop_reason, "tokens": self.tokens, "logprobs": self.logprobs}
        return {**fields, "topk_sampled_logprobs": self.top} if has_top else fields


class _CompletionBatch:
    """Generates several completions of one prompt together, one per row. Not thread-safe."""

    def __init__(
        self,
        weights: Mapping[str, Any],
        config: ModelConfig,
        prompt: Prompt,
        cache: List[Tuple[Any, Any]],
        rules: SamplingRules,
        rows: range,
    ) -> None:
        self._weights, self._config, self._rules = weights, config, rules
        self._filled = prompt.length
        shape = (len(rows), config.heads, prompt.length + rules.budget - 1, config.dim // config.heads)
        self._cache = []
        for parts in cache:
            self._cache.append(tuple(np.empty(shape, np.float32) for _ in parts))
            for room, part in zip(self._cache[-1], parts):
                room[:, :, : prompt.length] = part
        self._penalty = config.slopes()[:, None] * np.arange(1 - shape[2], 1, dtype=np.float32)
        self._recent = np.repeat(prompt.embeddings[None, -config.echoes - 1 :], len(rows), axis=0)
        self._streams = [np.random.default_rng(None if rules.seed is None else [rules.seed, row]) for row in rows]

    def run(self, first: Any, top_count: int = 0) -> List[Dict[str, Any]]:
        """Generate tokens until every row has ended.

        Args:
            first: The log probabilities after the prompt, of shape (1, vocab).
            top_count: The number of most likely tokens to report at each position.

        Returns:
            The ``sequences`` of a SampleResponse.
        """
        completions = [_Completion() for _ in self._streams]
        scores = np.repeat(first, len(completions), axis=0)
        while True:
            chosen = choose_tokens(scores, self._rules, self._streams)
            best = top_tokens(scores, top_count) if top_count else []
            for row, (completion, token) in enumerate(zip(completions, chosen.tolist())):
                if completion.stop_reason is not None:
                    continue
                completion.tokens.append(token)
                completion.logprobs.append(float(scores[row, token]))
                if top_count:
                    completion.top.append(best[row])
                completion.stop_reason = self._rules.stop_reason(completion.tokens)
            if all(completion.stop_reason for completion in completions):
                return [completion.to_dict(has_top=top_count > 0) for completion in completions]
            scores = self._advance(chosen)

    def _advance(self, chosen: Any) -> Any:
        """Append one token to every row. Return the log probabilities of the next tokens, of shape (rows, vocab)."""
        config, weights = self._config, self._weights
        rows, now = len(chosen), self._filled
        self._recent = np.concatenate([self._recent[:, -config.echoes :], weights["embed"][chosen][:, None]], axis=1)
        x = with_echoes(config, self._recent)[:, -1]
        penalty = self._penalty[:, -now - 1 :]
        for layer, (keys, values) in enumerate(self._cache):
            qkv = rms_norm(x) @ weights[f"layers.{layer}.qkv"]
            q, keys[:, :, now], values[:, :, now] = qkv.reshape(rows, 3, config.heads, -1).swapaxes(0, 1)
            scores = np.matmul(keys[:, :, : now + 1], q[..., None])[..., 0] * q.shape[-1] ** -0.5 + penalty
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            mixed = np.matmul(scores[:, :, None], values[:, :, : now + 1])
            x = x + mixed.reshape(rows, config.dim) @ weights[f"layers.{layer}.out"]
            wide = relu_squared(rms_norm(x) @ weights[f"layers.{layer}.up"])
            x = x + wide @ weights[f"layers.{layer}.down"]
        self._filled += 1
        return _log_softmax(rms_norm(x) @ weights["unembed"])


def choose_tokens(scores: Any, rules: SamplingRules, streams: Sequence[np.random.Generator]) -> Any:
    """Choose one token per row.

    The temperature is applied first, then ``top_k``, then ``top_p``: the fewest most likely tokens whose probabilities
    reach it (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751). At temperature 0 the most likely token is
    chosen, and among equals the one with the lowest id.

    Args:
        scores: Log probabilities of shape (rows, vocab).
        rules: The rules.
        streams: One random generator per row.

    Returns:
        The token ids, of shape (rows,).
    """
    if rules.temperature == 0.0:
        return scores.argmax(axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    if rules.top_k != -1:
        order = order[:, : rules.top_k]
    ranked = np.take_along_axis(scores, order, axis=1).astype(np.float64)
    with np.errstate(over="ignore"):
        likely = np.exp((ranked - ranked[:, :1]) / rules.temperature)
    likely /= likely.sum(axis=1, keepdims=True)
    before = np.cumsum(likely, axis=1) - likely
    likely[before >= rules.top_p] = 0.0
    cumulative = np.cumsum(likely, axis=1)
    thresholds = np.array([stream.random() for stream in streams])[:, None] * cumulative[:, -1:]
    chosen = (cumulative <= thresholds).sum(axis=1)
    return order[np.arange(len(order)), chosen]


def adapters_from(arrays: Mapping[str, Any], group: str, like: Mapping[str, Any]) -> Dict[str, Any]:
    """Copy one group of arrays of a checkpoint.

    Args:
        arrays: The arrays of the checkpoint.
        group: "lora", "first" or "second".
        like: Arrays with the expected names and shapes.

    Returns:
        The arrays as float32.

    Raises:
        EngineError: An array is missing or has another shape.
    """
    found: Dict[str, Any] = {}
    for name, expected in like.items():
        array = arrays.get(f"{group}.{name}")
        if array is None:
            what = "adapter" if group == "lora" else "optimizer state"
            raise EngineError(f"the checkpoint has no {what} {group}.{name}: load one that was saved with it")
        if np.shape(array) != expected.shape:
            raise EngineError(
                f"{group}.{name} has shape {np.shape(array)} in the checkpoint and {expected.shape} in this model"
            )
        found[name] = np.array(array, dtype=np.float32)
    return found


def _parse_stops(stop: Any, config: ModelConfig) -> Tuple[Tuple[int, ...], ...]:
    ends: List[Tuple[int, ...]] = [(token,) for token in config.end_tokens]
    if stop is None:
        stop = []
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(stop, (list, tuple)):
        raise EngineError(f"stop is {shortened(stop)}: use a string, a list of strings or a list of token ids")
    for item in stop:
        if isinstance(item, str) and item:
            ends.append(tuple(config.encode(item)))
        elif isinstance(item, int) and not isinstance(item, bool):
            ends.append((int(integers([item], "stop", config.vocab)[0]),))
        else:
            raise EngineError(f"stop contains {shortened(item)}: use non-empty strings, or token ids")
    return tuple(ends)


def _log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
