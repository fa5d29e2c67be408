"""A model to sample from: frozen weights, a key-value cache, and the rules for choosing tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np

from ...tokenizers.byte_tokenizer import ByteTokenizer
from . import adapters as lora
from .architecture import BaseModel, ModelConfig
from .errors import EngineError
from .inputs import Prompt, integers, number, prompt, whole
from .network import hidden_states, with_echoes
from .primitives import relu_squared, rms_norm
from .scores import Asked, prompt_scores, tops

#: Completions of one request computed together.
_ROWS = 64
_MAX_SAMPLES = 4096

Model = TypeVar("Model", bound="SamplingModel")


@dataclass(frozen=True)
class SamplingRules:
    """SamplingParams, checked. ``stops`` are token sequences; ``budget`` the most tokens of a completion."""

    budget: int
    seed: Optional[int]
    stops: Tuple[Tuple[int, ...], ...]
    temperature: float
    top_k: int
    top_p: float

    @classmethod
    def checked(
        cls, params: Mapping[str, Any], config: ModelConfig, prompt_length: int, *, literal_stop: bool = False
    ) -> SamplingRules:
        """From a request's ``sampling_params``; missing keys take the wire's defaults, unknown ones are
        ignored. With ``literal_stop`` an empty list of stops is none at all, not even the end of text.

        Raises:
            EngineError: a value is out of range.
        """
        # The last token of a completion is never fed back, so it needs no position of its own.
        room = config.context - prompt_length + 1
        most = params.get("max_tokens")
        top_k = params.get("top_k", -1)
        if top_k != -1:
            top_k = whole(top_k, "top_k", "(-1 switches it off)", low=1)
        top_p = number(params.get("top_p", 1.0), "top_p", 0.0, 1.0)
        if top_p == 0.0:
            raise EngineError("top_p is 0, which leaves no token: use a number above 0 up to 1, or top_k 1")
        seed = params.get("seed")
        return cls(
            budget=room
            if most is None
            else min(room, whole(most, "max_tokens", "or null for all there is room", low=1)),
            seed=None if seed is None else whole(seed, "seed", "or null") & 0xFFFFFFFFFFFFFFFF,
            stops=()
            if literal_stop and params.get("stop") == []
            else _stops(params.get("stop"), config.vocab),
            temperature=number(params.get("temperature", 1.0), "temperature", 0.0),
            top_k=top_k,
            top_p=top_p,
        )


class SamplingModel:
    """Frozen weights to sample from. It has no state, so threads may share it."""

    def __init__(self, base: BaseModel, weights: Mapping[str, Any]) -> None:
        self.base_model = base
        self._weights = weights

    @classmethod
    def base(cls: Type[Model], base_model: str) -> Model:
        """The base model of that name, without adapters.

        Raises:
            EngineError: there is none.
        """
        found = BaseModel.named(base_model)
        return cls(found, found.weights)

    @classmethod
    def from_checkpoint(cls: Type[Model], meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> Model:
        """The model a training or sampler checkpoint holds.

        Raises:
            EngineError: ``meta`` and ``arrays`` do not belong together.
        """
        try:
            base = BaseModel.named(meta["base_model"])
            rank = meta["rank"]
            names = lora.targets(
                base.config, **{k: meta[k] for k in ("train_attn", "train_mlp", "train_unembed")}
            )
        except KeyError as error:
            raise EngineError(
                f"the checkpoint's description lacks {error}: it is damaged, save it again"
            ) from None
        loaded = adapters_from(arrays, "lora", lora.initial(base.config, names, rank, 0))
        return cls(base, lora.merged(base.weights, loaded, names, rank))

    def sample(
        self,
        chunks: Sequence[Any],
        num_samples: int,
        params: Mapping[str, Any],
        *,
        literal_stop: bool = False,
        **asked: Any,
    ) -> Dict[str, Any]:
        """Draw ``num_samples`` completions of one prompt; a SampleResponse as the wire has it.

        A completion ends with the end-of-text token or a stop sequence, which it includes ("stop"), or
        when ``max_tokens`` or the context is used up ("length"). Log probabilities are the model's own:
        temperature, top_k and top_p change what is drawn, not what is reported. With a seed, the same
        request gives the same tokens, and sample number i does not depend on ``num_samples``.

        ``asked`` are the fields of an asample that ask for scores beside, such as ``prompt_logprobs``. Prompt log
        probabilities are None at the first position and at images. ``literal_stop`` as ``SamplingRules.checked``.

        Raises:
            EngineError: the prompt or a parameter is out of range.
        """
        config = self.base_model.config
        start = prompt(self.base_model, chunks, "prompt")
        count = whole(num_samples, "num_samples", "", low=1, high=_MAX_SAMPLES)
        wanted = Asked.checked(asked, config.vocab, start.length)
        rules = SamplingRules.checked(params, config, start.length, literal_stop=literal_stop)
        cache: List[Tuple[Any, Any]] = []
        states = hidden_states(config, self._weights, start.embeddings[None], cache)
        first = _log_softmax(states[-1:] @ self._weights["unembed"])
        sequences: List[Dict[str, Any]] = []
        for low in range(0, count, _ROWS):
            rows = range(low, min(low + _ROWS, count))
            completions = _Completions(self._weights, config, start, cache, rules, rows)
            sequences.extend(completions.run(first, wanted.top_sampled))
        reply: Dict[str, Any] = {"type": "sample", "sequences": sequences}
        if not wanted.whole_prompt:
            return {**reply, "prompt_logprobs": None, "topk_prompt_logprobs": None}
        scores = _log_softmax(states @ self._weights["unembed"])
        return {**reply, **prompt_scores(wanted, start, scores, rules.temperature, rules.seed)}


class _Completions:
    """Completions of one prompt in the making, one per row."""

    def __init__(
        self,
        weights: Mapping[str, Any],
        config: ModelConfig,
        start: Prompt,
        cache: List[Tuple[Any, Any]],
        rules: SamplingRules,
        rows: range,
    ) -> None:
        self._weights, self._config, self._rules = weights, config, rules
        self._filled = start.length
        shape = (len(rows), config.heads, start.length + rules.budget - 1, config.dim // config.heads)
        self._cache = []
        for parts in cache:
            self._cache.append(tuple(np.empty(shape, np.float32) for _ in parts))
            for room, part in zip(self._cache[-1], parts):
                room[:, :, : start.length] = part
        self._penalty = config.slopes()[:, None] * np.arange(1 - shape[2], 1, dtype=np.float32)
        self._recent = np.repeat(start.embeddings[None, -config.echoes - 1 :], len(rows), axis=0)
        self._streams = [
            np.random.default_rng(None if rules.seed is None else [rules.seed, row]) for row in rows
        ]

    def run(self, first: Any, top: int = 0) -> List[Dict[str, Any]]:
        """Draw until every row has ended; ``first`` is the distribution after the prompt, (1, vocab).

        ``top`` likeliest tokens are told at each place.
        """
        rules = self._rules
        tokens: List[List[int]] = [[] for _ in self._streams]
        logprobs: List[List[float]] = [[] for _ in self._streams]
        rivals: List[List[List[List[Any]]]] = [[] for _ in self._streams]
        reasons: List[Optional[str]] = [None for _ in self._streams]
        scores = np.repeat(first, len(tokens), axis=0)
        while True:
            drawn = choose(scores, rules, self._streams)
            best = tops(scores, top) if top else []
            for row, token in enumerate(drawn.tolist()):
                if reasons[row] is not None:
                    continue
                tokens[row].append(token)
                logprobs[row].append(float(scores[row, token]))
                if top:
                    rivals[row].append(best[row])
                if any(tuple(tokens[row][-len(stop) :]) == stop for stop in rules.stops):
                    reasons[row] = "stop"
                elif len(tokens[row]) == rules.budget:
                    reasons[row] = "length"
            if all(reasons):
                break
            scores = self._advance(drawn)
        sequences: List[Dict[str, Any]] = [
            {"stop_reason": reason, "tokens": ids, "logprobs": values}
            for reason, ids, values in zip(reasons, tokens, logprobs)
        ]
        return (
            [{**one, "topk_sampled_logprobs": rows} for one, rows in zip(sequences, rivals)]
            if top
            else sequences
        )

    def _advance(self, drawn: Any) -> Any:
        """Feed one token to every row; log probabilities of the next, (rows, vocab)."""
        config, weights = self._config, self._weights
        rows, now = len(drawn), self._filled
        self._recent = np.concatenate(
            [self._recent[:, -config.echoes :], weights["embed"][drawn][:, None]], axis=1
        )
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
            x = (
                x
                + relu_squared(rms_norm(x) @ weights[f"layers.{layer}.up"]) @ weights[f"layers.{layer}.down"]
            )
        self._filled += 1
        return _log_softmax(rms_norm(x) @ weights["unembed"])


def choose(scores: Any, rules: SamplingRules, streams: Sequence[np.random.Generator]) -> Any:
    """One token per row of ``scores`` (rows, vocab), log probabilities; row i draws from ``streams[i]``.

    Temperature first, then ``top_k``, then ``top_p``: the fewest most likely tokens whose probabilities reach
    it (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751). Temperature 0 takes the most likely
    token, the lowest id among equals.
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
    heights = np.cumsum(likely, axis=1)
    draws = np.array([stream.random() for stream in streams])[:, None] * heights[:, -1:]
    picked = (heights <= draws).sum(axis=1)
    return order[np.arange(len(order)), picked]


