"""Fields of request bodies that protocol 0.38.0 added."""

from __future__ import annotations

from typing import Any, Dict, Optional

from .json_bodies import Body, RejectedRequest
from .shortened import shortened
from .store import timestamp

__all__ = ["check_optimizer_type", "parse_expiry", "parse_labels", "parse_score_options"]

#: The range of ``ttl_seconds``: an hour to ten years.
MIN_TTL_SECONDS, MAX_TTL_SECONDS = 3600, 10 * 365 * 24 * 3600


def parse_expiry(body: Body) -> Optional[str]:
    """Return the time at which a checkpoint with the ``ttl_seconds`` of ``body`` expires. None: never."""
    seconds = body.optional_integer("ttl_seconds")
    if seconds is None:
        return None
    if not MIN_TTL_SECONDS <= seconds <= MAX_TTL_SECONDS:
        raise body.field_error("ttl_seconds", f"must be from {MIN_TTL_SECONDS} to {MAX_TTL_SECONDS}, not {seconds}")
    return timestamp(seconds)


def parse_labels(body: Body) -> Dict[str, Any]:
    """Return the ``user_metadata`` of ``body`` as a dict of one key, or an empty dict if there is none."""
    labels = body.optional_inner("user_metadata").raw
    if not all(isinstance(value, str) for value in labels.values()):
        raise body.field_error("user_metadata", f"must map names to strings, not {shortened(labels)}")
    return {"user_metadata": labels} if labels else {}


def check_optimizer_type(optimizer: Body) -> None:
    """Check that an optimizer is AdamW.

    Raises:
        RejectedRequest: 400, the optimizer has another type.
    """
    kind = optimizer.optional_text("type")
    if kind not in (None, "adamw"):
        raise RejectedRequest(400, f"optimizer {kind!r} is not supported: this server has AdamW only; use adam_params")


def parse_score_options(body: Body) -> Dict[str, Any]:
    """Return the fields of an asample that request scores. ``record_stability_info`` is accepted and ignored."""
    body.flag("record_stability_info", False)
    targets = body.optional_inner("target_prompt_logprobs").raw
    return {
        "topk_sample_logprobs": body.optional_integer("topk_sample_logprobs") or 0,
        "prompt_alt_tokens_k": body.optional_integer("prompt_alt_tokens_k") or 0,
        "prompt_logprobs_last_n": body.optional_integer("prompt_logprobs_last_n"),
        "target_prompt_logprobs": targets or None,
    }
