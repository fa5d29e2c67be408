"""Fields of request bodies that level 0.7.0 does not have."""

from __future__ import annotations

from typing import Any, Dict, Optional

from .bodies import Body, Refusal
from .store import now

__all__ = ["kept_until", "labels", "only_adam", "scores_asked"]

#: Seconds for which a save may be asked to be kept: an hour to ten years.
LEAST_LIFE, MOST_LIFE = 3600, 10 * 365 * 24 * 3600


def kept_until(body: Body) -> Optional[str]:
    """When a save with the ``ttl_seconds`` of ``body`` ends; None: never."""
    seconds = body.optional_integer("ttl_seconds")
    if seconds is None:
        return None
    if not LEAST_LIFE <= seconds <= MOST_LIFE:
        raise body.bad("ttl_seconds", f"must be from {LEAST_LIFE} to {MOST_LIFE}, not {seconds}")
    return now(seconds)


def labels(body: Body) -> Dict[str, Any]:
    """The ``user_metadata`` of ``body``, if it has any."""
    given = body.optional_inner("user_metadata").raw
    if not all(isinstance(value, str) for value in given.values()):
        raise body.bad("user_metadata", f"must be texts by name, not {given!r:.80}")
    return {"user_metadata": given} if given else {}


def only_adam(optimizer: Body) -> None:
    """Raises: Refusal: 400, ``optimizer`` is of another kind."""
    kind = optimizer.optional_text("type")
    if kind not in (None, "adamw"):
        raise Refusal(400, f"optimizer {kind!r}: this server has AdamW only; use adam_params")


def scores_asked(body: Body) -> Dict[str, Any]:
    """What an asample asks for beside samples; ``record_stability_info`` is taken, and nothing comes of it."""
    body.flag("record_stability_info", False)
    targets = body.optional_inner("target_prompt_logprobs").raw
    return {
        "topk_sample_logprobs": body.optional_integer("topk_sample_logprobs") or 0,
        "prompt_alt_tokens_k": body.optional_integer("prompt_alt_tokens_k") or 0,
        "prompt_logprobs_last_n": body.optional_integer("prompt_logprobs_last_n"),
        "target_prompt_logprobs": targets or None,
    }
