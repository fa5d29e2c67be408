"""Sampling: parameters, the request, what comes back."""

from dataclasses import dataclass, field
from typing import Any, List, Literal, Optional, Sequence, Tuple, Union

from .inputs import ModelInput
from .scalars import FieldError, integer, ints, number, optional_floats, shown, text
from .tensors import TensorData
from .wire import UNSENT, Wire, coded

__all__ = [
    "PromptAltTokens",
    "SampleRequest",
    "SampleResponse",
    "SampledSequence",
    "SamplingParams",
    "StopReason",
]

StopReason = Literal["length", "stop"]


def _stop(value: Any) -> Any:
    if value is None:
        return None
    try:
        if isinstance(value, (str, bytes)):
            return text(value)
        if isinstance(value, (list, tuple)) and all(isinstance(item, (str, bytes)) for item in value):
            return list(map(text, value))
        return ints(value)
    except FieldError:
        raise FieldError(
            f"must be a string, a list of strings or a list of token ids, not {shown(value)}"
        ) from None


@dataclass(frozen=True, repr=False)
class SamplingParams(Wire):
    """How to draw tokens. Fields with a value are sent; None stays out and leaves it to the server."""

    max_tokens: Optional[int] = None
    seed: Optional[int] = None
    #: Where to stop: a string, several, or token ids.
    stop: Union[str, Sequence[str], Sequence[int], None] = field(default=None, metadata=coded(_stop))
    temperature: float = 1.0
    #: Draw from the k likeliest tokens; -1 for all.
    top_k: int = -1
    #: Draw from the likeliest tokens that make up this much probability.
    top_p: float = 1.0


@dataclass(frozen=True, repr=False)
class SampleRequest(Wire):
    """``POST /api/v1/asample``."""

    prompt: ModelInput
    sampling_params: SamplingParams
    num_samples: int = 1
    base_model: Optional[str] = None
    model_path: Optional[str] = None
    sampling_session_id: Optional[str] = None
    seq_id: Optional[int] = None
    prompt_logprobs: Optional[bool] = None
    #: Likeliest tokens to report per prompt position; 0 for none.
    topk_prompt_logprobs: int = 0
    type: str = field(default="sample", metadata=UNSENT)

    _wire_order = ("num_samples",)


def _topk(values: Any) -> Optional[List[Optional[List[Tuple[int, float]]]]]:
    if values is None:
        return None
    if not isinstance(values, (list, tuple)):
        raise FieldError(f"must be a list with one entry per prompt token, not {shown(values)}")
    return [None if pairs is None else _pairs(index, pairs) for index, pairs in enumerate(values)]


def _pairs(index: int, pairs: Any) -> List[Tuple[int, float]]:
    try:
        if isinstance(pairs, (list, tuple)):
            return [(integer(token), number(logprob)) for token, logprob in pairs]
    except (TypeError, ValueError):
        pass
    raise FieldError(f"must be a list of [token, logprob] pairs, not {shown(pairs)}").inside(f"[{index}]")


@dataclass(frozen=True, repr=False)
class SampledSequence(Wire):
    """One completion. ``logprobs`` are natural logarithms, one per token; None if the server sends none."""

    stop_reason: StopReason
    tokens: List[int]
    logprobs: Optional[List[float]] = None
    #: (token, logprob) of the likeliest tokens at each position; None unless asked for.
    topk_sampled_logprobs: Optional[List[Optional[List[Tuple[int, float]]]]] = field(
        default=None, metadata=coded(_topk)
    )
    #: What the server calls this sequence, if it says.
    sequence_id: Optional[str] = None


@dataclass(frozen=True, repr=False)
class PromptAltTokens(Wire):
    """Alternatives to the prompt's tokens and their logprobs: matrices of [positions, alternatives]."""

    tokens: TensorData
    logprobs: TensorData


@dataclass(frozen=True, repr=False)
class SampleResponse(Wire):
    """Result of a sample: completions, and logprobs of the prompt where they were asked for.

    ``prompt_logprobs`` has one entry per prompt token as the server counts them, None where there is nothing
    to predict from. ``topk_prompt_logprobs`` has a list of (token, logprob) per prompt token.
    """

    sequences: List[SampledSequence]
    type: str = "sample"
    prompt_logprobs: Optional[List[Optional[float]]] = field(
        default=None, metadata=coded(lambda values: None if values is None else optional_floats(values))
    )
    topk_prompt_logprobs: Optional[List[Optional[List[Tuple[int, float]]]]] = field(
        default=None, metadata=coded(_topk)
    )
    #: Logprobs of the target tokens given with the request, of their shape.
    target_prompt_logprobs: Optional[TensorData] = None
    prompt_alt_tokens: Optional[PromptAltTokens] = None
    #: Prompt tokens that the server had computed already; None if it does not say.
    prompt_cache_hit_tokens: Optional[int] = None
