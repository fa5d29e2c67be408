"""Options of a sample: validated before it is sent, and checked against the response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from .. import types
from ..errors import TinkexError
from ..types.tensors import is_array
from ..validation import check_count


class OptionIgnoredError(TinkexError, RuntimeError):
    """The server returned a sample, but it does not support one of the options and ignored it.

    Attributes:
        response: The response, a :class:`~tinkex_sync.types.SampleResponse`.
    """

    response: Optional[types.SampleResponse] = None


@dataclass(frozen=True)
class SampleOptions:
    """The optional arguments of ``SamplingClient.sample``. Immutable.

    The options after ``topk_prompt_logprobs`` exist since protocol 0.38.0 and are sent only if they are set.
    """

    include_prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: Any = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: Optional[int] = None

    def check_response(self, response: types.SampleResponse) -> types.SampleResponse:
        """Return ``response`` unless it shows that the server ignored an option.

        Raises:
            OptionIgnoredError: The response lacks an option's result, or has results that the option excludes.
        """
        last_n = self.prompt_logprobs_last_n
        if self.prompt_alt_tokens_k and response.prompt_alt_tokens is None:
            ignored = f"prompt_alt_tokens_k={self.prompt_alt_tokens_k}: it returned no alternative tokens"
        elif last_n is not None and any(value is not None for value in (response.prompt_logprobs or [])[:-last_n]):
            ignored = f"prompt_logprobs_last_n={last_n}: it returned values for earlier tokens too"
        else:
            return response
        error = OptionIgnoredError(f"the server ignored {ignored}. It is too old for this option: omit it")
        error.response = response
        raise error


def make_sample_request(
    sampling_session_id: str,
    prompt: types.ModelInput,
    num_samples: int,
    sampling_params: types.SamplingParams,
    options: SampleOptions,
    record_stability_info: bool = False,
) -> types.SampleRequest:
    """Validate the arguments of a sample and return its request without a ``seq_id``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or an option does not fit the prompt.
    """
    if not isinstance(prompt, types.ModelInput):
        raise TypeError(f"prompt must be a ModelInput, not {type(prompt).__name__}: use ModelInput.from_ints(tokens)")
    if not isinstance(sampling_params, types.SamplingParams):
        raise TypeError(f"sampling_params must be SamplingParams, not {type(sampling_params).__name__}")
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
        check_count(name, getattr(options, name))
    if not prompt.chunks:
        raise ValueError("the prompt is empty: pass at least one token")
    return types.SampleRequest(
        num_samples=check_count("num_samples", num_samples, least=1),
        prompt=prompt,
        sampling_params=sampling_params,
        sampling_session_id=sampling_session_id,
        prompt_logprobs=bool(options.include_prompt_logprobs),
        topk_prompt_logprobs=options.topk_prompt_logprobs,
        topk_sample_logprobs=options.topk_sample_logprobs or None,
        target_prompt_logprobs=_check_targets(options.target_prompt_logprobs, _length(prompt)),
        prompt_alt_tokens_k=options.prompt_alt_tokens_k or None,
        prompt_logprobs_last_n=_check_last_n(options, _length(prompt)),
        record_stability_info=record_stability_info or None,
    )


def _length(prompt: types.ModelInput) -> Optional[int]:
    """Return the number of the prompt's tokens; None if an image has no expected number of tokens."""
    try:
        return prompt.length
    except ValueError:
        return None


def _check_last_n(options: SampleOptions, length: Optional[int]) -> Optional[int]:
    last_n = options.prompt_logprobs_last_n
    if last_n is None:
        return None
    if not options.include_prompt_logprobs:
        raise ValueError(
            f"prompt_logprobs_last_n={last_n!r} limits log probabilities of the prompt, which were not requested:"
            " set include_prompt_logprobs=True"
        )
    is_whole = isinstance(last_n, int) and not isinstance(last_n, bool)
    if is_whole and last_n >= 1 and (length is None or last_n < length):
        return last_n
    most = "one less than the prompt's tokens" if length is None else str(length - 1)
    raise ValueError(f"prompt_logprobs_last_n must be a whole number from 1 to {most}, not {last_n!r}")


def _check_targets(given: Any, length: Optional[int]) -> Optional[types.TensorData]:
    """Return the target tokens as a tensor of shape [prompt tokens - 1, K]; None for None."""
    if given is None:
        return None
    targets = types.TensorData.from_numpy(given) if is_array(given) else given
    if not isinstance(targets, types.TensorData):
        raise TypeError(f"target_prompt_logprobs must be TensorData or a numpy array, not {type(given).__name__}")
    if targets.dtype != "int64":
        raise ValueError(f"target_prompt_logprobs contains token ids: its dtype must be int64, not {targets.dtype}")
    shape = targets.shape
    if shape is None or len(shape) != 2 or (length is not None and shape[0] != length - 1):
        rows = "one row per prompt token" if length is None else f"{length - 1} rows: one per prompt token"
        raise ValueError(
            f"target_prompt_logprobs must have {rows} except the first, and K columns; its shape is {shape}"
        )
    return targets
