"""Rules of other servers of the Tinker API that the embedded server can apply.

The rules are those observed in TuFT 0.1.5 and in SkyRL a956457. A test with these rules covers only these differences,
not the whole behaviour of the servers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Mapping, Optional, Tuple

from .json_bodies import Body, RejectedRequest

__all__ = ["LIKE", "Strictness", "strictness_of"]


@dataclass(frozen=True)
class Strictness:
    """The rules of a server. Each field is a difference from the embedded server."""

    #: The operations of a model must have the numbers 1, 2, 3, ... A gap or a repetition gets 409.
    requires_consecutive_numbers: bool = False
    #: Idempotency keys have no effect.
    ignores_idempotency_keys: bool = False
    #: A checkpoint is not replaced, even if the request contains ``overwrite``.
    ignores_overwrite: bool = False
    #: Results of training operations have no metrics.
    omits_metrics: bool = False
    #: Log probabilities of a prompt have no entry for its first token.
    omits_first_prompt_logprob: bool = False
    #: A sample must contain ``max_tokens``.
    requires_max_tokens: bool = False
    #: Samples with ``topk_prompt_logprobs`` get 400.
    rejects_top_prompt_logprobs: bool = False
    #: Loss functions that get 422.
    missing_losses: FrozenSet[str] = frozenset()
    #: Regular expressions of the paths that get 404.
    missing_paths: Tuple[str, ...] = ()

    def lacks(self, path: str) -> bool:
        """Return whether there is no endpoint of a path."""
        return any(re.fullmatch(pattern, path) for pattern in self.missing_paths)

    def check_loss(self, fields: Body, loss_fn: str) -> None:
        """Check the loss function of a request.

        Raises:
            RejectedRequest: 422, the server does not have it.
        """
        if loss_fn in self.missing_losses:
            raise fields.field_error("loss_fn", f"{loss_fn!r} is not supported")

    def check_sample(self, body: Body) -> None:
        """Check an asample.

        Raises:
            RejectedRequest: 400, it contains a field that the server does not support, or lacks one.
        """
        if self.requires_max_tokens and body.optional_inner("sampling_params").raw.get("max_tokens") is None:
            raise RejectedRequest(400, "sampling_params.max_tokens is required")
        if self.rejects_top_prompt_logprobs and body.raw.get("topk_prompt_logprobs"):
            raise RejectedRequest(400, "topk_prompt_logprobs is not supported")

    def training_result(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the result of a training operation as the server returns it."""
        return {**result, "metrics": {}} if self.omits_metrics else result

    def sample_result(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the result of a sample as the server returns it."""
        logprobs = result["prompt_logprobs"]
        if not self.omits_first_prompt_logprob or logprobs is None:
            return result
        return {**result, "prompt_logprobs": logprobs[1:]}


#: The servers whose rules can be applied.
LIKE: Dict[str, Strictness] = {
    "tuft": Strictness(requires_consecutive_numbers=True, ignores_idempotency_keys=True),
    "skyrl": Strictness(
        ignores_overwrite=True,
        omits_metrics=True,
        omits_first_prompt_logprob=True,
        requires_max_tokens=True,
        rejects_top_prompt_logprobs=True,
        missing_losses=frozenset({"dro"}),
        missing_paths=(
            r"/api/v1/(checkpoints|sessions)(/.*)?",
            r"/api/v1/training_runs/[^/]+/checkpoints/.*/publish",
            r"/api/v1/training_runs/[^/]+/checkpoints/weights/[^/]+/archive",
        ),
    ),
}


def strictness_of(like: Optional[str]) -> Strictness:
    """Return the rules of a server. None: those of the embedded server.

    Raises:
        ValueError: There are no rules of this name.
    """
    if like is None:
        return Strictness()
    if like not in LIKE:
        raise ValueError(f"like must be one of {', '.join(LIKE)}, or None, not {like!r}")
    return LIKE[like]