def adapters_from(arrays: Mapping[str, Any], group: str, like: Mapping[str, Any]) -> Dict[str, Any]:
    """Copies of a checkpoint's arrays of one group: float32, named and shaped as ``like``.

    Raises:
        EngineError: one is missing or has another shape.
    """
    found: Dict[str, Any] = {}
    for name, expected in like.items():
        array = arrays.get(f"{group}.{name}")
        if array is None:
            what = "adapter" if group == "lora" else "optimizer state"
            raise EngineError(f"the checkpoint has no {what} {group}.{name}: load one that was saved with it")
        if np.shape(array) != expected.shape:
            raise EngineError(
                f"the checkpoint's {group}.{name} is {np.shape(array)}, this model's {expected.shape}"
            )
        found[name] = np.array(array, dtype=np.float32)
    return found


def _stops(stop: Any, vocab: int) -> Tuple[Tuple[int, ...], ...]:
    ends: List[Tuple[int, ...]] = [(ByteTokenizer.eos_token_id,)]
    if stop is None:
        stop = []
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(stop, (list, tuple)):
        raise EngineError(f"stop is {stop!r:.80}: use a string, a list of strings or a list of token ids")
    for item in stop:
        if isinstance(item, str) and item:
            ends.append(tuple(ByteTokenizer().encode(item)))
        elif isinstance(item, int) and not isinstance(item, bool):
            ends.append((int(integers([item], "stop", vocab)[0]),))
        else:
            raise EngineError(f"stop holds {item!r:.80}: use non-empty strings, or token ids")
    return tuple(ends)


def _log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
