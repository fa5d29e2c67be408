"""Sampling: parameters, request and response."""

from dataclasses import field
from typing import TYPE_CHECKING, Any, List, Literal, Optional, Sequence, Tuple, Union

from .array_views import TopkLogprobs, logprobs_array, tokens_array, topk_arrays
from .decoders import FieldError, ints, shorten, text
from .inputs import ModelInput
from .tensors import TensorData
from .wire import NOT_SENT, FastWire, coding, since

if TYPE_CHECKING:
    import numpy

__all__ = ["PromptAltTokens", "SampleRequest", "SampleResponse", "SampledSequence", "SamplingParams", "StopReason"]

StopReason = Literal["length", "stop"]


def _stop(value: Any) -> Any:
    try:
        if isinstance(value, (str, bytes)):
            return text(value)
        if isinstance(value, (list, tuple)) and all(isinstance(item, (str, bytes)) for item in value):
            return list(map(text, value))
        return ints(value)
    except FieldError:
        raise FieldError(f"must be a string, a list of strings or a list of token ids, not {shorten(value)}") from None


class SamplingParams(FastWire):
    """How tokens are sampled. A field that is None is not sent, and the server applies its default."""

    max_tokens: Optional[int] = None
    seed: Optional[int] = None
    #: Sampling stops after a string, one of several strings, or one of several token ids.
    stop: Union[str, Sequence[str], Sequence[int], None] = field(default=None, metadata=coding(_stop))
    temperature: float = 1.0
    #: Sample among the k most probable tokens; -1 for all tokens.
    top_k: int = -1
    #: Sample among the most probable tokens whose probabilities add up to this value.
    top_p: float = 1.0


class SampleRequest(FastWire):
    """Body of ``POST /api/v1/asample``. The sampler is a sampling session, a base model or saved weights."""

    prompt: ModelInput
    sampling_params: SamplingParams
    num_samples: int = 1
    base_model: Optional[str] = None
    model_path: Optional[str] = None
    sampling_session_id: Optional[str] = None
    seq_id: Optional[int] = None
    prompt_logprobs: Optional[bool] = None
    #: Number of most probable tokens to return per prompt position.
    topk_prompt_logprobs: int = 0
    #: Number of most probable tokens to return per sampled position.
    topk_sample_logprobs: Optional[int] = field(default=None, metadata=since("0.38.0"))
    #: Token ids of shape [prompt tokens - 1, K] whose log probabilities are returned.
    target_prompt_logprobs: Optional[TensorData] = field(default=None, metadata=since("0.38.0"))
    #: Number of alternative tokens to return per prompt position.
    prompt_alt_tokens_k: Optional[int] = field(default=None, metadata=since("0.38.0"))
    #: Return log probabilities for this many tokens at the end of the prompt only.
    prompt_logprobs_last_n: Optional[int] = field(default=None, metadata=since("0.38.0"))
    #: True if the server shall record data about numerical stability.
    record_stability_info: Optional[bool] = field(default=None, metadata=since("0.38.0"))
    type: str = field(default="sample", metadata=NOT_SENT)

    wire_order = ("num_samples",)


class SampledSequence(FastWire):
    """One completion. ``logprobs`` has one natural logarithm per token; None if the server sends none."""

    stop_reason: StopReason
    tokens: List[int]
    logprobs: Optional[List[float]] = None
    #: (token, logprob) of the most probable tokens at each position; None unless requested.
    topk_sampled_logprobs: Optional[List[Optional[List[Tuple[int, float]]]]] = None
    #: The server's id of this completion; None if it sends none.
    sequence_id: Optional[str] = None

    @property
    def tokens_np(self) -> "numpy.ndarray[Any, Any]":
        """The tokens as a new int32 array."""
        return tokens_array(self.tokens)

    @property
    def logprobs_np(self) -> "Optional[numpy.ndarray[Any, Any]]":
        """The log probabilities as a new float32 array; None if the server sends none."""
        return logprobs_array(self.logprobs)

    @property
    def topk_logprobs(self) -> Optional[List[Optional[List[Tuple[int, float]]]]]:
        """The same as ``topk_sampled_logprobs``."""
        return self.topk_sampled_logprobs

    @property
    def topk_logprobs_np(self) -> Optional[TopkLogprobs]:
        """``topk_sampled_logprobs`` as new arrays; None unless requested."""
        return topk_arrays(self.topk_sampled_logprobs)


class PromptAltTokens(FastWire):
    """Alternatives to the prompt's tokens and their log probabilities, of shape [positions, alternatives]."""

    tokens: TensorData
    logprobs: TensorData


class SampleResponse(FastWire):
    """The result of a sample: completions, and log probabilities of the prompt if they were requested.

    ``prompt_logprobs`` has one entry per prompt token, as the server counts them. The first entry is None, because no
    token precedes it. ``topk_prompt_logprobs`` has a list of (token, logprob) per prompt token.
    """

    sequences: List[SampledSequence]
    type: str = "sample"
    prompt_logprobs: Optional[List[Optional[float]]] = None
    topk_prompt_logprobs: Optional[List[Optional[List[Tuple[int, float]]]]] = None
    #: Log probabilities of the request's target tokens, of the same shape.
    target_prompt_logprobs: Optional[TensorData] = None
    prompt_alt_tokens: Optional[PromptAltTokens] = None
    #: Number of prompt tokens that the server had in its cache; None if it does not send it.
    prompt_cache_hit_tokens: Optional[int] = None

    @property
    def prompt_logprobs_np(self) -> "Optional[numpy.ndarray[Any, Any]]":
        """``prompt_logprobs`` as a new float32 array with NaN for None; None unless requested."""
        return logprobs_array(self.prompt_logprobs)

    @property
    def topk_prompt_logprobs_np(self) -> Optional[TopkLogprobs]:
        """``topk_prompt_logprobs`` as new arrays; None unless requested."""
        return topk_arrays(self.topk_prompt_logprobs)
