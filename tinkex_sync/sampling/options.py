"""What a sample may ask for beside its tokens: checked before it is sent, and the answer against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

from .. import types
from ..clients.arguments import asked
from ..errors import TinkexError
from ..types.tensors import is_array

__all__ = ["OptionIgnoredError", "SampleOptions", "sample_body"]


class OptionIgnoredError(TinkexError, RuntimeError):
    """The server drew the sample and did not heed an option, which it is too old to know.

    Attributes:
        reply: What came all the same, a :class:`~tinkex_sync.types.SampleResponse`.
    """

    reply: Optional[types.SampleResponse] = None


@dataclass(frozen=True)
class SampleOptions:
    """Options of the protocol after 0.7.0; only those that are set are sent."""

    topk_sample_logprobs: int = 0
    target_prompt_logprobs: Any = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: Optional[int] = None

    def wire(self, prompt: types.ModelInput, include_prompt_logprobs: bool) -> Dict[str, Any]:
        """The keys to send.

        Raises:
            ValueError: an option is wrong, or does not fit the prompt.
        """
        for name in ("topk_sample_logprobs", "prompt_alt_tokens_k"):
            count(name, getattr(self, name))
        targets = self.target_prompt_logprobs
        return asked(
            topk_sample_logprobs=self.topk_sample_logprobs or None,
            target_prompt_logprobs=None if targets is None else _targets(targets, _length(prompt)).to_wire(),
            prompt_alt_tokens_k=self.prompt_alt_tokens_k or None,
            prompt_logprobs_last_n=self._last_n(prompt, include_prompt_logprobs),
        )

    def _last_n(self, prompt: types.ModelInput, include_prompt_logprobs: bool) -> Optional[int]:
        last_n, length = self.prompt_logprobs_last_n, _length(prompt)
        if last_n is None:
            return None
        if not include_prompt_logprobs:
            raise ValueError(
                f"prompt_logprobs_last_n={last_n!r} limits log probabilities of the prompt, which were not asked"
                " for: set include_prompt_logprobs=True"
            )
        whole = isinstance(last_n, int) and not isinstance(last_n, bool)
        if not whole or last_n < 1 or (length is not None and last_n >= length):
            most = "one less than the prompt's tokens" if length is None else str(length - 1)
            raise ValueError(
                f"prompt_logprobs_last_n must be a whole number from 1 to {most}, not {last_n!r}"
            )
        return last_n

    def check(self, reply: types.SampleResponse) -> types.SampleResponse:
        """``reply``, if it heeds what was asked for and cannot be told from a refusal otherwise.

        Raises:
            OptionIgnoredError: it does not.
        """
        ignored = None
        if self.prompt_alt_tokens_k and reply.prompt_alt_tokens is None:
            ignored = f"prompt_alt_tokens_k={self.prompt_alt_tokens_k}: no alternative tokens came"
        elif self.prompt_logprobs_last_n is not None and any(
            value is not None for value in (reply.prompt_logprobs or [])[: -self.prompt_logprobs_last_n]
        ):
            ignored = f"prompt_logprobs_last_n={self.prompt_logprobs_last_n}: earlier tokens have values too"
        if ignored is None:
            return reply
        error = OptionIgnoredError(
            f"the server did not heed {ignored}. It is too old for this option: leave it out"
        )
        error.reply = reply
        raise error


def sample_body(
    sampling_session_id: str,
    prompt: types.ModelInput,
    num_samples: int,
    sampling_params: types.SamplingParams,
    include_prompt_logprobs: bool,
    topk_prompt_logprobs: int,
    options: SampleOptions,
) -> Dict[str, Any]:
    """``POST /api/v1/asample`` without its number.

    Raises:
        ValueError, TypeError: an argument is wrong.
    """
    if not isinstance(prompt, types.ModelInput):
        raise TypeError(
            f"prompt must be a ModelInput, not {type(prompt).__name__}: use ModelInput.from_ints(tokens)"
        )
    if not isinstance(sampling_params, types.SamplingParams):
        raise TypeError(f"sampling_params must be SamplingParams, not {type(sampling_params).__name__}")
    if not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"num_samples must be a whole number of at least 1, not {num_samples!r}")
    count("topk_prompt_logprobs", topk_prompt_logprobs)
    if not prompt.chunks:
        raise ValueError("the prompt is empty: give it at least one token")
    return {
        "num_samples": num_samples,
        "prompt": prompt.to_wire(),
        "sampling_params": sampling_params.to_wire(),
        "sampling_session_id": sampling_session_id,
        "prompt_logprobs": bool(include_prompt_logprobs),
        "topk_prompt_logprobs": topk_prompt_logprobs,
        **options.wire(prompt, include_prompt_logprobs),
    }


def count(name: str, value: Any) -> None:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, not {value!r}")


def _length(prompt: types.ModelInput) -> Optional[int]:
    """Tokens of the prompt; None where an image does not say."""
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
        raise ValueError(f"target_prompt_logprobs must have {rows} but the first, and K columns; not {shape}")
    return targets
