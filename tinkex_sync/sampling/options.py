"""The options of a sample: they are checked before it is sent, and the response is checked against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from .. import types
from ..errors import TinkexError
from ..types.tensors import is_array
from ..validation import check_count

__all__ = ["OptionIgnoredError", "SampleOptions", "sample_request"]


class OptionIgnoredError(TinkexError, RuntimeError):
    """The server ignored an option of a sample, because its version does not support it.

    Attributes:
        reply: The response that was returned, a :class:`~tinkex_sync.types.SampleResponse`.
    """

    reply: Optional[types.SampleResponse] = None


@dataclass(frozen=True)
class SampleOptions:
    """Options of protocol 0.38.0. Only those that are set are sent. Immutable."""

    topk_sample_logprobs: int = 0
    target_prompt_logprobs: Any = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: Optional[int] = None

    def validate(self, prompt: types.ModelInput, include_prompt_logprobs: bool) -> None:
        """Raise ValueError or TypeError if an option is invalid, or does not fit the prompt."""
        for name in ("topk_sample_logprobs", "prompt_alt_tokens_k"):
            check_count(name, getattr(self, name))
        if self.target_prompt_logprobs is not None:
            self.targets(prompt)
        self._validate_last_n(prompt, include_prompt_logprobs)

    def targets(self, prompt: types.ModelInput) -> Optional[types.TensorData]:
        """Return the target tokens as a tensor of shape [prompt tokens - 1, K]; None if there are none."""
        given = self.target_prompt_logprobs
        return None if given is None else _targets(given, _length(prompt))

    def _validate_last_n(self, prompt: types.ModelInput, include_prompt_logprobs: bool) -> None:
        last_n, length = self.prompt_logprobs_last_n, _length(prompt)
        if last_n is None:
            return
        if not include_prompt_logprobs:
            raise ValueError(
                f"prompt_logprobs_last_n={last_n!r} limits log probabilities of the prompt, which were not requested:"
                " set include_prompt_logprobs=True"
            )
        whole = isinstance(last_n, int) and not isinstance(last_n, bool)
        if not whole or last_n < 1 or (length is not None and last_n >= length):
            most = "one less than the prompt's tokens" if length is None else str(length - 1)
            raise ValueError(
                f"prompt_logprobs_last_n must be a whole number from 1 to {most}, not {last_n!r}"
            )

    def check_response(self, reply: types.SampleResponse) -> types.SampleResponse:
        """Return ``reply`` if the server applied the options.

        Raises:
            OptionIgnoredError: The server ignored an option.
        """
        ignored = None
        if self.prompt_alt_tokens_k and reply.prompt_alt_tokens is None:
            ignored = (
                f"prompt_alt_tokens_k={self.prompt_alt_tokens_k}: the response has no alternative tokens"
            )
        elif self.prompt_logprobs_last_n is not None and any(
            value is not None for value in (reply.prompt_logprobs or [])[: -self.prompt_logprobs_last_n]
        ):
            ignored = f"prompt_logprobs_last_n={self.prompt_logprobs_last_n}: earlier tokens have values too"
        if ignored is None:
            return reply
        error = OptionIgnoredError(
            f"the server ignored {ignored}. Its version does not support this option: leave it out"
        )
        error.reply = reply
        raise error


def sample_request(
    sampling_session_id: str,
    prompt: types.ModelInput,
    num_samples: int,
    sampling_params: types.SamplingParams,
    include_prompt_logprobs: bool,
    topk_prompt_logprobs: int,
    options: SampleOptions,
) -> types.SampleRequest:
    """Return the body of ``POST /api/v1/asample`` without its sequence number.

    Raises:
        ValueError, TypeError: An argument is invalid.
    """
    if not isinstance(prompt, types.ModelInput):
        raise TypeError(
            f"prompt must be a ModelInput, not {type(prompt).__name__}: use ModelInput.from_ints(tokens)"
        )
    if not isinstance(sampling_params, types.SamplingParams):
        raise TypeError(f"sampling_params must be SamplingParams, not {type(sampling_params).__name__}")
    check_count("num_samples", num_samples, least=1)
    check_count("topk_prompt_logprobs", topk_prompt_logprobs)
    if not prompt.chunks:
        raise ValueError("the prompt is empty: give it at least one token")
    options.validate(prompt, include_prompt_logprobs)
    return types.SampleRequest(
        prompt=prompt,
        sampling_params=sampling_params,
        num_samples=num_samples,
        sampling_session_id=sampling_session_id,
        prompt_logprobs=bool(include_prompt_logprobs),
        topk_prompt_logprobs=topk_prompt_logprobs,
        topk_sample_logprobs=options.topk_sample_logprobs or None,
        target_prompt_logprobs=options.targets(prompt),
        prompt_alt_tokens_k=options.prompt_alt_tokens_k or None,
        prompt_logprobs_last_n=options.prompt_logprobs_last_n,
    )


def _length(prompt: types.ModelInput) -> Optional[int]:
    """Return the number of tokens of the prompt; None if an image has no ``expected_tokens``."""
    try:
        return prompt.length
    except ValueError:
        return None


def _targets(given: Any, length: Optional[int]) -> types.TensorData:
    targets = types.TensorData.from_numpy(given) if is_array(given) else given
    if not isinstance(targets, types.TensorData):
        raise TypeError(
            f"target_prompt_logprobs must be TensorData or a numpy array, not {type(given).__name__}"
        )
    if targets.dtype != "int64":
        raise ValueError(
            f"target_prompt_logprobs holds token ids: its dtype must be int64, not {targets.dtype}"
        )
    shape = targets.shape
    if shape is None or len(shape) != 2 or (length is not None and shape[0] != length - 1):
        rows = "one row per prompt token" if length is None else f"{length - 1} rows: one per prompt token"
        raise ValueError(
            f"target_prompt_logprobs must have {rows} but the first, and K columns, not shape {shape}"
        )
    return targets
